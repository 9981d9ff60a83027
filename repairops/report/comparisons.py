"""Classes, slices, corruptions and calibration for the template: many comparisons on one scale.

The bars run from the lower to the upper one-sided bound at the policy's confidence: Tango's for paired counts, Clopper
and Pearson's for rates. They are those of the single row; where a check looks at many rows at once, it corrects for
their number. Tango's bounds are the score test's, a hundredth of the time of the exact ones by which the gate decides,
and differ from them in the third digit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from markupsafe import Markup

from repairops.config import GateConfig
from repairops.gate.evidence import PairedCounts, RepairCounts
from repairops.outcome import Record
from repairops.report import figures, statements
from repairops.report.charts import reliability_chart
from repairops.report.formats import fixed, number, of, percent, plain, ratio, signed

MAX_ROWS = 40


def classes(record: Record) -> dict[str, Any]:
    """Clean recall per class, largest fall first."""
    counts = record.evidence.clean_by_class if record.evidence else {}
    margin = record.policy.class_margin_points if record.policy else None
    return changes_table(counts.items(), margin, "Class", confidence(record))


def failure_classes(record: Record) -> dict[str, Any]:
    """Held-out failures repaired per true class, lowest rate first."""
    return rates_table((record.heldout_by_class or {}).items(), None, "Class", confidence(record))


def corruptions(record: Record) -> dict[str, Any]:
    """Clean images under corruptions that nobody repaired, largest fall first."""
    found = record.evidence.corruptions if record.evidence else {}
    rows = ((name.replace("_", " "), counts) for name, counts in found.items())
    return changes_table(rows, allowed(record, "corruptions", "margin_points"), "Corruption", confidence(record))


def slices(record: Record) -> list[dict[str, Any]]:
    """One table for each set (clean, failures), with the rows of all its columns."""
    rows = [
        (f"{part.column} {part.value}", part.counts) for part in (record.evidence.slices if record.evidence else ())
    ]
    clean = [(name, counts) for name, counts in rows if isinstance(counts, PairedCounts)]
    failures = [(name, counts) for name, counts in rows if isinstance(counts, RepairCounts)]
    sure, margin = confidence(record), allowed(record, "slices", "margin_points")
    tables = [
        {"set": "clean", **changes_table(clean, margin, "Slice", sure)},
        {"set": "failures", **rates_table(failures, allowed(record, "slices", "min_rate"), "Slice", sure)},
    ]
    return [table for table in tables if table["rows"]]


def calibration(record: Record) -> Markup:
    """The reliability diagram; empty where it was not measured."""
    found = record.evidence.calibration if record.evidence else None
    if not found:
        return Markup("")
    before, after = percent(found.champion_ece, 2), percent(found.challenger_ece, 2)
    label = f"Reliability: calibration error {before} before, {after} after."
    return reliability_chart(found.champion, found.challenger, label=label)


def confidence(record: Record) -> float:
    """The policy's one-sided confidence."""
    return (record.policy or GateConfig()).confidence


def allowed(record: Record, check: str, key: str) -> float | None:
    """A limit of a check: the largest fall in points, or the lowest rate in 0..1."""
    found = statements.check(record, check)
    return number(found.figures.get(key)) if found else None


@lru_cache(maxsize=1024)
def change_bounds(counts: PairedCounts, sure: float) -> tuple[float, float]:
    """The one-sided bounds of the change in points."""
    from repairops.gate.statistics import tango_interval

    lower, upper = tango_interval(counts.challenger_only, counts.champion_only, counts.n, sure)
    return 100 * lower, 100 * upper


def changes_table(
    parts: Iterable[tuple[str, PairedCounts]], margin: float | None, what: str, sure: float
) -> dict[str, Any]:
    """Champion and challenger on the parts of a set, largest fall first, and their common axis.

    A fall of more than `margin` points is marked. what: of the parts, for labels.
    """
    changes = [(name, counts, _points(counts)) for name, counts in parts]
    changes.sort(key=lambda part: (part[2] is None, part[2] or 0.0))
    shown = [(*part, *(change_bounds(part[1], sure) if part[1].n else (None, None))) for part in changes[:MAX_ROWS]]
    limit = None if margin is None else -margin
    reach = [v for _, _, points, lower, upper in shown for v in (lower, points, upper)]
    scale, ticks = figures.row_scale([*reach, limit, 0.0])
    rows = []
    for name, counts, points, lower, upper in shown:
        label = f"{what} {plain(name)}: {signed(points)} points, interval {signed(lower)} to {signed(upper)}."
        drawn = figures.row(lower, points, upper, limit, scale, label=label, zero=True)
        beyond = points is not None and limit is not None and points < limit - 1e-9
        rows.append({"name": name, "counts": counts, "points": points, "beyond": beyond, "figure": drawn})
    return {
        "rows": rows,
        "left_off": len(changes) - len(shown),
        "axis": figures.axis(scale, ticks, limit, f"margin {signed(limit, 1)}", lambda v: signed(v, _digits(ticks))),
        "margin": fixed(margin, 1),
    }


def _points(counts: PairedCounts) -> float | None:
    """The change of accuracy in percentage points."""
    return 100 * (counts.challenger_only - counts.champion_only) / counts.n if counts.n else None


def _digits(ticks: Sequence[float]) -> int:
    """Decimals that the step of some ticks needs."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    return max(0, -math.floor(math.log10(step) + 1e-9))


def rates_table(
    parts: Iterable[tuple[str, RepairCounts]], least: float | None, what: str, sure: float
) -> dict[str, Any]:
    """Failures that are right now by part, lowest rate first, and their axis from 0 to 100%; see `changes_table`."""
    rates = [(name, counts, ratio(counts.repaired, counts.total)) for name, counts in parts]
    rates.sort(key=lambda part: (part[2] is None, part[2] or 0.0))
    scale, ticks = figures.row_scale([0.0, 1.0])
    rows = []
    for name, counts, rate in rates[:MAX_ROWS]:
        lower, upper = rate_bounds(counts, sure)
        said = f"{of(counts.repaired, counts.total)} repaired, interval {percent(lower)} to {percent(upper)}"
        drawn = figures.row(lower, rate, upper, least, scale, label=f"{what} {plain(name)}: {said}.")
        beyond = rate is not None and least is not None and rate < least
        rows.append({"name": name, "counts": counts, "rate": rate, "beyond": beyond, "figure": drawn})
    return {
        "rows": rows,
        "left_off": len(rates) - len(rows),
        "axis": figures.axis(scale, ticks, least, f"at least {percent(least, 0)}", lambda v: percent(v, 0)),
    }


def rate_bounds(counts: RepairCounts, sure: float) -> tuple[float | None, float | None]:
    """The one-sided bounds of a rate in 0..1; None without failures."""
    from repairops.gate.statistics import binomial_interval

    return binomial_interval(counts.repaired, counts.total, sure) if counts.total else (None, None)
