"""The repair of held-out failures: of all, by cluster, and by slices that a column names."""

from __future__ import annotations

from typing import Any

from repairops.config import GateConfig
from repairops.errors import listing
from repairops.gate.accuracy import against_margin, images_needed
from repairops.gate.evidence import Evidence, PairedCounts, RepairCounts, Result
from repairops.gate.falls import damage, fall_row
from repairops.gate.phrases import Ruling, allowed, as_share, can_be, not_finite, one_sentence, percent_of
from repairops.gate.statistics import (
    MOST,
    binomial_interval,
    binomial_p_value,
    binomial_score,
    holm,
    settling_size,
    smallest_settled,
)


def check_repair_rate(evidence: Evidence, policy: GateConfig) -> Ruling:
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
    start = f"{repaired:,} of {total:,} held-out failures are right now ({percent_of(repaired, total)})"
    sure = f"with {100 * policy.confidence:g}% confidence"
    if lower >= wanted:
        return "PASS", f"{start}; {sure} at least {lower:.1%} are repaired, and {wanted:.1%} are required.", figures
    if upper < wanted:
        return "FAIL", f"{start}; {sure} at most {upper:.1%} are repaired, and {wanted:.1%} are required.", figures
    needed = figures["failures_needed"] = failures_needed(repaired, total, wanted, policy.confidence)
    more = f"about {needed:,} held-out failures" if needed else f"no number up to {MOST:,}"
    return "INCONCLUSIVE", f"{start}; {wanted:.1%} are required, and {more} would settle it.", figures


def failures_needed(repaired: int, total: int, wanted: float, confidence: float) -> int | None:
    """About the smallest number of failures, at this share repaired, that settles it; None where none ever does."""
    rate = min(max(wanted, 0.0), 1.0)
    score = binomial_score(repaired, total, rate)
    start = settling_size(score, total, confidence)

    def settled(size: int) -> bool:
        return binomial_p_value(round(repaired * size / total), size, rate, less=score < 0) <= 1 - confidence

    return smallest_settled(start, settled) if start else None


def check_repairs_kept(evidence: Evidence, policy: GateConfig) -> Ruling:
    """PASS where a loss of the margin or more among the held-out failures is rejected, FAIL where one within it is."""
    counts, margin = evidence.heldout, policy.repair_margin_points
    figures: dict[str, Any] = {"n": counts.n if counts else 0, "margin_points": margin, "failures_needed": None}
    if missing := not_finite(evidence):
        return (*missing, figures)
    if not counts or not counts.n:
        return "INCONCLUSIVE", "No failure was held out that the guarded version was asked about.", figures
    result, found = against_margin(counts, margin, policy.confidence)
    figures |= found
    before, after = counts.champion_right, counts.challenger_right
    start = f"Of {counts.n:,} held-out failures {before:,} were right and {after:,} are right now ({can_be(found)})"
    if result == "INCONCLUSIVE":
        needed = figures["failures_needed"] = images_needed(counts, as_share(margin), policy.confidence)
        more = f"about {needed:,} held-out failures" if needed else f"no number up to {MOST:,}"
        return result, f"{start}; {allowed(margin)}, and {more} would settle it.", figures
    return result, f"{start}; {allowed(margin)}.", figures


def check_earlier_repairs(evidence: Evidence, policy: GateConfig) -> Ruling:
    """Looks for damage among the failures that earlier repairs held out: FAIL where a loss beyond the margin is proven.

    INCONCLUSIVE where one beyond it is seen that chance does not explain: where nothing is lost in truth, an answer
    that changes is lost with a chance of at most one half. Few failures cannot show that little is lost; that alone
    stops no repair.
    """
    counts, margin = evidence.earlier, policy.repair_margin_points
    figures: dict[str, Any] = {"n": counts.n if counts else 0, "margin_points": margin}
    if missing := not_finite(evidence):
        return (*missing, figures)
    if not counts or not counts.n:
        return "INCONCLUSIVE", "No failure is known that an earlier repair held out.", figures
    result, found = against_margin(counts, margin, policy.confidence)
    lost, won = counts.champion_only, counts.challenger_only
    told = (
        f"Of {counts.n:,} failures that earlier repairs held out {counts.champion_right:,} were right and "
        f"{counts.challenger_right:,} are right now ({lost:,} lost, {won:,} won; {can_be(found)}); {allowed(margin)}"
    )
    if result == "INCONCLUSIVE":
        seen = found["difference_points"] < -margin - 1e-9
        chance = binomial_p_value(lost, lost + won, 0.5) if seen else 1.0
        if chance <= 1 - policy.confidence:
            return result, f"{told}, and so much is seldom lost by chance.", figures | found
        result = "PASS"
    return result, f"{told}.", figures | found


def check_cluster_repair(evidence: Evidence, policy: GateConfig) -> Ruling:
    """FAIL where a cluster is repaired significantly less than `min_part_repair_rate`."""
    parts = {f"cluster {name}": counts for name, counts in evidence.heldout_by_cluster.items()}
    rows = [_repair_row(name, counts, policy) for name, counts in parts.items()]
    figures = {"clusters": rows, "min_rate": policy.min_part_repair_rate, "confidence": policy.confidence}
    if missing := not_finite(evidence):
        return (*missing, figures)
    if not rows:
        return "INCONCLUSIVE", "The held-out failures were not assigned to clusters.", figures
    result, summary = _repaired_everywhere(rows, policy, "cluster")
    return result, summary, figures


def check_slices(evidence: Evidence, policy: GateConfig) -> Ruling:
    """FAIL where a slice of the failures stays unrepaired, or a slice of the clean set falls beyond its margin.

    Slices of failures are held to `min_part_repair_rate`, slices of the clean set to `class_margin_points`.
    """
    repaired, clean = [], []
    for part in evidence.slices:
        name = f"{part.column}={part.value}"
        if isinstance(part.counts, RepairCounts):
            repaired.append(_repair_row(name, part.counts, policy))
        elif isinstance(part.counts, PairedCounts):
            clean.append(fall_row(name, part.counts, policy.class_margin_points))
    figures = {
        "failures": repaired,
        "clean": clean,
        "min_rate": policy.min_part_repair_rate,
        "margin_points": policy.class_margin_points,
        "confidence": policy.confidence,
    }
    if missing := not_finite(evidence):
        return (*missing, figures)
    found: list[tuple[Result, str]] = []
    if repaired:
        found.append(_repaired_everywhere(repaired, policy, "slice of the failures"))
    if clean:
        words = "accuracy", "slice of the clean set", "no image of"
        found.append(damage(clean, policy.class_margin_points, policy.confidence, *words))
    if not found:
        return "INCONCLUSIVE", "No column names slices of the failures or of the clean set.", figures
    worst: Result = next(r for r in ("FAIL", "INCONCLUSIVE", "PASS") if r in [result for result, _ in found])
    return worst, one_sentence([summary.rstrip(".") for _, summary in found]), figures


def _repair_row(name: str, counts: RepairCounts, policy: GateConfig) -> dict[str, Any]:
    """p_value: of a repair rate below the required one, one-sided and exact; None without failures."""
    lower, upper = binomial_interval(counts.repaired, counts.total, policy.confidence)
    wanted = min(max(policy.min_part_repair_rate, 0.0), 1.0)
    return {
        "name": name,
        "repaired": counts.repaired,
        "total": counts.total,
        "rate": counts.repaired / counts.total if counts.total else None,
        "lower": lower,
        "upper": upper,
        "p_value": binomial_p_value(counts.repaired, counts.total, wanted, less=True) if counts.total else None,
    }


def _repaired_everywhere(rows: list[dict[str, Any]], policy: GateConfig, part: str) -> tuple[Result, str]:
    """As `falls.damage`: FAIL wants proof, Holm's correction over the parts; the rows' p-values become Holm's."""
    wanted = policy.min_part_repair_rate
    present = [row for row in rows if row["total"]]
    for row, adjusted in zip(present, holm([row["p_value"] for row in present]), strict=True):
        row["p_value"] = adjusted
    low = [row for row in present if row["p_value"] <= 1 - policy.confidence]
    if low:
        return "FAIL", f"Less than the {wanted:.0%} required are repaired in {_rates(low)}."
    unsure = [row for row in present if row["rate"] < wanted]
    absent = [row["name"] for row in rows if not row["total"]]
    reasons = []
    if unsure:
        reasons.append(f"less than {wanted:.0%} are repaired in {_rates(unsure)}, too few failures to be sure")
    if absent:
        reasons.append(f"no failure was held out in {listing(absent, 5)}")
    if reasons:
        return "INCONCLUSIVE", one_sentence(reasons)
    lowest = min(present, key=lambda row: row["rate"])
    return "PASS", f"In every {part} at least {wanted:.0%} are repaired; the least is {_rates([lowest])}."


def _rates(rows: list[dict[str, Any]]) -> str:
    ordered = sorted(rows, key=lambda row: row["rate"])
    return listing([f"{row['name']} ({row['repaired']:,} of {row['total']:,})" for row in ordered], 5)
