"""The record of a model's moved aliases: one finished run for each move, and what happened between them."""

from __future__ import annotations

import getpass
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from repairops.store.connection import experiment_id, talking
from repairops.store.models import open_target, version_at
from repairops.store.runs import all_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Kind = Literal["promotion", "rollback", "logged", "outside"]
OUTSIDE = "outside repairops"
_TAGS = {  # of a move's run, by the field of `Promotion`
    "model": "repairops.model",
    "alias": "repairops.alias",
    "version_from": "repairops.from",
    "version_to": "repairops.to",
    "by": "repairops.by",
    "reason": "repairops.reason",
    "kind": "repairops.move",
    "forced": "repairops.forced",
    "evidence_run": "repairops.evidence_run",
    "verdict": "repairops.verdict",
}


@dataclass(frozen=True)
class Promotion:
    """One move of a production alias. `version_from` is '' where the alias was new, `version_to` where it was removed.

    kind: 'logged' where a new model took the alias as it was logged; 'outside' for a move that repairops did not make:
        its time and its author are not known.
    evidence_run, verdict: the run whose gate judged the version, and what it said; '' where none did.
    """

    model: str
    alias: str
    version_from: str
    version_to: str
    by: str
    reason: str
    kind: Kind = "promotion"
    forced: bool = False
    at: int = 0  # milliseconds since 1970; 0 = not known
    evidence_run: str = ""
    verdict: str = ""


def history(model: str, *, tracking_uri: str | None = None) -> list[Promotion]:
    """All moves of a model's production alias, oldest first, those made outside repairops too (see `Promotion`)."""
    client, name, alias = open_target(model, tracking_uri)
    return with_outside(promotions(client, name), name, alias, version_at(client, name, alias) or "")


def with_outside(recorded: Sequence[Promotion], name: str, alias: str, now: str) -> list[Promotion]:
    """All moves of one alias, oldest first, those made outside repairops too.

    recorded: the model's moves. now: the version under the alias, '' for none. Each recorded move says where it found
    the alias: where that is not where the one before left it, somebody moved it in between. Several such moves in a
    row are seen as one, and one there and back is not seen: MLflow keeps no record of its own.
    """
    moves: list[Promotion] = []
    place = ""
    for move in recorded:
        if move.alias == alias:
            if move.version_from != place:
                moves.append(_outside(name, alias, place, move.version_from))
            moves.append(move)
            place = move.version_to
    if now != place:
        moves.append(_outside(name, alias, place, now))
    return moves


def last_mover(client: MlflowClient, name: str, alias: str, current: str) -> str:
    """Who moved the alias to where it is: a name, or 'outside repairops'."""
    moves = with_outside(promotions(client, name), name, alias, current)
    return moves[-1].by if moves else ""


def promotions(client: MlflowClient, name: str) -> list[Promotion]:
    """The recorded moves of a model's aliases, oldest first."""
    return [as_promotion(run) for run in move_runs(client, name, "attributes.status = 'FINISHED'")]


def move_runs(client: MlflowClient, name: str, condition: str) -> list[Run]:
    """The runs of a model's moves, oldest first, that meet a filter of MLflow's."""
    with talking("list the promotions"):
        return all_runs(client, _experiment(name), f"tags.`repairops.kind` = 'promotion' and {condition}")


def open_move(client: MlflowClient, move: Promotion) -> Run:
    """The run of a move that is about to be made; RUNNING until `close_move`."""
    values = asdict(move) | {"forced": str(move.forced).lower()}
    tags = {"repairops.kind": "promotion"} | {tag: values[field] for field, tag in _TAGS.items()}
    with talking("record the promotion"):
        experiment = experiment_id(client, _experiment(move.model))
        return client.create_run(experiment, tags=tags, run_name=f"{move.alias} to {move.version_to}")


def close_move(client: MlflowClient, run_id: str, made: bool) -> None:
    """FINISHED where the move was made, else KILLED."""
    with talking("record the promotion"):
        client.set_terminated(run_id, "FINISHED" if made else "KILLED")


def as_promotion(run: Run) -> Promotion:
    values: dict[str, Any] = {field: run.data.tags.get(tag, "") for field, tag in _TAGS.items()}
    return Promotion(**values | {"forced": values["forced"] == "true", "at": run.info.start_time})


def user() -> str:
    """Who runs this: the name that MLflow knows, else the system's."""
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (KeyError, OSError):  # a container without a user entry
        return "unknown"


def _outside(name: str, alias: str, version_from: str, version_to: str) -> Promotion:
    return Promotion(name, alias, version_from, version_to, OUTSIDE, "", "outside")


def _experiment(name: str) -> str:
    return f"repairops/promotions/{name}"
