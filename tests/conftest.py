"""Real registries for tests: sqlite in a temporary folder, and one MLflow server for all tests that want one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; the workers share the cores
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import pytest
from filelock import FileLock

SERVER_START_SECONDS = 120


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of the shared server go to one xdist worker, so that only one server is started."""
    for item in items:
        if "mlflow_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("mlflow_server"))


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database with all its tables, made once for all workers: migrations take seconds."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "migrated"
    folder.mkdir(exist_ok=True)
    database, done = folder / "mlflow.db", folder / "done"
    with FileLock(folder / "lock"):
        if not done.exists():
            code = f"import mlflow; mlflow.MlflowClient('sqlite:///{database}').search_experiments()"
            subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, capture_output=True, timeout=240)
            done.touch()
    return database


def new_database(migrated: Path, target: Path, default_artifacts: str) -> str:
    """Copies the empty database; returns its URI. `default_artifacts`: where the experiment Default keeps artifacts."""
    shutil.copyfile(migrated, target)
    with closing(sqlite3.connect(target)) as database:
        database.execute("UPDATE experiments SET artifact_location = ?", (default_artifacts,))
        database.commit()
    return f"sqlite:///{target}"


@contextmanager
def mlflow_at(uri: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """MLflow and repairops pointed at a registry; afterwards MLflow's global state is as it was."""
    import mlflow
    import mlflow.tracking.fluent

    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_REGISTRY_URI"):
        monkeypatch.setenv(name, "")  # so that monkeypatch removes what MLflow itself sets meanwhile
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("REPAIROPS_HOME", str(home))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    mlflow.set_tracking_uri(uri)
    try:
        yield uri
    finally:
        while mlflow.active_run() is not None:
            mlflow.end_run("KILLED")
        mlflow.set_tracking_uri(None)


@pytest.fixture
def registry(migrated_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of a new sqlite registry that MLflow and repairops use by default."""
    folder = tmp_path / "registry"
    folder.mkdir()
    uri = new_database(migrated_database, folder / "mlflow.db", (folder / "artifacts" / "0").as_uri())
    with mlflow_at(uri, tmp_path / "home", monkeypatch):
        yield uri


@contextmanager
def running_server(
    database_uri: str, folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A real `mlflow server` on a free loopback port, with proxied artifacts below `folder`: (URI, its process)."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database_uri, "--artifacts-destination", str(folder / "artifacts"), *options]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    quick = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**kept, **quick, **(environment or {})}, stdout=log, stderr=log, process_group=0
        )
        try:
            uri = f"http://127.0.0.1:{port}"
            _wait_until_healthy(uri, process, folder / "server.log")
            yield uri, process
        finally:
            stop_server(process)


def stop_server(process: subprocess.Popen[bytes], kind: signal.Signals = signal.SIGTERM) -> None:
    """Ends the server and the workers that it started."""
    for sent in (kind, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
            process.wait(timeout=20)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _wait_until_healthy(uri: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SERVER_START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        try:
            process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue
        break
    raise RuntimeError(f"The MLflow server did not start: {log.read_text(errors='replace')[-2000:]}")


@pytest.fixture(scope="session")
def mlflow_server(migrated_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of one real MLflow server (sqlite, proxied artifacts) that all tests share: use names of your own."""
    folder = tmp_path_factory.mktemp("server")
    database = new_database(migrated_database, folder / "mlflow.db", "mlflow-artifacts:/0")
    with running_server(database, folder) as (uri, _):
        yield uri


@pytest.fixture
def server_registry(mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The shared server as the registry that MLflow and repairops use by default."""
    with mlflow_at(mlflow_server, tmp_path / "home", monkeypatch):
        yield mlflow_server
