"""What a repair does to the field's traffic, where a labelled sample of it was logged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from repairops.core.repair import Repaired
from repairops.data.records import FieldRows
from repairops.data.split import apart_from
from repairops.gate.evidence import Evidence, FieldCounts, RepairCounts, RoutedCounts
from repairops.model.evaluation import Evaluation, guard_answers, predict
from repairops.model.guarded import Guarded
from repairops.stages.job import Job


def with_field_rows(
    job: Job, evidence: Evidence, repaired: Repaired, field: FieldRows | None, evaluation: Evaluation
) -> Evidence:
    """The evidence with what the challenger answers to the field rows that judge, whose ids are logged.

    Those that share a scene with a failure that has trained or chosen do not judge: what the network has learnt of it
    says nothing of other images.
    """
    if field is None:
        return evidence
    rows = apart_from(field, repaired.split, job.config.split.near_duplicate_similarity)
    judging, challenger = field.subset(rows).images, repaired.network
    job.log_role("field_rows", judging.sample_ids)
    right = predict(challenger, judging.pixels, judging.labels, device=job.device).right
    held = np.isin(repaired.split.heldout.batch.images.sample_ids, list(field.failures))
    counts = FieldCounts(
        right=len(field.images),
        failed=len(field.failures),
        judged=len(rows),
        broken=int((~right).sum()),
        heldout=RepairCounts(int(evaluation.challenger_heldout.right[held].sum()), int(held.sum())),
    )
    routing = evidence.routing
    if routing and isinstance(challenger.network, Guarded):
        routed = guard_answers(challenger, judging.pixels, device=job.device).routed
        routing = replace(routing, field_rows=RoutedCounts(int(routed.sum()), len(rows)))
    return replace(evidence, field_rows=counts, routing=routing)
