"""Failures of the version's earlier repairs: what trained is replayed, what chose chooses, what was held out judges."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from repairops.config import derive_seed
from repairops.data.records import FailureBatch, FailureSplit
from repairops.data.split import split_beside
from repairops.errors import FailureBatchDamaged, RegistryUnreachable, RolesLost
from repairops.outcome.given import EarlierFailures
from repairops.stages.job import Job
from repairops.store.batches import LoggedBatch, fetch_rows
from repairops.store.failure_rows import FailureRows
from repairops.store.models import ModelRef
from repairops.store.registry import failure_roles

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("repairops")


@dataclass(frozen=True, eq=False)
class Earlier:
    """batches: what the version and its parents were repaired from, with all `rows` as they were logged.

    roles: what each failure was in these repairs ('repair', 'validation' or 'heldout'), by its sample id.
    note: why there are none; '' where there are, or where the version is no repaired one.
    """

    batches: Sequence[LoggedBatch] = ()
    rows: FailureRows | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def find_earlier(client: MlflowClient, ref: ModelRef, batches: Sequence[LoggedBatch]) -> Earlier:
    """The failures of earlier repairs, by the batches that these took; none where something of them was deleted."""
    if not batches:
        return Earlier()
    try:
        return Earlier(batches, fetch_rows(client, batches), failure_roles(client, ref))
    except (RolesLost, FailureBatchDamaged, RegistryUnreachable) as error:
        return Earlier(
            note=f"The failures of earlier repairs have no part in this one, and nothing tells whether it keeps "
            f"them: {error}"
        )


def settle_parts(
    job: Job, failures: FailureBatch, before: FailureBatch | None, earlier: Earlier
) -> tuple[FailureSplit | None, FailureSplit | None]:
    """The parts of the new failures and of those of `before`; None and None where there are none of these.

    An earlier failure keeps its part, and new ones that are alike to it take it (`split_beside`).
    """
    found = EarlierFailures(tuple(batch.digest for batch in earlier.batches), note=earlier.note)
    if earlier.note:
        log.warning("Warning: %s", earlier.note)
    if earlier.batches or earlier.note:
        job.record = replace(job.record, earlier=found)
    if before is None:
        return None, None
    options = job.config.split
    split, parts = split_beside(
        failures,
        before,
        earlier.roles,
        heldout_fraction=options.heldout_fraction,
        validation_fraction=options.validation_fraction,
        near_duplicate_similarity=options.near_duplicate_similarity,
        seed=derive_seed(job.config.seed, "split"),
    )
    repair, validation, heldout = map(len, (parts.repair, parts.validation, parts.heldout.batch))
    job.record = replace(job.record, earlier=replace(found, repair=repair, validation=validation, heldout=heldout))
    log.info("           of earlier repairs %d repair, %d validation, %d heldout", repair, validation, heldout)
    return split, parts
