"""The record of a model's moved aliases: one finished run for each move, and what happened between them."""

from __future__ import annotations

import getpass
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from repairops.store.connection import experiment_id, talking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Kind = Literal["promotion", "rollback", "logged", "outside"]
_KINDS: tuple[Kind, ...] = ("promotion", "rollback", "logged")
OUTSIDE = "outside repairops"


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


def promotions(client: MlflowClient, name: str) -> list[Promotion]:
    """The recorded moves of a model's aliases, oldest first."""
    return [as_promotion(run) for run in move_runs(client, name, "attributes.status = 'FINISHED'")]


def move_runs(client: MlflowClient, name: str, condition: str) -> list[Run]:
    """The runs of a model's moves, oldest first, that meet a filter of MLflow's."""
    with talking("list the promotions"):
        found = client.get_experiment_by_name(_experiment(name))
        runs: list[Run] = []
        token: str | None = ""
        while found and token is not None:
            page = client.search_runs(
                [found.experiment_id],
                f"tags.`repairops.kind` = 'promotion' and {condition}",
                order_by=["attributes.start_time ASC"],
                max_results=1000,
                page_token=token or None,
            )
            runs += page
            token = page.token or None
    return runs


def history(recorded: Sequence[Promotion], name: str, alias: str, now: str) -> list[Promotion]:
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


def open_move(client: MlflowClient, move: Promotion) -> Run:
    """The run of a move that is about to be made; RUNNING until `close_move`."""
    tags = {
        "repairops.kind": "promotion",
        "repairops.model": move.model,
        "repairops.alias": move.alias,
        "repairops.from": move.version_from,
        "repairops.to": move.version_to,
        "repairops.by": move.by,
        "repairops.reason": move.reason,
        "repairops.move": move.kind,
        "repairops.forced": str(move.forced).lower(),
        "repairops.evidence_run": move.evidence_run,
        "repairops.verdict": move.verdict,
    }
    with talking("record the promotion"):
        experiment = experiment_id(client, _experiment(move.model))
        return client.create_run(experiment, tags=tags, run_name=f"{move.alias} to {move.version_to}")


def record_move(client: MlflowClient, move: Promotion) -> None:
    """Records a move that was made already."""
    close_move(client, open_move(client, move).info.run_id, made=True)


def close_move(client: MlflowClient, run_id: str, made: bool) -> None:
    """FINISHED where the move was made, else KILLED."""
    with talking("record the promotion"):
        client.set_terminated(run_id, "FINISHED" if made else "KILLED")


def as_promotion(run: Run) -> Promotion:
    tags = run.data.tags
    return Promotion(
        tags["repairops.model"],
        tags["repairops.alias"],
        tags["repairops.from"],
        tags["repairops.to"],
        tags["repairops.by"],
        tags["repairops.reason"],
        next(kind for kind in _KINDS if kind == tags["repairops.move"]),
        tags["repairops.forced"] == "true",
        run.info.start_time,
        tags.get("repairops.evidence_run", ""),
        tags.get("repairops.verdict", ""),
    )


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
