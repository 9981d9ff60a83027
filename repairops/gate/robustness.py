"""Side effects that clean accuracy does not show: other corruptions, and confidence."""

from __future__ import annotations

import math
from typing import Any

from repairops.config import GateConfig
from repairops.evidence import Evidence, Result
from repairops.gate.falls import damage, fall_row
from repairops.gate.wording import Finding, no_comparison


def corruptions(evidence: Evidence, policy: GateConfig) -> Finding:
    """FAIL where accuracy under a general corruption falls significantly beyond `corruption_margin_points`."""
    margin = policy.corruption_margin_points
    rows = [fall_row(name, counts, margin) for name, counts in evidence.corruptions.items()]
    figures = {"corruptions": rows, "margin_points": margin, "confidence": policy.confidence}
    if missing := no_comparison(evidence):
        return (*missing, figures)
    if not rows:
        return "INCONCLUSIVE", "No corruption was tried.", figures
    words = "accuracy", "corruption", "there is no image under"
    result, summary = damage(rows, margin, policy.confidence, *words)
    return result, summary, figures


def calibration(evidence: Evidence, policy: GateConfig) -> Finding:
    """A figure against a limit, no test: the expected calibration error may rise by `max_ece_rise`."""
    found, limit = evidence.calibration, policy.max_ece_rise
    before, after = (found.champion_ece, found.challenger_ece) if found else (math.nan, math.nan)
    figures: dict[str, Any] = {
        "champion_ece": before,
        "challenger_ece": after,
        "rise": after - before,
        "max_rise": limit,
    }
    if missing := no_comparison(evidence):
        return (*missing, figures)
    if not math.isfinite(after - before):
        return "INCONCLUSIVE", "The calibration was not measured.", figures
    result: Result = "PASS" if after - before <= limit else "FAIL"
    goes = f"The expected calibration error on the clean set goes from {before:.3f} to {after:.3f}"
    return result, f"{goes}; it may rise by at most {limit:g}.", figures
