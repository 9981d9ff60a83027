"""Clean accuracy: no worse overall, and not by trading some images for others."""

from __future__ import annotations

from typing import Any

from repairops.config import GateConfig
from repairops.gate.evidence import Evidence, PairedCounts, Result
from repairops.gate.exact import exact_lower, exact_p_value
from repairops.gate.phrases import Ruling, allowed, as_share, can_be, difference_points, goes, no_comparison
from repairops.gate.statistics import MOST, settling_size, smallest_settled, tango_score

LARGE = 100_000  # images; sums over all tables take their time beyond


def check_clean_non_regression(evidence: Evidence, policy: GateConfig) -> Ruling:
    """PASS where a loss of the margin or more is rejected, FAIL where a loss within it is."""
    counts = evidence.clean
    figures: dict[str, Any] = {"n": counts.n, "margin_points": policy.margin_points, "images_needed": None}
    if missing := no_comparison(evidence):
        return (*missing, figures)
    result, found = against_margin(counts, policy.margin_points, policy.confidence)
    figures |= found
    lower, upper = found["lower_points"], found["upper_points"]
    start = f"Clean accuracy {goes(counts)}"
    sure, limit = f"with {100 * policy.confidence:g}% confidence", allowed(policy.margin_points)
    if result == "PASS":
        bound = "does not fall" if lower >= 0 else f"falls by at most {-lower:.2f} points"
        return "PASS", f"{start}; {sure} it {bound}, and {limit}.", figures
    if result == "FAIL":
        return "FAIL", f"{start}; {sure} it falls by at least {-upper:.2f} points, and {limit}.", figures
    needed = figures["images_needed"] = images_needed(counts, as_share(policy.margin_points), policy.confidence)
    more = f"about {needed:,} clean images" if needed else f"no clean set of up to {MOST:,} images"
    return "INCONCLUSIVE", f"{start}; {can_be(found)}, {limit}, and {more} would settle it.", figures


def against_margin(counts: PairedCounts, margin_points: float, confidence: float) -> tuple[Result, dict[str, Any]]:
    """The exact test's answer to a loss of the margin; both accuracies, and the difference with one-sided bounds."""
    won, lost, n, margin = counts.challenger_only, counts.champion_only, counts.n, as_share(margin_points)
    figures = {
        "champion_accuracy": counts.champion_right / n,
        "challenger_accuracy": counts.challenger_right / n,
        "difference_points": difference_points(counts),
        "lower_points": 100 * exact_lower(won, lost, n, confidence, -margin),
        "upper_points": -100 * exact_lower(lost, won, n, confidence, margin),
        "confidence": confidence,
    }
    risk = 1 - confidence
    if exact_p_value(won, lost, n, -margin) <= risk:
        return "PASS", figures
    return ("FAIL" if exact_p_value(lost, won, n, margin) <= risk else "INCONCLUSIVE"), figures


def images_needed(counts: PairedCounts, margin: float, confidence: float) -> int | None:
    """About the smallest sample with these shares that is settled; None where none ever is.

    Above `LARGE` it is the score test's, which is as good there.
    """
    won, lost, n = counts.challenger_only, counts.champion_only, counts.n
    score = tango_score(won, lost, n, -margin)
    start = settling_size(score, n, confidence)

    def settled(size: int) -> bool:
        more, fewer = round(won * size / n), round(lost * size / n)
        p = exact_p_value(more, fewer, size, -margin) if score > 0 else exact_p_value(fewer, more, size, margin)
        return p <= 1 - confidence

    return smallest_settled(start, settled) if start and start <= LARGE else start


def check_negative_flips(evidence: Evidence, policy: GateConfig) -> Ruling:
    counts, limit = evidence.clean, policy.max_negative_flips
    figures = {"flips": counts.champion_only, "n": counts.n, "share": None, "max_share": limit}
    if missing := no_comparison(evidence):
        return (*missing, figures)
    flipped = counts.champion_only / counts.n
    result: Result = "PASS" if flipped <= limit else "FAIL"
    flips = f"{counts.champion_only:,} of {counts.n:,} clean images were right and are wrong now ({flipped:.2%})"
    return result, f"{flips}; at most {limit:.2%} are allowed.", figures | {"share": flipped}


def check_clean_routing(evidence: Evidence, policy: GateConfig) -> Ruling:
    """FAIL where the guard sends more clean images to the repaired network than `max_clean_routing`."""
    limit, found = policy.max_clean_routing, evidence.routing
    figures: dict[str, Any] = {"routed": None, "n": 0, "share": None, "max_share": limit}
    if found is None or not found.clean.total:
        return "INCONCLUSIVE", "There is no guard, or no clean image for it.", figures
    routed, n = found.clean.routed, found.clean.total
    share = routed / n
    images = (
        f"The repaired network answers for {routed:,} of {n:,} clean images ({share:.2%}), the champion for the rest"
    )
    result: Result = "PASS" if share <= limit else "FAIL"
    return result, f"{images}; at most {limit:.2%} are allowed.", figures | {"routed": routed, "n": n, "share": share}
