"""The gate: from counts and figures to a verdict. Statistics only, no torch; the same evidence, the same verdict."""

from __future__ import annotations

from collections.abc import Callable

from repairops.config import GateConfig, Level
from repairops.gate.accuracy import class_recall, clean_non_regression, negative_flips
from repairops.gate.evidence import Check, Evidence, Result, Verdict
from repairops.gate.parts import cluster_repair, slices
from repairops.gate.phrases import Finding, plain
from repairops.gate.planning import CHANGED, plan, power
from repairops.gate.repair_rate import repair_rate
from repairops.gate.robustness import calibration, corruptions
from repairops.gate.served import latency, onnx_accuracy, onnx_parity

__all__ = ["CHANGED", "RULES", "decide", "plan", "power"]

# In the order of the report; the names are the level fields of GateConfig.
RULES: dict[str, Callable[[Evidence, GateConfig], Finding]] = {
    "clean_non_regression": clean_non_regression,
    "repair_rate": repair_rate,
    "class_recall": class_recall,
    "negative_flips": negative_flips,
    "cluster_repair": cluster_repair,
    "slices": slices,
    "corruptions": corruptions,
    "calibration": calibration,
    "onnx_parity": onnx_parity,
    "onnx_accuracy": onnx_accuracy,
    "latency": latency,
}


def decide(evidence: Evidence, policy: GateConfig) -> Verdict:
    """FAIL where a required check fails, else INCONCLUSIVE where one is, else PASS; checks at level 'off' are left out.

    So is an advisory check of slices where no column names any: it would say nothing to a reviewer.
    Whatever the levels, outputs of the challenger that are not finite are never better than FAIL, and a missing
    baseline (no clean image, or outputs of the champion that are not finite) never better than INCONCLUSIVE.
    """
    checks = []
    for name, rule in RULES.items():
        level = getattr(policy, name)
        if _asked(name, level, evidence):
            result, summary, figures = rule(evidence, policy)
            checks.append(Check(name, level, result, summary, plain(figures)))
    results: list[Result] = [check.result for check in checks if check.level == "required"]
    if not evidence.challenger_finite:
        results.append("FAIL")
    if not evidence.champion_finite or evidence.clean.n == 0:
        results.append("INCONCLUSIVE")
    worst: Result = "FAIL" if "FAIL" in results else "INCONCLUSIVE" if "INCONCLUSIVE" in results else "PASS"
    return Verdict(worst, tuple(checks))


def _asked(name: str, level: Level, evidence: Evidence) -> bool:
    return level == "required" or (level == "advisory" and (name != "slices" or bool(evidence.slices)))
