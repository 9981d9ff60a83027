"""Moving an alias to a judged version, and back."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from repairops.errors import AliasBeingMoved, AliasMoved, NothingToRollBack, PromotionRefused
from repairops.store.claims import close_abandoned, is_over, rival_of
from repairops.store.connection import is_absent, talking
from repairops.store.digests import refuse_changed
from repairops.store.models import version_at
from repairops.store.moves import Kind, Promotion, as_promotion, close_move, history, open_move, promotions, user
from repairops.store.registry import PARENT_TAG, RUN_TAG, VERDICT_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


def promote(
    client: MlflowClient,
    name: str,
    alias: str,
    version: str,
    *,
    expected: str | None,
    by: str = "",
    reason: str = "",
    force: bool = False,
    kind: Kind = "promotion",
    stage: str = "",
) -> Promotion:
    """Moves `alias` from the version `expected` (None: where it is now) to `version`, and records the move.

    Without `force` the version must carry a passed verdict of a gate that judged these very files against the version
    under the alias. Of several movers at once one wins (`claims`). Whoever moves the alias by other means is seen up
    to the last request before the move: the alias is read again there.

    stage: also the version's legacy stage, for example 'Production'; versions in it before are archived.

    Raises PromotionRefused, AliasMoved.
    """
    candidate = existing_version(client, name, version)
    current = version_at(client, name, alias) or ""
    if expected is not None and current != expected:
        raise AliasMoved(name, alias, expected, current, last_mover(client, name, alias, current))
    if current == str(version):
        raise PromotionRefused(name, version, f"the alias {alias!r} is there already", "There is nothing to do.")
    if not force:
        refuse_unjudged(client, candidate, alias, current)
        refuse_changed(candidate)
    evidence = candidate.tags.get(RUN_TAG, ""), candidate.tags.get(VERDICT_TAG, "")
    move = Promotion(name, alias, current, str(version), by or user(), reason, kind, force, 0, *evidence)
    return _move(client, move, stage)


def rollback(client: MlflowClient, name: str, alias: str, *, by: str = "", reason: str = "") -> Promotion:
    """Undoes the last promotion of `alias` that is not undone yet. Raises NothingToRollBack, AliasMoved."""
    standing: list[Promotion] = []
    for move in promotions(client, name):
        if move.alias == alias and move.kind == "promotion":
            standing.append(move)
        elif move.alias == alias and standing:
            standing.pop()
    current = version_at(client, name, alias) or ""
    last = next((move for move in reversed(standing) if move.version_to == current), None)
    if last is None or not last.version_from:
        raise NothingToRollBack(name, alias)
    return promote(
        client,
        name,
        alias,
        last.version_from,
        expected=current,
        by=by,
        reason=reason or f"roll back from version {current}",
        force=True,
        kind="rollback",
    )


def refuse_unjudged(client: MlflowClient, candidate: ModelVersion, alias: str, current: str) -> None:
    """Raises PromotionRefused without a passed gate, AliasMoved where it judged against another version."""
    verdict = candidate.tags.get(VERDICT_TAG)
    if verdict != "PASS":
        raise PromotionRefused(
            candidate.name,
            candidate.version,
            f"its gate says {verdict}" if verdict else "no gate of repairops judged it",
            "Promote a version with the tag repairops.verdict=PASS, or give --force with a reason.",
        )
    parent = candidate.tags.get(PARENT_TAG, "")
    if parent != current:
        mover = last_mover(client, candidate.name, alias, current)
        raise AliasMoved(candidate.name, alias, parent, current, mover)


def last_mover(client: MlflowClient, name: str, alias: str, current: str) -> str:
    """Who moved the alias to where it is: a name, or 'outside repairops'."""
    moves = history(promotions(client, name), name, alias, current)
    return moves[-1].by if moves else ""


def existing_version(client: MlflowClient, name: str, version: str) -> ModelVersion:
    """The version itself. Raises PromotionRefused where there is none."""
    from mlflow.exceptions import MlflowException

    with talking("read the version"):
        try:
            return client.get_model_version(name, version)
        except MlflowException as error:
            if is_absent(error):
                raise PromotionRefused(name, version, "it does not exist", "Look at the registry.") from error
            raise


def _move(client: MlflowClient, move: Promotion, stage: str) -> Promotion:
    name, alias, made = move.model, move.alias, False
    close_abandoned(client, name, alias)
    run = open_move(client, move)
    try:
        rival = rival_of(client, run, alias)
        if rival is not None:
            other = as_promotion(rival)
            raise AliasBeingMoved(name, alias, other.version_to, other.by)
        again = version_at(client, name, alias) or ""
        if again != move.version_from:
            raise AliasMoved(name, alias, move.version_from, again, last_mover(client, name, alias, again))
        if is_over(run):  # this process was stopped, and others no longer wait for it
            raise PromotionRefused(name, move.version_to, "it took more than two minutes", "Repeat the command.")
        with talking(f"move the alias {alias!r}"):
            client.set_registered_model_alias(name, alias, move.version_to)
        made = True
    finally:
        close_move(client, run.info.run_id, made)
    if stage:
        _set_stage(client, move, stage)
    return replace(move, at=run.info.start_time)


def _set_stage(client: MlflowClient, move: Promotion, stage: str) -> None:
    with talking(f"set the stage {stage!r}"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        client.transition_model_version_stage(move.model, move.version_to, stage, archive_existing_versions=True)
