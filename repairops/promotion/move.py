"""Moving a production alias to a judged version, and back: `promote`, `rollback`.

One mover at a time: MLflow moves aliases without compare-and-swap, so movers of repairops agree among themselves. The
agreement is Lamport's bakery (1974), which needs nothing but registers that each is written by one process alone:
here the run that records a move, open while it is made. A mover opens its run, reads the open runs, takes a number
above all of theirs, and reads the open runs again: it may go on where no other one has a lower number. Of two that
come at once, each sees the other's run; of two that do not, the later one sees where the first one left the alias.
Instead of waiting for its turn, a mover with a higher number gives up and says who has the lower one.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from repairops.errors import AliasBeingMoved, AliasMoved, NothingToRollBack, PromotionRefused
from repairops.promotion.history import (
    Kind,
    Promotion,
    as_promotion,
    close_move,
    last_mover,
    move_runs,
    open_move,
    promotions,
    user,
)
from repairops.store.connection import talking
from repairops.store.models import find_version, open_target, version_at
from repairops.store.registry import DIGEST_TAGS, PARENT_TAG, RUN_TAG, VERDICT_TAG, stored_digests

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER_ALIAS = "challenger"
TICKET_TAG = "repairops.ticket"
LEASE_SECONDS = 120  # an open run older than this belongs to a process that died; a move takes seconds
PATIENCE_SECONDS = 10.0  # for one that has no number yet, which takes it two requests
_PAUSE_SECONDS = 0.25


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
    stage: the version's legacy stage is set too, for example 'Production'; versions in it before are archived.

    Raises PromotionRefused, AliasMoved, ModelNotFound, RegistryUnreachable, RegistryRefused.
    """
    client, name, alias = open_target(model, tracking_uri)
    wanted = pick_version(client, name, version, challenger)
    if force and not reason:
        raise PromotionRefused(name, wanted, "--force wants a reason", "Give one with --reason.")
    move = move_alias(client, name, alias, wanted, by=by, reason=reason, force=force)
    if stage:
        with talking(f"set the stage {stage!r}"), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            client.transition_model_version_stage(name, move.version_to, stage, archive_existing_versions=True)
    return move


def rollback(model: str, *, by: str = "", reason: str = "", tracking_uri: str | None = None) -> Promotion:
    """Undoes the last promotion of a model's production alias that is not undone yet.

    Raises NothingToRollBack, AliasMoved.
    """
    client, name, alias = open_target(model, tracking_uri)
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
    reason = reason or f"roll back from version {current}"
    return move_alias(
        client, name, alias, last.version_from, expected=current, by=by, reason=reason, force=True, kind="rollback"
    )


def move_alias(
    client: MlflowClient,
    name: str,
    alias: str,
    version: str,
    *,
    expected: str | None = None,
    by: str = "",
    reason: str = "",
    force: bool = False,
    kind: Kind = "promotion",
) -> Promotion:
    """Moves `alias` from the version `expected` (None: where it is now) to `version`, and records the move.

    Without `force` the version must carry a passed verdict of a gate that judged these very files against the version
    under the alias. Of several movers at once one wins. Whoever moves the alias by other means is seen up to the last
    request before the move: the alias is read again there.

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
    return _move(client, Promotion(name, alias, current, str(version), by or user(), reason, kind, force, 0, *evidence))


# What a version must be


def pick_version(client: MlflowClient, name: str, version: str, challenger: str) -> str:
    """The version that is named, else the one under the alias `challenger`. Raises PromotionRefused."""
    wanted = version or version_at(client, name, challenger)
    if not wanted:
        raise PromotionRefused(
            name, "(none)", f"there is no alias {challenger!r}", "Run a repair first, or name a version with --version."
        )
    return str(wanted)


def existing_version(client: MlflowClient, name: str, version: str) -> ModelVersion:
    """The version itself. Raises PromotionRefused where there is none."""
    found = find_version(client, name, version)
    if found is None:
        raise PromotionRefused(name, version, "it does not exist", "Look at the registry.")
    return found


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


def refuse_changed(candidate: ModelVersion) -> None:
    """Raises PromotionRefused where the version's files are not, byte by byte, those of its digests' tags.

    Downloads the version. The job that made it writes the tags when it uploads what its gate has judged.
    """
    recorded = {part: candidate.tags.get(tag, "") for part, tag in DIGEST_TAGS.items()}
    why = "it does not say which files its gate judged (no digests)"
    if all(recorded.values()):
        found = stored_digests(candidate)
        changed = [part for part in recorded if found[part] != recorded[part]]
        if not changed:
            return
        part = changed[0]
        state = f"sha256 {found[part][:12]}, not {recorded[part][:12]}" if found[part] else "it is not there"
        why = f"its {'weights are' if part == 'weights' else 'ONNX file is'} not what its gate judged ({state})"
    again = "Repair again with --rerun (-P rerun=true), or give --force with a reason."
    raise PromotionRefused(candidate.name, candidate.version, why, again)


# One mover at a time


def _move(client: MlflowClient, move: Promotion) -> Promotion:
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
    return replace(move, at=run.info.start_time)


def rival_of(client: MlflowClient, run: Run, alias: str, patience: float = PATIENCE_SECONDS) -> Run | None:
    """Takes a number for the open `run`; the open run that goes first, None where it is this one's turn.

    patience: seconds. A run that has not taken its number by then goes first: it is not known to stand behind.
    """
    model, run_id = as_promotion(run).model, run.info.run_id

    def others() -> list[Run]:
        runs = _open_moves(client, model, alias)
        return [other for other in runs if other.info.run_id != run_id and not is_over(other)]

    ticket = 1 + max(map(_ticket, others()), default=0)
    with talking("record the promotion"):
        client.set_tag(run_id, TICKET_TAG, str(ticket))
    deadline = time.monotonic() + patience
    while True:
        seen = {(_ticket(other), other.info.run_id): other for other in others()}
        if lower := [place for place in seen if place[0] and place < (ticket, run_id)]:
            return seen[min(lower)]
        choosing = [other for place, other in seen.items() if not place[0]]
        if not choosing:
            return None
        if time.monotonic() >= deadline:
            return choosing[0]
        time.sleep(_PAUSE_SECONDS)


def close_abandoned(client: MlflowClient, model: str, alias: str) -> None:
    """Ends the open runs of movers that died: as made where the alias is where the newest of them wanted it."""
    dead = [run for run in _open_moves(client, model, alias) if is_over(run)]
    place = version_at(client, model, alias) or "" if dead else ""
    for run in dead:
        close_move(client, run.info.run_id, made=run is dead[-1] and as_promotion(run).version_to == place)


def is_over(run: Run) -> bool:
    """Whether a mover's time is up, so that the others no longer count with it."""
    return bool(time.time() - run.info.start_time / 1000 > LEASE_SECONDS)


def _open_moves(client: MlflowClient, model: str, alias: str) -> list[Run]:
    return move_runs(client, model, f"tags.`repairops.alias` = '{alias}' and attributes.status = 'RUNNING'")


def _ticket(run: Run) -> int:
    return int(run.data.tags.get(TICKET_TAG, "0"))
