"""Classes, slices, corruptions, calibration and latency as plain values for the template.

Each is empty where the outcome holds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repairops.report import compare, facts
from repairops.report.charts import Bin, reliability_chart
from repairops.report.facts import Outcome
from repairops.report.wording import count, dig, fixed, mapping, mappings, number, percent, plain, ratio

MAX_SLICES = 40


def classes(outcome: Outcome) -> dict[str, Any]:
    """Clean recall per class, largest fall first; from the evidence, else from the check's figures."""
    counts = mapping(dig(outcome, "evidence", "clean_by_class"))
    rows = [compare.paired(name, mapping(c)) for name, c in counts.items()]
    if not any(row.difference is not None for row in rows):
        found = mappings(dig(facts.check(outcome, "class_recall"), "figures", "classes"))
        rows = [compare.counted(row.get("name"), row) for row in found]
    margin = number(dig(outcome, "policy", "class_margin_points"))
    return compare.paired_table(compare.worst_first(rows), margin, "Class", compare.confidence(outcome))


def failure_classes(outcome: Outcome) -> dict[str, Any]:
    """Held-out failures repaired per true class, lowest rate first."""
    sure = compare.confidence(outcome)
    counts = mapping(outcome.get("heldout_by_class"))
    rows = [compare.rate(name, mapping(c), sure) for name, c in counts.items()]
    rows = sorted((r for r in rows if r.rate is not None), key=lambda r: r.rate or 0.0)
    return compare.rate_table(rows, None, "Class")


def corruptions(outcome: Outcome) -> dict[str, Any]:
    """Clean images under corruptions that nobody repaired, largest fall first."""
    counts = mapping(dig(outcome, "evidence", "corruptions"))
    rows = [compare.paired(str(name).replace("_", " "), mapping(c)) for name, c in counts.items()]
    margin = _margin(outcome, "corruptions")
    return compare.paired_table(compare.worst_first(rows), margin, "Corruption", compare.confidence(outcome))


def slices(outcome: Outcome) -> list[dict[str, Any]]:
    """One table for each set (failures, clean), with the rows of all its columns."""
    sure = compare.confidence(outcome)
    rows = mappings(dig(outcome, "evidence", "slices"))
    clean, failures = [], []
    for row in rows:
        counts = mapping(row.get("counts")) or row
        name = f"{plain(row.get('column'))} {plain(row.get('value'))}"
        if compare.is_paired(counts):
            clean.append(compare.paired(name, counts))
        elif "total" in counts:
            failures.append(compare.rate(name, counts, sure))
    margin, least = _margin(outcome, "slices"), _least(outcome, "slices")
    failures.sort(key=lambda r: (r.rate is None, r.rate or 0.0))
    tables = [
        {"set": "clean", **compare.paired_table(compare.worst_first(clean), margin, "Slice", sure)},
        {"set": "failures", **compare.rate_table(failures, least, "Slice")},
    ]
    return [table for table in tables if table["rows"]]


def _margin(outcome: Outcome, name: str) -> float | None:
    """The largest fall in points that a check allows."""
    return number(dig(facts.check(outcome, name), "figures", "margin_points"))


def _least(outcome: Outcome, name: str) -> float | None:
    """The lowest repair rate in 0..1 that a check allows."""
    return number(dig(facts.check(outcome, name), "figures", "min_rate"))


def serving(outcome: Outcome) -> dict[str, Any]:
    """Latency per batch size and calibration, champion against challenger."""
    found = dig(outcome, "evidence", "latency")
    entries = [found] if isinstance(found, Mapping) else mappings(found)
    return {"latency": [_latency(entry) for entry in entries], "calibration": _calibration(outcome)}


def _calibration(outcome: Outcome) -> dict[str, Any] | None:
    """Expected calibration errors and the reliability diagram; None where neither error is known."""
    found = mapping(dig(outcome, "evidence", "calibration"))
    before, after = (number(found.get(f"{who}_ece")) for who in ("champion", "challenger"))
    if before is None and after is None:
        return None
    bins = [_bins(dig(found, "bins", who)) for who in ("champion", "challenger")]
    label = f"Reliability: calibration error {percent(before, 2)} before, {percent(after, 2)} after."
    return {
        "champion": percent(before, 2),
        "challenger": percent(after, 2),
        "figure": reliability_chart(*bins, label=label),
    }


def _bins(found: Any) -> list[Bin]:
    """The bins that have images."""
    points = []
    for entry in mappings(found):
        confidence, accuracy = number(entry.get("confidence")), ratio(entry.get("right"), entry.get("n"))
        if confidence is not None and accuracy is not None:
            points.append(Bin(confidence, accuracy, number(entry.get("n")) or 0.0))
    return points


def _latency(entry: Mapping[str, Any]) -> dict[str, str]:
    times = {key: number(entry.get(f"{key}_ms")) for key in _TIMES}
    quotient = ratio(times["challenger_median"], times["champion_median"])
    return {"batch": count(entry.get("batch_size")), "ratio": fixed(quotient)} | {
        key: fixed(value, 3 if (value or 0.0) < 10 else 1) for key, value in times.items()
    }


_TIMES = ("champion_median", "challenger_median", "champion_p99", "challenger_p99")
