"""The field's traffic, from a labelled sample: what fails, accuracy before and after, right answers that broke."""

from __future__ import annotations

from typing import Any, NamedTuple

from repairops.config import GateConfig
from repairops.gate.accuracy import against_margin, images_needed
from repairops.gate.evidence import Evidence, FieldCounts, PairedCounts
from repairops.gate.phrases import Ruling, allowed, as_share, can_be, not_finite, percent_of
from repairops.gate.statistics import MOST, binomial_interval


class Estimate(NamedTuple):
    """A share in 0..1, or a change of one, with one-sided bounds; value None where nothing shows it."""

    value: float | None
    lower: float
    upper: float


class FieldAccuracy(NamedTuple):
    """Of the traffic: what the champion has wrong, and the accuracy of champion and challenger and its change."""

    failing: Estimate
    before: Estimate
    after: Estimate
    change: Estimate


def field_accuracy(counts: FieldCounts, confidence: float) -> FieldAccuracy:
    """What the sample shows, with bounds that hold exactly where its scenes are independent.

    The traffic is the failing share p of it and the rest. Of the former the challenger has right what it repairs, r, of
    the latter what does not break, 1 - b; so its accuracy is p r + (1 - p)(1 - b). p is counted in the whole sample, r
    on its held-out failures, which stand for all of its failures, b on the field rows that judge. The bounds of
    accuracy and change are the worst that the three Clopper-Pearson bounds allow, each at a third of the risk: they
    hold together with the confidence, and are wider than need be.
    """
    sample, held = counts.right + counts.failed, counts.heldout
    low, high = binomial_interval(counts.failed, sample, confidence)
    share = counts.failed / sample if sample else None
    failing = Estimate(share, low, high)
    before = Estimate(None if share is None else 1 - share, 1 - high, 1 - low)
    part = 1 - (1 - confidence) / 3
    p, r, b = (
        binomial_interval(hits, n, part) if n else (0.0, 1.0)
        for hits, n in ((counts.failed, sample), (held.repaired, held.total), (counts.broken, counts.judged))
    )
    gained = [[x * rate for x in p] for rate in r]  # [bound of r][bound of p]
    lost = [[(1 - x) * rate for x in p] for rate in b]
    change = (
        min(g - w for g, w in zip(gained[0], lost[1], strict=True)),
        max(g - w for g, w in zip(gained[1], lost[0], strict=True)),
    )
    after = (
        min(1 - x + g - w for x, g, w in zip(p, gained[0], lost[1], strict=True)),
        max(1 - x + g - w for x, g, w in zip(p, gained[1], lost[0], strict=True)),
    )
    found = None
    known = (held.total or not counts.failed) and (counts.judged or not counts.right)
    if share is not None and known:
        repaired = held.repaired / held.total if held.total else 0.0
        broken = counts.broken / counts.judged if counts.judged else 0.0
        found = share * repaired - (1 - share) * broken
    return FieldAccuracy(
        failing,
        before,
        Estimate(None if found is None or share is None else 1 - share + found, *after),
        Estimate(found, *change),
    )


def check_field_non_regression(evidence: Evidence, policy: GateConfig) -> Ruling:
    """PASS where it is rejected that more than the margin of the right answers in the field break, FAIL where less.

    Raises ValueError for counts that no sample can have.
    """
    counts, margin = evidence.field_rows, policy.field_margin_points
    n, broken = (counts.judged, counts.broken) if counts else (0, 0)
    figures: dict[str, Any] = {"broken": broken, "n": n, "margin_points": margin, "images_needed": None}
    if missing := not_finite(evidence):
        return (*missing, figures)
    if counts and not counts.consistent:
        raise ValueError("those of the field rows do not fit each other")
    if not n:
        return "INCONCLUSIVE", "There is no field row that the champion has right and that judges.", figures
    paired = PairedCounts(n - broken, broken, 0, 0)
    result, found = against_margin(paired, margin, policy.confidence)
    figures |= found
    start = f"{broken:,} of {n:,} field rows were right and are wrong now ({percent_of(broken, n)})"
    sure = f"with {100 * policy.confidence:g}% confidence"
    if result == "PASS":
        return result, f"{start}; {sure} at most {-found['lower_points']:.2f}% break, and {allowed(margin)}.", figures
    if result == "FAIL":
        return result, f"{start}; {sure} at least {-found['upper_points']:.2f}% break, and {allowed(margin)}.", figures
    needed = figures["images_needed"] = images_needed(paired, as_share(margin), policy.confidence)
    more = f"about {needed:,} field rows" if needed else f"no number up to {MOST:,}"
    return result, f"{start}; {can_be(found)}, {allowed(margin)}, and {more} would settle it.", figures
