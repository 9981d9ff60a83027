"""The MLflow client and what its errors mean to a user."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from repairops.errors import RegistryRefused, RegistryUnreachable

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
_DENIED = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")


def connect(tracking_uri: str | None = None) -> MlflowClient:
    """A client of the given tracking server, else of MLflow's own setting.

    MLflow retries requests with back-off for four minutes; a job says sooner that its server is gone
    (MLFLOW_HTTP_REQUEST_MAX_RETRIES, about half a minute unless the user has set it).
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for data
    import mlflow

    for name in ("mlflow", "alembic"):  # migrations and hints of MLflow are no news of ours
        logging.getLogger(name).setLevel(logging.ERROR)
    if tracking_uri:
        mlflow.set_tracking_uri(tracking_uri)
    return mlflow.MlflowClient()


def home_folder(*parts: str) -> Path:
    """A folder below REPAIROPS_HOME, else below the user's cache folder; it is made."""
    home = os.environ.get("REPAIROPS_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = (Path(home).expanduser() if home else cache / "repairops").joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_absent(error: Exception) -> bool:
    """Whether MLflow says that the thing asked for does not exist."""
    return getattr(error, "error_code", None) in _ABSENT


@contextmanager
def talking(action: str) -> Iterator[None]:
    """Turns a failed request into RegistryUnreachable or RegistryRefused; 'does not exist' passes through.

    action: completes 'MLflow did not ...', for example 'store the failure batch'.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    try:
        yield
    except (MlflowException, RequestException, ConnectionError) as error:
        if is_absent(error):
            raise
        import mlflow

        uri = mlflow.get_tracking_uri()
        why = " ".join(str(error).split())[:300]
        status = getattr(error, "get_http_status_code", lambda: 0)()
        if getattr(error, "error_code", None) in _DENIED or status in (401, 403):
            raise RegistryRefused(uri, action, why) from error
        raise RegistryUnreachable(uri, action, why) from error


def _beside_database(name: str) -> str | None:
    """For a sqlite registry, a folder beside the database: MLflow's default is wherever the process was started."""
    import mlflow

    uri = mlflow.get_tracking_uri()
    if not uri.startswith("sqlite:///"):
        return None
    database = Path(uri.removeprefix("sqlite:///").partition("?")[0]).resolve()
    return (database.parent / "mlartifacts" / re.sub(r"[^\w.-]+", "-", name)).as_uri()


def experiment_id(client: MlflowClient, name: str) -> str:
    """The id of an experiment, made when it is not there yet (two processes may try at once)."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=_beside_database(name)))
        except MlflowException:  # another process was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)
