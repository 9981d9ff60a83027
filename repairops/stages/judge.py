"""Evaluate, export and gate: the stages that judge the challenger, on data that nothing was chosen by."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from repairops.config import derive_seed
from repairops.core.methods import CONSOLIDATE
from repairops.core.repair import Repaired
from repairops.data.records import CleanSet, FieldRows, HeldOutFailures
from repairops.data.sources import read_column
from repairops.errors import ExportImpossible
from repairops.gate import decide
from repairops.gate.evidence import Calibration, Evidence, OnnxAccuracy, ParityCounts, Slice, Verdict
from repairops.model.corrupted import corrupted_counts
from repairops.model.evaluation import (
    Evaluation,
    Known,
    evaluate,
    paired_counts,
    predict,
    predictions,
    reliability,
    repaired_by,
)
from repairops.model.onnx import compare, export_onnx, measure_latency, run_onnx
from repairops.model.routing import at_a_limit, by_who_answers, routing_of
from repairops.outcome.sections import Artifacts, ChallengerFigures
from repairops.stages.gallery import nearest_to
from repairops.stages.job import Job
from repairops.stages.traffic import with_field_rows
from repairops.store.champion import Champion
from repairops.store.runs import file_sha256

log = logging.getLogger("repairops")
MAX_SLICES = 100  # values of a column; one with more is no slice but a name for each image


def measure(job: Job, champion: Champion, repaired: Repaired, clean: CleanSet, known: Known) -> Evaluation:
    """The challenger over the clean set and the held-out failures, and the champion where its answer is not known."""
    heldout = repaired.split.heldout
    found = evaluate(champion.classifier, repaired.network, clean, heldout, device=job.device, known=known)
    right, total = found.heldout_repaired, found.heldout_total
    before, after = found.champion_clean.accuracy, found.challenger_clean.accuracy
    figures = ChallengerFigures(after, right, total)
    job.record = replace(job.record, challenger=figures, negative_flips=found.clean.champion_only)
    metrics = {"champion_clean_accuracy": before, "challenger_clean_accuracy": after}
    job.run.log_metrics(0, {**metrics, "heldout_repair_rate": right / total if total else float("nan")})
    job.say(f"{right} of {total} held-out failures repaired, clean accuracy {before:.2%} -> {after:.2%}")
    return found


def weigh(
    job: Job,
    champion: Champion,
    repaired: Repaired,
    clean: CleanSet,
    field: FieldRows | None,
    evaluation: Evaluation,
    earlier: HeldOutFailures | None,
) -> Evidence:
    """The evaluation as counts: overall, by class, cluster and slice, under corruptions, calibration, field rows.

    earlier: what earlier repairs of the champion held out.
    """
    heldout, clusters, policy = repaired.split.heldout.batch, repaired.clusters, job.config.gate
    right, consolidates = evaluation.challenger_heldout.right, job.config.method.name == CONSOLIDATE
    corrupted, networks = {}, (champion.classifier, repaired.network)
    if policy.corruptions != "off":
        limit, seed = policy.corruption_images, derive_seed(job.config.seed, "gate")
        corrupted = corrupted_counts(*networks, clean.images, limit=limit, seed=seed, device=job.device)
    nearest = nearest_to(repaired)
    column, values = policy.clean_slices, _values_of_slices(clean, policy.clean_slices)
    evidence = Evidence(
        clean=evaluation.clean,
        clean_by_class=evaluation.clean_by_class,
        heldout_repaired=evaluation.heldout_repaired,
        heldout_total=evaluation.heldout_total,
        parity=ParityCounts(),
        champion_finite=evaluation.champion_finite,
        challenger_finite=evaluation.challenger_finite,
        heldout_by_cluster=repaired_by(right, nearest, [str(number) for number in range(clusters.count)]),
        slices=tuple(_failure_slices(heldout.sources, right) + _clean_slices(column, values, evaluation)),
        corruptions=corrupted,
        calibration=Calibration(reliability(evaluation.champion_clean), reliability(evaluation.challenger_clean)),
        heldout=paired_counts(evaluation.champion_heldout.right, right) if consolidates else None,
        routing=routing_of(evaluation, clean.images, heldout, nearest, clusters.count, values),
    )
    if earlier is not None:
        images = earlier.batch.images
        before, after = (predict(who, images.pixels, images.labels, device=job.device).right for who in networks)
        evidence = replace(evidence, earlier=paired_counts(before, after))
        told = "           of %d failures that earlier repairs held out %d were right, %d are now"
        log.info(told, len(images), before.sum(), after.sum())
    return with_field_rows(job, evidence, repaired, field, evaluation)


def export_and_compare(
    job: Job, champion: Champion, repaired: Repaired, clean: CleanSet, evaluation: Evaluation, evidence: Evidence
) -> Evidence:
    """Exports the challenger, compares it with ONNX Runtime on all judging images, and with the champion's ONNX file.

    An export that is not possible is evidence too: the parity check fails with the exporter's reason.
    """
    challenger, file = repaired.network, onnx_file(job)
    sets = clean.images.pixels, repaired.split.heldout.batch.images.pixels
    try:
        export_onnx(challenger.network, challenger.spec, file, guard=job.config.export.guard)
        job.record = replace(job.record, artifacts=_described(file))
        found = [run_onnx(file, challenger.spec, pixels) for pixels in sets]
    except ExportImpossible as error:
        job.say(f"no ONNX file: {error}")
        return replace(evidence, parity=ParityCounts(reason=str(error)))
    ties = [at_a_limit(challenger.network, answers.probability) for answers in evaluation.guard or ()]
    parity = compare(evaluation.outputs, found, ties, tolerance=job.config.gate.parity_tolerance)
    job.say(f"{parity.n} images, {parity.decisions_differ} decisions differ, at most {parity.max_difference:.1e}")
    right = predictions(found[0], clean.images.labels).right
    who = by_who_answers(evaluation.guard, sets)
    return _beside_champion(job, champion, clean, replace(evidence, parity=parity), right, who)


def ask_gate(job: Job, evidence: Evidence) -> Verdict:
    """The gate's verdict, with the evidence and the policy that it can be computed from again."""
    verdict = decide(evidence, job.config.gate)
    job.record = replace(job.record, evidence=evidence, policy=job.config.gate, verdict=verdict)
    reasons = [check.summary for check in verdict.checks if check.level == "required" and check.result != "PASS"]
    job.say(verdict.result + (": " + " ".join(reasons) if reasons else ""))
    return verdict


def onnx_file(job: Job) -> Path:
    """Where the challenger's ONNX file lies in the job's folder."""
    return job.folder / "challenger.onnx"


def _described(file: Path, champion_file: Path | None = None) -> Artifacts:
    size = champion_file.stat().st_size if champion_file else None
    return Artifacts(onnx_sha256=file_sha256(file), onnx_bytes=file.stat().st_size, champion_onnx_bytes=size)


def _beside_champion(
    job: Job, champion: Champion, clean: CleanSet, evidence: Evidence, right: np.ndarray, who: tuple[Tensor, Tensor]
) -> Evidence:
    """Accuracy and latency of both ONNX files; neither where the champion's cannot be had.

    right: bool (N,), the clean images that the challenger's file gets right. who: images by who answers them.
    """
    policy, file = job.config.gate, onnx_file(job)
    if policy.latency == "off" and policy.onnx_accuracy == "off":
        return evidence
    champion_file = job.folder / "champion.onnx"
    try:
        export_onnx(champion.classifier.network, champion.spec, champion_file)
        job.record = replace(job.record, artifacts=_described(file, champion_file))
        if policy.onnx_accuracy != "off":
            found = run_onnx(champion_file, champion.spec, clean.images.pixels)
            before = predictions(found, clean.images.labels).right
            evidence = replace(evidence, onnx_accuracy=OnnxAccuracy(paired_counts(before, right)))
    except ExportImpossible as error:
        log.warning("Warning: the champion does not export, so there is nothing to compare with: %s", error)
        return evidence
    if policy.latency != "off":
        answered, routed = who
        files = champion_file, file, champion.spec
        if len(answered):
            evidence = replace(evidence, latency=measure_latency(*files, answered))
        if len(routed) and evidence.routing:
            evidence = replace(evidence, routing=replace(evidence.routing, latency=measure_latency(*files, routed)))
    return evidence


def _failure_slices(sources: np.ndarray, right: np.ndarray) -> list[Slice]:
    """Held-out failures by source, where two or more are named."""
    found = repaired_by(right, sources)
    return [Slice("source", value, counts) for value, counts in found.items()] if _usable(found) else []


def _values_of_slices(clean: CleanSet, column: str) -> np.ndarray:
    """The column's value for each clean image that judges, text (N,), '' for none; empty where it makes no slices."""
    if not column:
        return np.empty(0, "<U1")
    values = read_column(clean.images.source, column, "gate.clean_slices")
    values = values if clean.rows is None else values[clean.rows]
    names = {*values.tolist()} - {""}
    if not _usable(names):
        log.warning("Warning: the column %r has %d values, so it makes no slices.", column, len(names))
        return values[:0]
    return values


def _clean_slices(column: str, values: np.ndarray, evaluation: Evaluation) -> list[Slice]:
    before, after = evaluation.champion_clean.right, evaluation.challenger_clean.right
    names = sorted({*values.tolist()} - {""})
    return [Slice(column, name, paired_counts(before[values == name], after[values == name])) for name in names]


def _usable(names: Collection[str]) -> bool:
    return 2 <= len(names) <= MAX_SLICES
