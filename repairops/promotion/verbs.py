"""Moving a production alias to a repaired version, back, and what became of it: `promote`, `rollback`, `history`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repairops.errors import ModelNotFound, PromotionRefused
from repairops.store import aliases
from repairops.store.connection import connect
from repairops.store.models import existing_models, registered, version_at
from repairops.store.moves import Promotion, promotions
from repairops.store.moves import history as all_moves

if TYPE_CHECKING:
    from mlflow import MlflowClient

PRODUCTION_ALIAS = "prod"
CHALLENGER_ALIAS = "challenger"


def promote(
    model: str,
    *,
    version: str = "",
    by: str = "",
    reason: str = "",
    force: bool = False,
    stage: str = "",
    challenger: str = CHALLENGER_ALIAS,
    tracking_uri: str | None = None,
) -> Promotion:
    """Moves the production alias of `model` to `version`, by default the one under the alias `challenger`.

    model: 'prod/cls' or 'cls@prod' (alias prod of cls), or 'cls' (its alias prod).
    force: also where no passed gate judged the version, or other files, or against another version than today's
        champion; wants a reason.
    stage: the version's legacy stage is set too, for example 'Production'.

    Raises PromotionRefused, AliasMoved, ModelNotFound, RegistryUnreachable, RegistryRefused.
    """
    client, name, alias = open_target(model, tracking_uri)
    wanted = pick_version(client, name, version, challenger)
    if force and not reason:
        raise PromotionRefused(name, wanted, "--force wants a reason", "Give one with --reason.")
    return aliases.promote(client, name, alias, wanted, expected=None, by=by, reason=reason, force=force, stage=stage)


def rollback(model: str, *, by: str = "", reason: str = "", tracking_uri: str | None = None) -> Promotion:
    """Undoes the last promotion of a model's production alias. Raises NothingToRollBack, AliasMoved."""
    client, name, alias = open_target(model, tracking_uri)
    return aliases.rollback(client, name, alias, by=by, reason=reason)


def history(model: str, *, tracking_uri: str | None = None) -> list[Promotion]:
    """All moves of a model's production alias, oldest first, those made outside repairops too (see `Promotion`)."""
    client, name, alias = open_target(model, tracking_uri)
    return all_moves(promotions(client, name), name, alias, version_at(client, name, alias) or "")


def open_target(model: str, tracking_uri: str | None) -> tuple[MlflowClient, str, str]:
    """(client, registered model, production alias). Raises ModelNotFound."""
    client = connect(tracking_uri)
    name, alias = target(model)
    if not registered(client, name):
        raise ModelNotFound(model, [f"registered model {name!r}"], existing_models(client))
    return client, name, alias


def pick_version(client: MlflowClient, name: str, version: str, challenger: str) -> str:
    """The version that is named, else the one under the alias `challenger`. Raises PromotionRefused."""
    wanted = version or version_at(client, name, challenger)
    if not wanted:
        raise PromotionRefused(
            name, "(none)", f"there is no alias {challenger!r}", "Run a repair first, or name a version with --version."
        )
    return str(wanted)


def target(model: str) -> tuple[str, str]:
    """(registered model, production alias) of 'prod/cls', 'cls@prod' or 'cls'."""
    model = model.removeprefix("models:/")
    if "@" in model:
        name, _, alias = model.rpartition("@")
        return name, alias
    if "/" in model:
        alias, _, name = model.partition("/")
        return name, alias
    return model, PRODUCTION_ALIAS
