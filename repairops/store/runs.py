"""Runs and their artifacts: every page of a search, a run that is whole or failed, what a run keeps brought here."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from repairops.errors import RegistryRefused
from repairops.store.connection import experiment_id, is_absent, talking, tried_once

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def all_runs(client: MlflowClient, experiment: str, condition: str) -> list[Run]:
    """The runs of the experiment of that name that meet a filter of MLflow's, oldest first; none where it is none."""
    found = client.get_experiment_by_name(experiment)
    runs: list[Run] = []
    token: str | None = ""
    while found and token is not None:
        page = client.search_runs(
            [found.experiment_id],
            condition,
            order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
            max_results=1000,
            page_token=token or None,
        )
        runs += page
        token = page.token or None
    return runs


@contextlib.contextmanager
def kept_run(client: MlflowClient, experiment: str, name: str, tags: Mapping[str, str]) -> Iterator[str]:
    """The id of a new run, which is FINISHED when the block is done, or FAILED where an exception passes."""
    run_id = str(client.create_run(experiment_id(client, experiment), tags=dict(tags), run_name=name).info.run_id)
    try:
        yield run_id
        client.set_terminated(run_id, "FINISHED")
    except BaseException:
        with contextlib.suppress(Exception), tried_once():  # a lost server must not hide or delay the first error
            client.set_terminated(run_id, "FAILED")
        raise


def fetch_artifact(client: MlflowClient, run_id: str, name: str, folder: Path) -> Path | None:
    """Downloads one artifact of a run into `folder`; None where the run or the artifact is not there."""
    from mlflow.exceptions import MlflowException

    with talking(f"hand over {name}"):
        try:
            if name not in [entry.path for entry in client.list_artifacts(run_id, name.rpartition("/")[0] or None)]:
                return None
            return Path(client.download_artifacts(run_id, name, str(folder)))
        except MlflowException as error:
            if is_absent(error):
                return None
            raise


def links(client: MlflowClient, model: str, version: str, run_id: str) -> dict[str, str]:
    """Where to look: pages of MLflow's UI for a server; the run's artifact folder for a database."""
    import mlflow

    with talking("read the run"):
        info = client.get_run(run_id).info
    uri = mlflow.get_tracking_uri().rstrip("/")
    if not uri.startswith("http"):
        return {"artifacts": info.artifact_uri}
    return {
        "report": f"{uri}/#/experiments/{info.experiment_id}/runs/{run_id}/artifacts/report.html",
        "run": f"{uri}/#/experiments/{info.experiment_id}/runs/{run_id}",
        "version": f"{uri}/#/models/{model}/versions/{version}",
    }


def registry_address() -> str:
    """The tracking URI, without a user's name and password in it."""
    import mlflow

    uri = str(mlflow.get_tracking_uri())
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.netloc else uri


def experiment_of(client: MlflowClient, run_id: str) -> str:
    """The id of a run's experiment."""
    with talking("read the run"):
        return str(client.get_run(run_id).info.experiment_id)


def user_of(client: MlflowClient, run_id: str) -> str:
    """Who started a run, '' where that is not known."""
    if not run_id:
        return ""
    with talking("read the run"):
        run = client.get_run(run_id)
    return str(run.data.tags.get("mlflow.user") or run.info.user_id or "")


@contextlib.contextmanager
def where_readable() -> Iterator[None]:
    """Ends quietly at what this user may not read, or what was deleted since."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except RegistryRefused:
        pass
    except MlflowException as error:
        if not is_absent(error):
            raise


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
