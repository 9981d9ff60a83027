"""The stores of a team as a registry for tests: a real PostgreSQL, and S3 as moto serves it; skipped without them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import made_once, mlflow_at
from mlflow.server.constants import ARTIFACT_ROOT_ENV_VAR

EMPTY = "mlflow"  # the database with MLflow's tables and no rows, which the others are copies of
QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "listen_addresses=")
# Debian's PostgreSQL brings a user of this name, and refuses to run as root.
USER: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


@dataclass(frozen=True)
class Site:
    """A registry in PostgreSQL (`uri`); its artifacts go from this machine to a bucket, as `settings` say.

    settings: environment variables, for processes of their own too.
    """

    uri: str
    bucket: str
    settings: dict[str, str]


def programs() -> Path | None:
    """The folder of PostgreSQL's programs: on the path, else the newest of Debian's."""
    found = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    return Path(found).parent if found else debian[-1].parent if debian else None


def database_uri(folder: Path, name: str) -> str:
    return f"postgresql+psycopg2://tests@/{name}?host={folder}"  # a socket in that folder, no port


def run_sql(folder: Path, *statements: str, database: str = "postgres") -> None:
    import psycopg2

    with closing(psycopg2.connect(host=str(folder), user="tests", dbname=database)) as connection:
        connection.autocommit = True
        for statement in statements:
            connection.cursor().execute(statement)


def start_postgres(folder: Path, bin_folder: Path) -> None:
    """Starts a server whose data, socket and log lie in `folder`, with the database EMPTY."""
    import psycopg2

    folder.parent.chmod(0o711)  # the user that it runs as passes through
    if USER:
        shutil.chown(folder, USER["user"], USER["group"])
    data, log = folder / "data", folder / "log"
    making = [
        bin_folder / "initdb",
        "-D",
        data,
        "--auth=trust",
        "--username=tests",
        "--no-sync",
        "--locale=C",
        "-EUTF8",
    ]
    subprocess.run(making, check=True, cwd=folder, capture_output=True, timeout=120, **USER)
    serving = [bin_folder / "postgres", "-D", data, "-k", folder, *(part for s in QUICK for part in ("-c", s))]
    with log.open("wb") as file:
        server = subprocess.Popen(serving, cwd=folder, stdout=file, stderr=file, process_group=0, **USER)
    (folder / "pid").write_text(f"{server.pid} {signal.SIGINT.value}")  # by which it does not wait for its clients
    for attempt in range(600):
        try:
            run_sql(folder, f"CREATE DATABASE {EMPTY}")
            break
        except psycopg2.OperationalError:
            if server.poll() is not None or attempt == 599:
                raise RuntimeError(f"PostgreSQL did not start: {log.read_text()[-2000:]}") from None
            time.sleep(0.1)
    code = f"import mlflow; mlflow.MlflowClient({database_uri(folder, EMPTY)!r}).search_experiments()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, capture_output=True, timeout=240)


@pytest.fixture(scope="session", name="postgres")
def postgres_fixture() -> Path:
    """The folder of one PostgreSQL that all workers share; `conftest` stops it."""
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed, which PostgreSQL is reached by")
    bin_folder = programs()
    if bin_folder is None:
        pytest.skip("there is no PostgreSQL (its initdb is neither on the path nor where Debian puts it)")
    with made_once("postgres") as (folder, missing):
        if missing:
            start_postgres(folder, bin_folder)
        return folder


@pytest.fixture(scope="session", name="object_store")
def object_store_fixture() -> Iterator[dict[str, str]]:
    """S3 on a free loopback port, in a thread of this worker: the settings that lead there."""
    pytest.importorskip("boto3", reason="boto3 is not installed, which S3 is reached by")
    server = pytest.importorskip("moto.server", reason="moto is not installed, which serves S3").ThreadedMotoServer(
        "127.0.0.1", 0, verbose=False
    )
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "MLFLOW_S3_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }
    server.stop()


def new_site(postgres: Path, object_store: dict[str, str]) -> Site:
    """An empty registry: a copy of the database EMPTY, and a bucket of the same name."""
    import boto3

    name = f"site-{uuid.uuid4().hex[:12]}"
    settings = {**object_store, ARTIFACT_ROOT_ENV_VAR: f"s3://{name}"}  # as a server tells the processes that it starts
    boto3.client("s3", endpoint_url=object_store["MLFLOW_S3_ENDPOINT_URL"], region_name="us-east-1").create_bucket(
        Bucket=name
    )
    run_sql(postgres, f'CREATE DATABASE "{name}" TEMPLATE {EMPTY}')
    run_sql(postgres, f"UPDATE experiments SET artifact_location = 's3://{name}/0'", database=name)
    return Site(database_uri(postgres, name), name, settings)


@pytest.fixture(name="site")
def site_fixture(
    postgres: Path, object_store: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """A registry of the test's own, which MLflow and repairops use by default."""
    monkeypatch.chdir(tmp_path)
    for name, value in object_store.items():
        monkeypatch.setenv(name, value)
    site = new_site(postgres, object_store)
    monkeypatch.setenv(ARTIFACT_ROOT_ENV_VAR, site.settings[ARTIFACT_ROOT_ENV_VAR])
    with mlflow_at(site.uri, tmp_path / "home", monkeypatch):
        yield site
