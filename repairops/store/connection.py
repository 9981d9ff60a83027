"""The MLflow client and what its errors mean to a user."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from repairops.errors import (
    ArtifactsRefused,
    ArtifactsUnreachable,
    NoSpace,
    RegistryNotFound,
    RegistryNotOpened,
    RegistryRefused,
    RegistryUnreachable,
    RepairError,
    is_full_disk,
    one_line,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
_DENIED = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")
_ARTIFACT_CLIENTS = ("botocore", "boto3", "s3transfer", "google", "azure", "urllib3", "paramiko", "pysftp", "aiohttp")
_DENIED_BY_STORES = (
    "AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken",
    "NoCredentials", "PartialCredentials", "Unable to locate credentials", "DefaultCredentialsError",
    "ClientAuthenticationError", "AuthenticationException",
)  # fmt: skip


def connect(tracking_uri: str | None = None, *, create: bool = False) -> MlflowClient:
    """A client of the given tracking server, else of MLflow's own setting.

    create: whether a sqlite registry that is not there may be made; MLflow would, for whoever only reads too.

    MLflow retries requests with back-off for four minutes; a job says sooner that its server is gone
    (MLFLOW_HTTP_REQUEST_MAX_RETRIES, about half a minute unless the user has set it).
    Raises RegistryNotFound, RegistryNotOpened.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for data
    import mlflow

    for name in ("mlflow", "alembic"):  # migrations and hints of MLflow are no news of ours
        logging.getLogger(name).setLevel(logging.ERROR)
    if tracking_uri:
        mlflow.set_tracking_uri(tracking_uri)
    uri = mlflow.get_tracking_uri()
    database = _database_file(uri)
    if database and not (create or database.exists()):
        raise RegistryNotFound(uri, database)
    try:
        return mlflow.MlflowClient()
    except Exception as error:  # whatever the address makes MLflow and its database driver raise
        raise RegistryNotOpened(uri, one_line(error)) from error


@contextmanager
def tried_once(lost: bool = True) -> Iterator[None]:
    """Requests inside are tried once and waited for ten seconds: for what only tidies up after a `lost` server."""
    if not lost:
        yield
        return
    once = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    kept = {name: os.environ.get(name) for name in once}
    os.environ.update(once)
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


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
    """Turns what a store raises into RegistryUnreachable, RegistryRefused or NoSpace; 'does not exist' passes through.

    action: completes 'MLflow did not ...', for example 'store the failure batch'.
    """
    try:
        yield
    except Exception as error:
        kinds = _refusal(error)
        if isinstance(error, RepairError) or is_absent(error) or kinds is None:
            raise
        import mlflow

        why = one_line(error)
        if is_full_disk(error):
            raise NoSpace(f"MLflow at {mlflow.get_tracking_uri()} did not {action} ({why})") from error
        refused, unreachable = kinds
        kind = refused if _is_denied(error) else unreachable
        raise kind(mlflow.get_tracking_uri(), action, why) from error


def _refusal(error: Exception) -> tuple[type[RegistryRefused], type[RegistryUnreachable]] | None:
    """The classes for a denied and for any other failed request to the store that raised it; None where none did.

    Clients of artifact stores have errors of their own, which MLflow passes on, and are told by their packages' names.
    """
    from mlflow.exceptions import MlflowException

    package = type(error).__module__.partition(".")[0]
    if package in _ARTIFACT_CLIENTS:
        return ArtifactsRefused, ArtifactsUnreachable
    if isinstance(error, MlflowException | OSError) or package == "sqlalchemy":  # requests' errors are OSErrors
        return RegistryRefused, RegistryUnreachable
    return None


def _is_denied(error: Exception) -> bool:
    status = getattr(error, "get_http_status_code", lambda: 0)()
    if getattr(error, "error_code", None) in _DENIED or status in (401, 403):
        return True
    return any(words in f"{type(error).__name__}: {error}" for words in _DENIED_BY_STORES)


def _database_file(uri: str) -> Path | None:
    """The file of a sqlite registry; None for any other."""
    name = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(name).resolve() if uri.startswith("sqlite:///") and name not in ("", ":memory:") else None


def _beside_database(name: str) -> str | None:
    """For a sqlite registry, a folder beside the database: MLflow's default is wherever the process was started."""
    import mlflow

    database = _database_file(mlflow.get_tracking_uri())
    return (database.parent / "mlartifacts" / re.sub(r"[^\w.-]+", "-", name)).as_uri() if database else None


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
