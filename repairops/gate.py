"""The gate: from counts and figures to a verdict. Statistics only, no torch; the same evidence, the same verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from scipy.stats import norm

from repairops.config import GateConfig
from repairops.errors import listing
from repairops.records import Check, Evidence, PairedCounts, Result, Verdict
from repairops.statistics import (
    holm,
    quantile,
    settling_size,
    tango_interval,
    tango_score,
    wilson_interval,
    wilson_score,
)

Finding = tuple[Result, str, Mapping[str, Any]]


def decide(evidence: Evidence, policy: GateConfig) -> Verdict:
    """FAIL where a required check fails, else INCONCLUSIVE where one is, else PASS; checks at level 'off' are left out.

    Whatever the levels, outputs of the challenger that are not finite are never better than FAIL, and a missing
    baseline (no clean image, or outputs of the champion that are not finite) never better than INCONCLUSIVE.
    """
    checks = []
    for name, rule in RULES.items():
        level = getattr(policy, name)
        if level != "off":
            result, summary, figures = rule(evidence, policy)
            checks.append(Check(name, level, result, summary, _plain(figures)))
    results: list[Result] = [check.result for check in checks if check.level == "required"]
    if not evidence.challenger_finite:
        results.append("FAIL")
    if not evidence.champion_finite or evidence.clean.n == 0:
        results.append("INCONCLUSIVE")
    worst: Result = "FAIL" if "FAIL" in results else "INCONCLUSIVE" if "INCONCLUSIVE" in results else "PASS"
    return Verdict(worst, tuple(checks))


def plan(n_clean: int, champion_accuracy: float, policy: GateConfig) -> str | None:
    """A warning, before training, that the clean set is too small for the non-inferiority margin; None where it is not.

    Too small: even where no image is decided differently, the lower bound stays below -margin. Then only a gain in
    clean accuracy can pass, which `champion_accuracy` (0..1) leaves room for or not.
    """
    margin = _share(policy.margin_points)
    score = tango_score(0, 0, n_clean, -margin) if n_clean > 0 else 0.0
    if policy.clean_non_regression == "off" or score >= quantile(policy.confidence):
        return None
    what = f"{n_clean:,} clean images cannot show a loss under {policy.margin_points:g} points"
    if margin <= 0:
        return f"{what}: without a margin only a gain in clean accuracy passes. Set gate.margin_points above 0."
    needed = settling_size(tango_score(0, 0, 1, -margin), 1, policy.confidence)
    room = round(n_clean * (1 - champion_accuracy)) if math.isfinite(champion_accuracy) else 0
    gains = n_clean > 0 and tango_score(room, 0, n_clean, -margin) >= quantile(policy.confidence)
    unless = " unless the challenger gets more of them right than the champion" if gains else ""
    return f"{what}{unless}: at least {needed:,} are needed. Give a larger clean set, or raise gate.margin_points."


def _clean_non_regression(evidence: Evidence, policy: GateConfig) -> Finding:
    counts, margin = evidence.clean, _share(policy.margin_points)
    figures: dict[str, Any] = {"n": counts.n, "margin_points": policy.margin_points, "images_needed": None}
    if missing := _no_comparison(evidence):
        return (*missing, figures)
    score = tango_score(counts.challenger_only, counts.champion_only, counts.n, -margin)
    lower, upper = tango_interval(counts.challenger_only, counts.champion_only, counts.n, policy.confidence)
    figures |= {
        "champion_accuracy": counts.champion_right / counts.n,
        "challenger_accuracy": counts.challenger_right / counts.n,
        "difference_points": _difference_points(counts),
        "lower_points": 100 * lower,
        "upper_points": 100 * upper,
        "confidence": policy.confidence,
    }
    start = (
        f"Clean accuracy goes from {_percent(counts.champion_right, counts.n)} to "
        f"{_percent(counts.challenger_right, counts.n)} on {counts.n:,} images"
    )
    sure, allowed = f"with {100 * policy.confidence:g}% confidence", _points(policy.margin_points)
    if score >= quantile(policy.confidence):
        bound = "does not fall" if lower >= 0 else f"falls by at most {-100 * lower:.2f} points"
        return "PASS", f"{start}; {sure} it {bound}, and {allowed}.", figures
    if score < -quantile(policy.confidence):
        return "FAIL", f"{start}; {sure} it falls by at least {-100 * upper:.2f} points, and {allowed}.", figures
    needed = figures["images_needed"] = settling_size(score, counts.n, policy.confidence)
    more = f"about {needed:,} clean images would settle it" if needed else "no number of such images would settle it"
    interval = f"{_signed(100 * lower)} to {_signed(100 * upper)}"
    return "INCONCLUSIVE", f"{start}; the change can be {interval} points, {allowed}, and {more}.", figures


def _repair_rate(evidence: Evidence, policy: GateConfig) -> Finding:
    repaired, total, wanted = evidence.heldout_repaired, evidence.heldout_total, policy.min_repair_rate
    lower, upper = wilson_interval(repaired, total, policy.confidence)
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
    if missing := _not_finite(evidence):
        return (*missing, figures)
    if total == 0:
        return "INCONCLUSIVE", "No failure was held out, so nothing shows what the repair does.", figures
    start = f"{repaired:,} of {total:,} held-out failures are right now ({_percent(repaired, total)})"
    sure = f"with {100 * policy.confidence:g}% confidence"
    if lower >= wanted:
        return "PASS", f"{start}; {sure} at least {lower:.1%} are repaired, and {wanted:.1%} are required.", figures
    if upper < wanted:
        return "FAIL", f"{start}; {sure} at most {upper:.1%} are repaired, and {wanted:.1%} are required.", figures
    needed = settling_size(wilson_score(repaired, total, min(max(wanted, 0.0), 1.0)), total, policy.confidence)
    figures["failures_needed"] = needed
    more = f"about {needed:,} held-out failures" if needed else "no number of such failures"
    return "INCONCLUSIVE", f"{start}; {wanted:.1%} are required, and {more} would settle it.", figures


def _class_recall(evidence: Evidence, policy: GateConfig) -> Finding:
    classes = [
        _class_row(name, counts, _share(policy.class_margin_points)) for name, counts in evidence.clean_by_class.items()
    ]
    present = [row for row in classes if row["n"]]
    for row, adjusted in zip(present, holm([row["p_value"] for row in present]), strict=True):
        row["p_value"] = adjusted
    margin = policy.class_margin_points
    figures = {"classes": classes, "margin_points": margin, "confidence": policy.confidence}
    if missing := _no_comparison(evidence):
        return (*missing, figures)
    fallen = [row for row in present if row["p_value"] <= 1 - policy.confidence]
    if fallen:
        return "FAIL", f"Recall falls by more than the {margin:g} points allowed in {_falls(fallen)}.", figures
    unsure = [row for row in present if row["difference_points"] < -margin - 1e-9]
    absent = [row["name"] for row in classes if not row["n"]]
    reasons = []
    if unsure:
        reasons.append(f"recall falls by more than {margin:g} points in {_falls(unsure)}, on too few images to be sure")
    if absent or not classes:
        reasons.append(f"the clean set has no image of {listing(absent, 5) if classes else 'any class'}")
    if reasons:
        sentence = "; ".join(reasons)
        return "INCONCLUSIVE", f"{sentence[0].upper()}{sentence[1:]}.", figures
    lowest = min(present, key=lambda row: row["difference_points"])
    largest = f"the largest fall is {_falls([lowest])}" if lowest["difference_points"] < 0 else "none falls at all"
    return "PASS", f"No class loses more than {margin:g} points of recall; {largest}.", figures


def _class_row(name: str, counts: PairedCounts, margin: float) -> dict[str, Any]:
    """p_value: of a fall beyond the margin (0..1), one-sided, by Tango's score test; None without images."""
    row: dict[str, Any] = {"name": name, "n": counts.n, "champion": None, "challenger": None}
    if not counts.n:
        return row | {"difference_points": None, "p_value": None}
    score = tango_score(counts.challenger_only, counts.champion_only, counts.n, -margin)
    return row | {
        "champion": counts.champion_right / counts.n,
        "challenger": counts.challenger_right / counts.n,
        "difference_points": _difference_points(counts),
        "p_value": float(norm.cdf(score)),
    }


def _falls(rows: list[dict[str, Any]]) -> str:
    ordered = sorted(rows, key=lambda row: row["difference_points"])
    return listing(
        [f"{row['name']} ({_signed(row['difference_points'])} of {row['n']:,} images)" for row in ordered], 5
    )


def _negative_flips(evidence: Evidence, policy: GateConfig) -> Finding:
    counts, limit = evidence.clean, policy.max_negative_flips
    figures = {"flips": counts.champion_only, "n": counts.n, "share": None, "max_share": limit}
    if missing := _no_comparison(evidence):
        return (*missing, figures)
    share = counts.champion_only / counts.n
    result: Result = "PASS" if share <= limit else "FAIL"
    flips = f"{counts.champion_only:,} of {counts.n:,} clean images were right and are wrong now ({share:.2%})"
    return result, f"{flips}; at most {limit:.2%} are allowed.", figures | {"share": share}


def _onnx_parity(evidence: Evidence, policy: GateConfig) -> Finding:
    parity, limit = evidence.parity, policy.parity_tolerance
    figures = {
        "n": parity.n,
        "decisions_differ": parity.decisions_differ,
        "max_difference": parity.max_difference,
        "tolerance": limit,
    }
    if parity.reason:
        return "FAIL", f"The challenger has no usable ONNX form: {parity.reason.rstrip('.')}.", figures
    if parity.n == 0:
        return "INCONCLUSIVE", "PyTorch and ONNX Runtime were compared on no image.", figures
    if not math.isfinite(parity.max_difference):
        return "FAIL", "The outputs of PyTorch or ONNX Runtime hold NaN or infinity.", figures
    if parity.decisions_differ or parity.max_difference > limit:
        decisions = f"decide differently on {parity.decisions_differ:,} of {parity.n:,} images"
        outputs = f"their outputs differ by up to {parity.max_difference:.2g}, and {limit:.2g} is allowed"
        return "FAIL", f"PyTorch and ONNX Runtime {decisions}; {outputs}.", figures
    alike = f"PyTorch and ONNX Runtime decide alike on all {parity.n:,} images"
    return "PASS", f"{alike}; their outputs differ by at most {parity.max_difference:.2g}.", figures


def _latency(evidence: Evidence, policy: GateConfig) -> Finding:
    latency, limit = evidence.latency, policy.max_latency_ratio
    before, after = (latency.champion_median_ms, latency.challenger_median_ms) if latency else (math.nan, math.nan)
    figures: dict[str, Any] = {
        "champion_median_ms": before,
        "challenger_median_ms": after,
        "ratio": None,
        "max_ratio": limit,
    }
    if not (0 < before < math.inf and 0 < after < math.inf):
        return "INCONCLUSIVE", "The latency was not measured.", figures
    ratio = figures["ratio"] = after / before
    took = f"One inference takes {after:.3g} ms under ONNX Runtime, {ratio:.2f} times the champion's {before:.3g} ms"
    return ("PASS" if ratio <= limit else "FAIL"), f"{took}; at most {limit:g} times is allowed.", figures


# In the order of the report; the names are the level fields of GateConfig.
RULES: dict[str, Callable[[Evidence, GateConfig], Finding]] = {
    "clean_non_regression": _clean_non_regression,
    "repair_rate": _repair_rate,
    "class_recall": _class_recall,
    "negative_flips": _negative_flips,
    "onnx_parity": _onnx_parity,
    "latency": _latency,
}


def _not_finite(evidence: Evidence) -> tuple[Result, str] | None:
    if not evidence.challenger_finite:
        return "FAIL", "The challenger's outputs hold NaN or infinity."
    if not evidence.champion_finite:
        return "INCONCLUSIVE", "The champion's outputs hold NaN or infinity, so there is no baseline."
    return None


def _no_comparison(evidence: Evidence) -> tuple[Result, str] | None:
    if missing := _not_finite(evidence):
        return missing
    return (
        None if evidence.clean.n else ("INCONCLUSIVE", "There is no clean image to compare champion and challenger on.")
    )


def _share(points: float) -> float:
    return min(max(points / 100, -1.0), 1.0)


def _difference_points(counts: PairedCounts) -> float:
    return 100 * (counts.challenger_only - counts.champion_only) / counts.n


def _percent(part: int, total: int) -> str:
    return f"{part / total:.2%}"


def _signed(points: float) -> str:
    return f"{points:+.2f}".replace("-", "−")


def _plain(value: Any) -> Any:
    """Plain JSON values: NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _points(margin: float) -> str:
    return "1 point is allowed" if margin == 1 else f"{margin:g} points are allowed"
