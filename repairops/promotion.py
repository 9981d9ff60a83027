"""Moving a production alias to a repaired version, and back: the Python form of `promote` and `rollback`."""

from __future__ import annotations

from repairops.errors import ModelNotFound, PromotionRefused
from repairops.store import registry
from repairops.store.connection import connect
from repairops.store.models import existing_models, registered, version_at
from repairops.store.registry import Promotion

PRODUCTION_ALIAS = "prod"
CHALLENGER_ALIAS = "challenger"


def promote(
    model: str,
    *,
    version: str = "",
    by: str = "",
    reason: str = "",
    force: bool = False,
    challenger: str = CHALLENGER_ALIAS,
    tracking_uri: str | None = None,
) -> Promotion:
    """Moves the production alias of `model` to `version`, by default the one under the alias `challenger`.

    model: 'prod/cls' or 'cls@prod' (alias prod of cls), or 'cls' (its alias prod).
    force: also where no passed gate judged the version against today's champion; wants a reason.

    Raises PromotionRefused, AliasMoved, ModelNotFound, RegistryUnreachable.
    """
    client = connect(tracking_uri)
    name, alias = target(model)
    if not registered(client, name):
        raise ModelNotFound(model, [f"registered model {name!r}"], existing_models(client))
    wanted = version or version_at(client, name, challenger)
    if not wanted:
        raise PromotionRefused(
            name, "(none)", f"there is no alias {challenger!r}", "Run a repair first, or name a version with --version."
        )
    if force and not reason:
        raise PromotionRefused(name, wanted, "--force wants a reason", "Give one with --reason.")
    return registry.promote(client, name, alias, str(wanted), expected=None, by=by, reason=reason, force=force)


def rollback(model: str, *, by: str = "", reason: str = "", tracking_uri: str | None = None) -> Promotion:
    """Undoes the last promotion of a model's production alias. Raises NothingToRollBack, AliasMoved."""
    client = connect(tracking_uri)
    name, alias = target(model)
    if not registered(client, name):
        raise ModelNotFound(model, [f"registered model {name!r}"], existing_models(client))
    return registry.rollback(client, name, alias, by=by, reason=reason)


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
