"""What the registry knows around a job: who, where, and how often this clean set has decided before."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from repairops.outcome.given import AliasMove, Provenance
from repairops.promotion.history import Promotion, promotions, user, with_outside
from repairops.stages.job import Job
from repairops.stages.pull import Inputs
from repairops.store.jobs import gates_decided_by
from repairops.store.models import version_at
from repairops.store.runs import experiment_of, registry_address, user_of, where_readable


def note_provenance(job: Job, inputs: Inputs) -> None:
    """Writes it into the record. What this user may not read stays empty: it stops no repair."""
    client, ref = inputs.client, inputs.ref
    found = Provenance(
        registry=registry_address(),
        experiment=experiment_of(client, job.run.run_id),
        ran_by=user(),
    )
    with where_readable():
        by = {batch.digest: user_of(client, batch.run_id) for batch in inputs.batches}
        experiment = experiment_of(client, inputs.batches[0].run_id)
        found = replace(found, failures_by=by, failures_experiment=experiment)
    with where_readable():
        found = replace(found, champion_by=user_of(client, ref.run_id))
    with where_readable():
        digest = inputs.sets["evaluation"].digest
        found = replace(found, earlier_gates=tuple(gates_decided_by(client, ref.name, digest, job.key)))
    if ref.alias:
        with where_readable():
            now = version_at(client, ref.name, ref.alias) or ""
            moves = with_outside(promotions(client, ref.name), ref.name, ref.alias, now)
            found = replace(found, alias_history=tuple(map(_as_move, moves)))
    job.record = replace(job.record, provenance=found)


def _as_move(move: Promotion) -> AliasMove:
    at = datetime.fromtimestamp(move.at / 1000, UTC).isoformat(timespec="seconds") if move.at else ""
    return AliasMove(move.kind, move.version_from, move.version_to, move.by, move.reason, at, move.forced)
