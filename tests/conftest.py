"""Real registries for tests: sqlite in a temporary folder, and one MLflow server for all tests that want one."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; the workers share the cores
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import pytest
from filelock import FileLock
from numeric import is_numeric

SERVER_START_SECONDS = 300  # of a busy machine
PASSWORD = "a long password"  # MLflow wants twelve characters
SHARED_FOLDER = "REPAIROPS_TESTS_FOLDER"
FEW_TRIALS = {  # by module and name
    ("estimation", "TRIALS"): (1000, 1000),
    ("estimation", "SECOND_LOOKS"): 0,
    ("evidence", "TRIALS"): 300,
    ("evidence", "SIMULATED"): 300,
}


def pytest_configure(config: pytest.Config) -> None:
    """One folder for all xdist workers: what is slow to make is made once. (xdist's groups need pytest below 9.2.)"""
    if not hasattr(config, "workerinput"):
        os.environ[SHARED_FOLDER] = tempfile.mkdtemp(prefix="repairops-tests-")
    gc.disable()  # while the libraries are imported, a fifth of whose time it takes


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays, and need not be looked through again
    gc.enable()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        folder = Path(os.environ.pop(SHARED_FOLDER))
        for file in folder.glob("*/pid"):
            pid, *kind = map(int, file.read_text().split())
            stop_server(pid, *map(signal.Signals, kind))
        shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that hang on rounding."""
    for item in items:
        if isinstance(item, pytest.Function) and is_numeric(item.path, item.originalname):
            item.add_marker(pytest.mark.numeric)


@pytest.fixture(scope="session", autouse=True)
def exporter_reads_its_operators_once() -> None:
    """PyTorch's exporter reads 500 operators anew at each export, which is more than half of a small network's."""
    from torch.onnx._internal.exporter import _registration

    registry = _registration.ONNXRegistry
    registry.from_torchlib = staticmethod(functools.cache(registry.from_torchlib))  # type: ignore[method-assign]


@pytest.fixture
def few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """A degradation is estimated from FEW_TRIALS and at the first look: in a fifth of the time, and less exactly."""
    take_few_trials(monkeypatch.setattr)


def take_few_trials(change: Callable[[ModuleType, str, object], None] = setattr) -> None:
    """Also for processes that tests start."""
    for (module, name), value in FEW_TRIALS.items():
        change(import_module(f"repairops.core.styles.fitted.{module}"), name, value)


@contextmanager
def made_once(name: str) -> Iterator[tuple[Path, bool]]:
    """(folder shared by all workers, whether it is for the caller to fill); the others wait until it is filled."""
    folder = Path(os.environ[SHARED_FOLDER]) / name
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        yield folder, not (folder / "done").exists()
        (folder / "done").touch()


@pytest.fixture(scope="session")
def migrated_database() -> Path:
    """An empty MLflow database with all its tables, made once: migrations take seconds."""
    with made_once("migrated") as (folder, missing):
        database = folder / "mlflow.db"
        if missing:
            code = f"import mlflow; mlflow.MlflowClient('sqlite:///{database}').search_experiments()"
            subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, capture_output=True, timeout=240)
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
    """The URI of a new sqlite registry that MLflow and repairops use by default; the working directory is tmp_path."""
    monkeypatch.chdir(tmp_path)  # MLflow keeps the artifacts of `set_experiment` in ./mlruns
    folder = tmp_path / "registry"
    folder.mkdir()
    uri = new_database(migrated_database, folder / "mlflow.db", (folder / "artifacts" / "0").as_uri())
    with mlflow_at(uri, tmp_path / "home", monkeypatch):
        yield uri


def start_server(database_uri: str, folder: Path, password: str = "") -> tuple[str, int]:
    """Starts a real `mlflow server` on a free loopback port, its artifacts below `folder`: (URI, process id).

    password: of the user `admin`; where it is given, the server wants basic authentication, and others may read.
    """
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database_uri, "--artifacts-destination", str(folder / "artifacts")]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    quick = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    if password:
        command += ["--app-name", "basic-auth"]
        quick |= _basic_auth(folder, password)
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env={**kept, **quick}, stdout=log, stderr=log, process_group=0)
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}", process, folder / "server.log")
    except BaseException:
        stop_server(process.pid)
        raise
    return f"http://127.0.0.1:{port}", process.pid


def _basic_auth(folder: Path, password: str) -> dict[str, str]:
    """Environment of a server with basic authentication; its users lie in `folder`."""
    lines = [
        "[mlflow]",
        "default_permission = READ",
        f"database_uri = sqlite:///{folder / 'users.db'}",
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth",
        "auth_cache_ttl_seconds = 3600",  # a password's hash takes half a second, and every request has one
    ]
    (folder / "auth.ini").write_text("\n".join(lines))
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of the tests",
    }


def stop_server(pid: int, kind: signal.Signals = signal.SIGTERM) -> None:
    """Ends a server and the processes that it started; does nothing where it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, kind)
    with contextlib.suppress(ChildProcessError):  # another worker started it
        os.waitpid(pid, 0)


@contextmanager
def running_server(database_uri: str, folder: Path) -> Iterator[tuple[str, int]]:
    """A server of one's own: (URI, process id)."""
    uri, pid = start_server(database_uri, folder)
    try:
        yield uri, pid
    finally:
        stop_server(pid)


def wait_until_healthy(uri: str, process: subprocess.Popen[bytes], log: Path) -> None:
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
def mlflow_server(migrated_database: Path) -> str:
    """The URI of one real MLflow server (sqlite, proxied artifacts) that all tests share: use names of your own."""
    with made_once("server") as (folder, missing):
        if missing:
            database = new_database(migrated_database, folder / "mlflow.db", "mlflow-artifacts:/0")
            uri, pid = start_server(database, folder)
            (folder / "pid").write_text(str(pid))
            (folder / "uri").write_text(uri)
        return (folder / "uri").read_text()


@pytest.fixture(scope="session")
def guarded_server(migrated_database: Path) -> str:
    """The URI of one real MLflow server with basic authentication; the admin's password is PASSWORD."""
    with made_once("guarded") as (folder, missing):
        if missing:
            database = new_database(migrated_database, folder / "mlflow.db", "mlflow-artifacts:/0")
            uri, pid = start_server(database, folder, PASSWORD)
            (folder / "pid").write_text(str(pid))
            (folder / "uri").write_text(uri)
        return (folder / "uri").read_text()


@pytest.fixture
def server_registry(mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The shared server as the registry that MLflow and repairops use by default."""
    with mlflow_at(mlflow_server, tmp_path / "home", monkeypatch):
        yield mlflow_server
