"""What the registry knows around a job: who, where, and how often this clean set has decided before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from repairops.errors import RegistryRefused
from repairops.outcome.provenance import AliasMove, Provenance
from repairops.promotion.history import Promotion, promotions, user, with_outside
from repairops.stages.job import Job
from repairops.stages.pull import Inputs
from repairops.store.connection import is_absent, talking
from repairops.store.jobs import gates_decided_by
from repairops.store.models import version_at

if TYPE_CHECKING:
    from mlflow import MlflowClient


def note_provenance(job: Job, inputs: Inputs) -> None:
    """Writes it into the record. What this user may not read stays empty: it stops no repair."""
    client, ref = inputs.client, inputs.ref
    found = Provenance(
        registry=_without_credentials(_address()),
        experiment=_experiment(client, job.run.run_id),
        ran_by=user(),
    )
    with _where_readable():
        by = {batch.digest: _user(client, batch.run_id) for batch in inputs.batches}
        experiment = _experiment(client, inputs.batches[0].run_id)
        found = replace(found, failures_by=by, failures_experiment=experiment)
    with _where_readable():
        found = replace(found, champion_by=_user(client, ref.run_id))
    with _where_readable():
        digest = inputs.sets["evaluation"].digest
        found = replace(found, earlier_gates=tuple(gates_decided_by(client, ref.name, digest, job.key)))
    if ref.alias:
        with _where_readable():
            now = version_at(client, ref.name, ref.alias) or ""
            moves = with_outside(promotions(client, ref.name), ref.name, ref.alias, now)
            found = replace(found, alias_history=tuple(map(_as_move, moves)))
    job.record = replace(job.record, provenance=found)


@contextmanager
def _where_readable() -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except RegistryRefused:
        pass
    except MlflowException as error:
        if not is_absent(error):  # else a run that was deleted since
            raise


def _address() -> str:
    import mlflow

    return str(mlflow.get_tracking_uri())


def _without_credentials(uri: str) -> str:
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.netloc else uri


def _experiment(client: MlflowClient, run_id: str) -> str:
    with talking("read the run"):
        return str(client.get_run(run_id).info.experiment_id)


def _user(client: MlflowClient, run_id: str) -> str:
    if not run_id:
        return ""
    with talking("read the run"):
        run = client.get_run(run_id)
    return str(run.data.tags.get("mlflow.user") or run.info.user_id or "")


def _as_move(move: Promotion) -> AliasMove:
    at = datetime.fromtimestamp(move.at / 1000, UTC).isoformat(timespec="seconds") if move.at else ""
    return AliasMove(move.kind, move.version_from, move.version_to, move.by, move.reason, at, move.forced)
