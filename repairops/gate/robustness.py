"""Side effects that clean accuracy does not show: other corruptions, and confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from repairops.config import GateConfig
from repairops.gate.evidence import ConfidenceBin, Evidence
from repairops.gate.falls import damage, fall_row
from repairops.gate.phrases import Ruling, no_comparison
from repairops.gate.statistics import quantile


def check_corruptions(evidence: Evidence, policy: GateConfig) -> Ruling:
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


def check_calibration(evidence: Evidence, policy: GateConfig) -> Ruling:
    """FAIL where the expected calibration error rises by more than `max_ece_rise`, sampling error aside.

    The error is estimated with the sign of each bin's gap held, and as if the networks answered different images.
    """
    found, limit = evidence.calibration, policy.max_ece_rise
    before, after = (found.champion_ece, found.challenger_ece) if found else (math.nan, math.nan)
    error = math.hypot(_standard_error(found.champion), _standard_error(found.challenger)) if found else math.nan
    figures: dict[str, Any] = {"champion_ece": before, "challenger_ece": after, "max_rise": limit}
    figures |= {"rise": after - before, "standard_error": error, "confidence": policy.confidence}
    if missing := no_comparison(evidence):
        return (*missing, figures)
    if not math.isfinite(after - before):
        return "INCONCLUSIVE", "The calibration was not measured.", figures
    goes = f"The expected calibration error on the clean set goes from {before:.3f} to {after:.3f}"
    allowed = f"it may rise by at most {limit:g}"
    if after - before <= limit:
        return "PASS", f"{goes}; {allowed}.", figures
    if after - before - quantile(policy.confidence) * error > limit:
        return "FAIL", f"{goes}; {allowed}.", figures
    return "INCONCLUSIVE", f"{goes}; {allowed}, and on so few images it can have risen by chance.", figures


def _standard_error(bins: Sequence[ConfidenceBin]) -> float:
    n = sum(b.n for b in bins)
    return math.sqrt(sum(b.right * (b.n - b.right) / b.n for b in bins if b.n)) / n if n else math.nan
