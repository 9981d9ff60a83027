"""Registered models: what a reference means, and the champion behind it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from repairops.errors import AmbiguousModel, InvalidOption, ModelNotFound
from repairops.store.connection import connect, is_absent, talking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION_ALIAS = "champion"
PRODUCTION_ALIAS = "prod"
T = TypeVar("T")


@dataclass(frozen=True)
class ModelRef:
    """One pinned model version. `alias` is the alias it was found by, '' where it was not by an alias."""

    name: str
    version: str
    alias: str
    run_id: str

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"

    def __str__(self) -> str:
        return f"version {self.version} of {self.name!r}"


def resolve_model(reference: str, client: MlflowClient) -> ModelRef:
    """The model version that `reference` means now.

    Forms: `prod/cls` (the alias prod of cls; where there is none, the legacy stage of that name; else the alias
    champion of the registered model `prod.cls`), `cls@prod`, and `models:/...` as MLflow resolves it
    (name/version, name@alias, name/latest, name/Stage, m-<model id>).

    Raises ModelNotFound with what was tried and what exists, AmbiguousModel for a bare name.
    """
    with talking("look up the model"):
        if reference.startswith("models:/"):
            return _resolve_uri(reference, client)
        if reference.count("/") == 1:
            return _resolve_environment(reference, client)
        if reference.count("@") == 1:
            name, alias = reference.split("@")
            found = _by_alias(client, name, alias)
            if found:
                return _ref(found, alias)
            raise ModelNotFound(reference, [f"alias {alias!r} of {name!r}"], existing_models(client))
        choices = aliases_of(client, reference)
        if choices:
            raise AmbiguousModel(reference, [f"{reference}@{alias} (version {v})" for alias, v in choices.items()])
        raise ModelNotFound(reference, [f"aliases of {reference!r}"], existing_models(client))


def open_target(model: str, tracking_uri: str | None) -> tuple[MlflowClient, str, str]:
    """(client, registered model, production alias) of what a promotion moves. Raises ModelNotFound."""
    client = connect(tracking_uri)
    name, alias = target(model)
    check_alias_name("alias", alias)
    if not registered(client, name):
        raise ModelNotFound(model, [f"registered model {name!r}"], existing_models(client))
    return client, name, alias


def target(model: str) -> tuple[str, str]:
    """(registered model, production alias) of 'prod/cls', 'cls@prod' or 'cls'."""
    model = model.removeprefix("models:/")
    if "@" in model:
        name, _, alias = model.rpartition("@")
    else:
        alias, _, name = model.rpartition("/")
    return name, alias or PRODUCTION_ALIAS


def check_alias_name(option: str, alias: str) -> None:
    """Raises InvalidOption for what MLflow takes for no alias, and says so only when a version waits for it."""
    reserved = alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias)
    if reserved or not re.fullmatch(r"[\w-]{1,255}", alias):
        wanted = "an alias: letters, digits, '_' and '-', and neither 'latest' nor a version such as 'v1'"
        raise InvalidOption(option, alias, wanted)


def existing_models(client: MlflowClient) -> list[str]:
    """All registered models as `cls (prod -> 3)`, for messages."""
    lines = []
    with talking("list the registered models"):
        models = client.search_registered_models(max_results=100)
    for model in models:
        aliases = aliases_of(client, model.name)
        marks = ", ".join(f"{alias} -> {version}" for alias, version in sorted(aliases.items()))
        lines.append(f"{model.name} ({marks or 'no alias'})")
    return lines or [f"no model ({client.tracking_uri})"]


def registered(client: MlflowClient, name: str) -> bool:
    """Whether there is a registered model of that name."""
    return _absent_is_none(lambda: client.get_registered_model(name)) is not None


def aliases_of(client: MlflowClient, name: str) -> dict[str, str]:
    """Alias to version of one registered model; empty where there is no such model."""
    model = _absent_is_none(lambda: client.get_registered_model(name))
    return {alias: str(version) for alias, version in model.aliases.items()} if model else {}


def version_at(client: MlflowClient, name: str, alias: str) -> str | None:
    """The version under an alias now, asked by name: search results may be stale."""
    found = _by_alias(client, name, alias)
    return str(found.version) if found else None


def find_version(client: MlflowClient, name: str, version: str) -> ModelVersion | None:
    """A model's version by its number; None where there is no such version."""
    if not (str(version).isdecimal() and len(str(version)) < 10):  # a database's integers end there
        return None
    return _absent_is_none(lambda: client.get_model_version(name, version))


def _resolve_environment(reference: str, client: MlflowClient) -> ModelRef:
    environment, name = reference.split("/")
    if found := _by_alias(client, name, environment):
        return _ref(found, environment)
    if found := _by_stage(client, name, environment):
        return _ref(found, "")
    if found := _by_alias(client, f"{environment}.{name}", CHAMPION_ALIAS):
        return _ref(found, CHAMPION_ALIAS)
    tried = [f"{kind} {environment!r} of {name!r}" for kind in ("alias", "stage")]
    tried.append(f"alias {CHAMPION_ALIAS!r} of '{environment}.{name}'")
    raise ModelNotFound(reference, tried, existing_models(client))


def _resolve_uri(reference: str, client: MlflowClient) -> ModelRef:
    rest = reference.removeprefix("models:/").strip("/")
    if re.fullmatch(r"m-[0-9a-f]+", rest):
        return _by_model_id(client, reference, rest)
    found, alias = None, ""
    if "@" in rest:
        name, alias = rest.rsplit("@", 1)
        found = _by_alias(client, name, alias)
    elif "/" in rest:
        name, which = rest.rsplit("/", 1)
        if which.isdigit():
            found = find_version(client, name, which)
        elif which == "latest":
            quoted = name.replace("'", "\\'")
            versions = client.search_model_versions(f"name = '{quoted}'")
            found = max(versions, key=lambda v: int(v.version), default=None)
        else:
            found = _by_stage(client, name, which)
    if found is None:
        raise ModelNotFound(reference, [reference], existing_models(client))
    return _ref(found, alias)


def _by_model_id(client: MlflowClient, reference: str, model_id: str) -> ModelRef:
    source = f"models:/{model_id}"
    logged = _absent_is_none(lambda: client.get_logged_model(model_id))
    places = {source, logged.artifact_location} if logged else {source}
    versions = [v for v in client.search_model_versions() if v.source in places or v.model_id == model_id]
    if not versions:
        raise ModelNotFound(reference, [f"versions made from {model_id}"], existing_models(client))
    if len(versions) > 1:
        raise AmbiguousModel(reference, [f"models:/{v.name}/{v.version}" for v in versions])
    return _ref(versions[0], "")


def _by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    return _absent_is_none(lambda: client.get_model_version_by_alias(name, alias))


def _by_stage(client: MlflowClient, name: str, stage: str) -> ModelVersion | None:
    """The newest version in a legacy stage; MLflow knows four stages and refuses other names."""
    if stage.lower() not in ("none", "staging", "production", "archived"):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        versions = _absent_is_none(lambda: client.get_latest_versions(name, stages=[stage])) or []
    return max(versions, key=lambda v: int(v.version), default=None)


def _absent_is_none(ask: Callable[[], T]) -> T | None:
    from mlflow.exceptions import MlflowException

    with talking("look up the model"):
        try:
            return ask()
        except MlflowException as error:
            # A name that cannot exist (a slash, a reserved alias) is INVALID_PARAMETER_VALUE: absent all the same.
            if is_absent(error) or error.error_code == "INVALID_PARAMETER_VALUE":
                return None
            raise


def _ref(found: ModelVersion, alias: str) -> ModelRef:
    return ModelRef(found.name, str(found.version), alias, found.run_id or "")
