"""One mover at a time. MLflow moves aliases without compare-and-swap, so movers of repairops agree among themselves.

The agreement is Lamport's bakery (1974), which needs nothing but registers that each is written by one process alone:
here the run that records a move, open while it is made. A mover opens its run, reads the open runs, takes a number
above all of theirs, and reads the open runs again: it may go on where no other one has a lower number. Of two that
come at once, each sees the other's run; of two that do not, the later one sees where the first one left the alias.
Instead of waiting for its turn, a mover with a higher number gives up and says who has the lower one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from repairops.store.connection import talking
from repairops.store.models import version_at
from repairops.store.moves import as_promotion, close_move, move_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TICKET_TAG = "repairops.ticket"
LEASE_SECONDS = 120  # an open run older than this belongs to a process that died; a move takes seconds
PATIENCE_SECONDS = 10.0  # for one that has no number yet, which takes it two requests
_PAUSE_SECONDS = 0.25


def rival_of(client: MlflowClient, run: Run, alias: str, patience: float = PATIENCE_SECONDS) -> Run | None:
    """Takes a number for the open `run`; the open run that goes first, None where it is this one's turn.

    patience: seconds. A run that has not taken its number by then goes first: it is not known to stand behind.
    """
    model = as_promotion(run).model
    ticket = 1 + max((_ticket(other) for other in _open(client, model, alias, run)), default=0)
    with talking("record the promotion"):
        client.set_tag(run.info.run_id, TICKET_TAG, str(ticket))
    own = ticket, run.info.run_id
    deadline = time.monotonic() + patience
    while True:
        others = _open(client, model, alias, run)
        lower = [other for other in others if _ticket(other) and (_ticket(other), other.info.run_id) < own]
        if lower:
            return min(lower, key=lambda other: (_ticket(other), other.info.run_id))
        choosing = [other for other in others if not _ticket(other)]
        if not choosing:
            return None
        if time.monotonic() >= deadline:
            return choosing[0]
        time.sleep(_PAUSE_SECONDS)


def close_abandoned(client: MlflowClient, model: str, alias: str) -> None:
    """Ends the open runs of movers that died: as made where the alias is where the newest of them wanted it."""
    dead = [run for run in _all_open(client, model, alias) if is_over(run)]
    if not dead:
        return
    place = version_at(client, model, alias) or ""
    for run in dead:
        close_move(client, run.info.run_id, made=run is dead[-1] and as_promotion(run).version_to == place)


def _open(client: MlflowClient, model: str, alias: str, own: Run) -> list[Run]:
    runs = _all_open(client, model, alias)
    return [run for run in runs if run.info.run_id != own.info.run_id and not is_over(run)]


def _all_open(client: MlflowClient, model: str, alias: str) -> list[Run]:
    return move_runs(client, model, f"tags.`repairops.alias` = '{alias}' and attributes.status = 'RUNNING'")


def is_over(run: Run) -> bool:
    """Whether a mover's time is up, so that the others no longer count with it."""
    return bool(time.time() - run.info.start_time / 1000 > LEASE_SECONDS)


def _ticket(run: Run) -> int:
    return int(run.data.tags.get(TICKET_TAG, "0"))
