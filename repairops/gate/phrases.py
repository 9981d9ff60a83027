"""What the checks share: what is missing, and how figures are put into a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from repairops.gate.evidence import Evidence, PairedCounts, Result

Ruling = tuple[Result, str, Mapping[str, Any]]


def not_finite(evidence: Evidence) -> tuple[Result, str] | None:
    """The answer where outputs hold NaN or infinity, so that nothing can be compared."""
    if not evidence.challenger_finite:
        return "FAIL", "The challenger's outputs hold NaN or infinity."
    if not evidence.champion_finite:
        return "INCONCLUSIVE", "The champion's outputs hold NaN or infinity, so there is no baseline."
    return None


def no_comparison(evidence: Evidence) -> tuple[Result, str] | None:
    """As `not_finite`, and the answer where there is no clean image."""
    if missing := not_finite(evidence):
        return missing
    return (
        None if evidence.clean.n else ("INCONCLUSIVE", "There is no clean image to compare champion and challenger on.")
    )


def as_share(points: float) -> float:
    """Percentage points as a share in -1..1."""
    return min(max(points / 100, -1.0), 1.0)


def difference_points(counts: PairedCounts) -> float:
    return 100 * (counts.challenger_only - counts.champion_only) / counts.n


def percent_of(part: int, total: int) -> str:
    return f"{part / total:.2%}"


def goes(counts: PairedCounts) -> str:
    before, after = (percent_of(right, counts.n) for right in (counts.champion_right, counts.challenger_right))
    return f"goes from {before} to {after} on {counts.n:,} images"


def can_be(figures: Mapping[str, Any]) -> str:
    lower, upper = figures["lower_points"], figures["upper_points"]
    return f"the change can be {signed_points(lower)} to {signed_points(upper)} points"


def signed_points(points: float) -> str:
    return f"{points:+.2f}".replace("-", "−")


def allowed(margin: float) -> str:
    return "1 point is allowed" if margin == 1 else f"{margin:g} points are allowed"


def one_sentence(reasons: list[str]) -> str:
    """Findings as one sentence: joined by semicolons, with one capital at its start."""
    text = "; ".join(f"{reason[0].lower()}{reason[1:]}" for reason in reasons)
    return f"{text[0].upper()}{text[1:]}."


def without_nan(value: Any) -> Any:
    """Plain JSON values: NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {key: without_nan(v) for key, v in value.items()}
    if isinstance(value, list):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
