"""Evaluate, export and gate: the stages that judge the challenger, on data that nothing was chosen by."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from repairops.errors import ExportImpossible
from repairops.evaluation import Evaluation, evaluate
from repairops.export import compare, export_onnx, measure_latency
from repairops.gate import decide
from repairops.job import Job
from repairops.network import Classifier
from repairops.records import CleanSet, Evidence, HeldOutFailures, LatencyFigures, ParityCounts, Verdict
from repairops.store.champion import Champion

log = logging.getLogger("repairops")


def judge(
    job: Job, champion: Champion, challenger: Classifier, clean: CleanSet, heldout: HeldOutFailures
) -> Evaluation:
    """Both networks once over the clean set and the held-out failures."""
    evaluation = evaluate(champion.classifier, challenger, clean, heldout, device=job.device)
    repaired, total = int(evaluation.challenger_heldout.right.sum()), len(heldout.batch)
    before, after = evaluation.champion_clean.accuracy, evaluation.challenger_clean.accuracy
    job.values["challenger"] = {"clean_accuracy": after, "heldout_repaired": repaired, "heldout_total": total}
    job.values["negative_flips"] = evaluation.clean.champion_only
    rate = repaired / total if total else float("nan")
    job.run.log_metrics(
        0, {"champion_clean_accuracy": before, "challenger_clean_accuracy": after, "heldout_repair_rate": rate}
    )
    job.say(f"{repaired} of {total} held-out failures repaired, clean accuracy {before:.2%} -> {after:.2%}")
    return evaluation


def export_and_compare(
    job: Job,
    champion: Champion,
    challenger: Classifier,
    clean: CleanSet,
    heldout: HeldOutFailures,
    evaluation: Evaluation,
) -> Evidence:
    """Exports the challenger, compares it with ONNX Runtime on all judging images, and times it beside the champion.

    An export that is not possible is evidence too: the parity check fails with the exporter's reason.
    """
    parity, latency = ParityCounts(), None
    file = onnx_file(job)
    try:
        export_onnx(challenger.network, challenger.spec, file)
        sets = [clean.images.pixels, heldout.batch.images.pixels]
        parity = compare(challenger, file, sets, tolerance=job.config.gate.parity_tolerance, device=job.device)
        latency = _latency(job, champion, file)
        job.say(f"{parity.n} images, {parity.decisions_differ} decisions differ, at most {parity.max_difference:.1e}")
    except ExportImpossible as error:
        parity = ParityCounts(reason=str(error))
        job.say(f"no ONNX file: {error}")
    return Evidence(
        clean=evaluation.clean,
        clean_by_class=evaluation.clean_by_class,
        heldout_repaired=int(evaluation.challenger_heldout.right.sum()),
        heldout_total=len(heldout.batch),
        parity=parity,
        latency=latency,
        champion_finite=evaluation.champion_finite,
        challenger_finite=evaluation.challenger_finite,
    )


def ask_gate(job: Job, evidence: Evidence) -> Verdict:
    """The gate's verdict, with the evidence and the policy that it can be computed from again."""
    verdict = decide(evidence, job.config.gate)
    job.values["evidence"] = evidence.to_dict()
    job.values["policy"] = asdict(job.config.gate)
    job.values["verdict"] = verdict.to_dict()
    reasons = [check.summary for check in verdict.checks if check.level == "required" and check.result != "PASS"]
    job.say(verdict.result + (": " + " ".join(reasons) if reasons else ""))
    return verdict


def onnx_file(job: Job) -> Path:
    """Where the challenger's ONNX file lies in the job's folder."""
    return job.folder / "challenger.onnx"


def _latency(job: Job, champion: Champion, challenger_file: Path) -> LatencyFigures | None:
    """Both under ONNX Runtime; None where the champion does not export (then there is nothing to compare with)."""
    if job.config.gate.latency == "off":
        return None
    champion_file = job.folder / "champion.onnx"
    try:
        export_onnx(champion.classifier.network, champion.spec, champion_file)
    except ExportImpossible as error:
        log.warning("Warning: the champion does not export, so there is no latency to compare with: %s", error)
        return None
    return measure_latency(champion_file, challenger_file, champion.spec)
