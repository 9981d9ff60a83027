"""Repaired held-out failures against the share that is required."""

from __future__ import annotations

from typing import Any

from repairops.config import GateConfig
from repairops.gate.evidence import Evidence
from repairops.gate.phrases import Finding, not_finite, percent
from repairops.gate.statistics import (
    binomial_interval,
    binomial_p_value,
    binomial_score,
    settling_size,
    smallest_settled,
)


def repair_rate(evidence: Evidence, policy: GateConfig) -> Finding:
    """PASS where the exact lower bound reaches the required rate, FAIL where the upper one stays below."""
    repaired, total, wanted = evidence.heldout_repaired, evidence.heldout_total, policy.min_repair_rate
    lower, upper = binomial_interval(repaired, total, policy.confidence)
    figures: dict[str, Any] = {
        "repaired": repaired,
        "total": total,
        "rate": repaired / total if total else None,
        "lower": lower,
        "upper": upper,
        "min_rate": wanted,
        "confidence": policy.confidence,
        "failures_needed": None,
    }
    if missing := not_finite(evidence):
        return (*missing, figures)
    if total == 0:
        return "INCONCLUSIVE", "No failure was held out, so nothing shows what the repair does.", figures
    start = f"{repaired:,} of {total:,} held-out failures are right now ({percent(repaired, total)})"
    sure = f"with {100 * policy.confidence:g}% confidence"
    if lower >= wanted:
        return "PASS", f"{start}; {sure} at least {lower:.1%} are repaired, and {wanted:.1%} are required.", figures
    if upper < wanted:
        return "FAIL", f"{start}; {sure} at most {upper:.1%} are repaired, and {wanted:.1%} are required.", figures
    needed = figures["failures_needed"] = failures_needed(repaired, total, wanted, policy.confidence)
    more = f"about {needed:,} held-out failures" if needed else "no number of such failures"
    return "INCONCLUSIVE", f"{start}; {wanted:.1%} are required, and {more} would settle it.", figures


def failures_needed(repaired: int, total: int, wanted: float, confidence: float) -> int | None:
    """About the smallest number of failures, at this share repaired, that settles it; None where none ever does."""
    rate = min(max(wanted, 0.0), 1.0)
    score = binomial_score(repaired, total, rate)
    start = settling_size(score, total, confidence)

    def settled(size: int) -> bool:
        return binomial_p_value(round(repaired * size / total), size, rate, less=score < 0) <= 1 - confidence

    return smallest_settled(start, settled) if start else None
