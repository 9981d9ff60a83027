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
from repairops.report.check_figures import limit_of
from repairops.report.figures import POINTS, RATES, WHOLE_RATES, Unit
from repairops.report.formats import fixed, of, percent, plain, ratio, signed
from repairops.report.svg import Scale

MAX_ROWS = 40
Counts = PairedCounts | RepairCounts


def classes(record: Record) -> dict[str, Any]:
    """Clean recall per class, largest fall first."""
    counts = record.evidence.clean_by_class if record.evidence else {}
    margin = record.policy.class_margin_points if record.policy else None
    found = table(counts.items(), POINTS, None if margin is None else -margin, "Class", confidence(record))
    return {**found, "margin": fixed(margin, 1)}


def rival(record: Record) -> list[dict[str, Any]]:
    """The challenger and the method that was trained beside it, on the same images; empty where none was."""
    other, evidence = record.comparison, record.evidence
    if not other or not evidence:
        return []
    name, seconds = record.method.chosen or record.method.name if record.method else "the challenger", 0.0
    for stage in ("cluster", "style", "fine-tune", "guard"):
        seconds += record.stages.get(stage, 0.0)
    form = record.form.name if record.form else "one"
    rows = (
        (f"{name} (the challenger)", form, evidence.heldout_repaired, evidence.heldout_total, evidence.clean, seconds),
        (other.method, other.form, other.heldout_repaired, other.heldout_total, other.clean, other.seconds),
    )
    return [
        {
            "method": method,
            "form": "one network" if form == "one" else f"two networks, {form}",
            "repaired": of(repaired, total),
            "clean": percent(ratio(clean.challenger_right, clean.n), 2),
            "broken": clean.champion_only,
            "won": clean.challenger_only,
            "seconds": cost,
        }
        for method, form, repaired, total, clean, cost in rows
    ]


def failure_classes(record: Record) -> dict[str, Any]:
    """Held-out failures repaired per true class, lowest rate first."""
    return table((record.heldout_by_class or {}).items(), RATES, None, "Class", confidence(record))


def corruptions(record: Record) -> dict[str, Any]:
    """Clean images under corruptions that nobody repaired, largest fall first."""
    found = record.evidence.corruptions if record.evidence else {}
    rows = ((name.replace("_", " "), counts) for name, counts in found.items())
    return table(rows, POINTS, lowest(record, "corruptions", POINTS), "Corruption", confidence(record))


def slices(record: Record) -> list[dict[str, Any]]:
    """One table for each set (clean, failures), with the rows of all its columns."""
    tables = []
    for judged, unit in (("clean", POINTS), ("failures", RATES)):
        parts = [part for part in (record.evidence.slices if record.evidence else ()) if part.of == judged]
        rows = ((f"{part.column} {part.value}", part.counts) for part in parts)
        found = table(rows, unit, lowest(record, "slices", unit), "Slice", confidence(record))
        tables += [{"set": judged, **found}] if parts else []
    return tables


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


def lowest(record: Record, check: str, unit: Unit) -> float | None:
    """The check's limit (`check_figures.limit_of`); None where the gate did not ask it."""
    found = statements.check(record, check)
    return limit_of(found.figures, unit) if found else None


def value_of(counts: Counts) -> float | None:
    """The change of accuracy in percentage points, or the rate of failures that are right now, in 0..1."""
    if isinstance(counts, RepairCounts):
        return ratio(counts.repaired, counts.total)
    return 100 * (counts.challenger_only - counts.champion_only) / counts.n if counts.n else None


@lru_cache(maxsize=1024)
def bounds(counts: Counts, sure: float) -> tuple[float | None, float | None]:
    """The one-sided bounds of `value_of`; None without images."""
    from repairops.gate.statistics import binomial_interval, tango_interval

    if isinstance(counts, RepairCounts):
        return binomial_interval(counts.repaired, counts.total, sure) if counts.total else (None, None)
    if not counts.n:
        return None, None
    lower, upper = tango_interval(counts.challenger_only, counts.champion_only, counts.n, sure)
    return 100 * lower, 100 * upper


def table(
    parts: Iterable[tuple[str, Counts]], unit: Unit, limit: float | None, what: str, sure: float
) -> dict[str, Any]:
    """Parts of a set, the worst first, and their common axis: changes in POINTS, or RATES from 0 to 100%.

    A value below `limit` is marked. what: of the parts, for labels.
    """
    valued = [(name, counts, value_of(counts)) for name, counts in parts]
    valued.sort(key=lambda part: (part[2] is None, part[2] or 0.0))
    shown = [(*part, *bounds(part[1], sure)) for part in valued[:MAX_ROWS]]
    reach = unit.domain or [v for row in shown for v in row[2:]]
    scale, ticks = figures.row_scale([*reach, limit, 0.0])
    rows = []
    for name, counts, value, lower, upper in shown:
        label = f"{what} {plain(name)}: {_said(counts)}, interval {unit.say(lower)} to {unit.say(upper)}."
        drawn = figures.row((lower, value, upper), limit, scale, label=label, zero=unit.zero)
        beyond = value is not None and limit is not None and value < limit - 1e-9
        rows.append({"name": name, "counts": counts, "value": value, "beyond": beyond, "figure": drawn})
    return {"rows": rows, "left_off": len(valued) - len(rows), "axis": _axis(scale, ticks, unit, limit)}


def _said(counts: Counts) -> str:
    if isinstance(counts, RepairCounts):
        return f"{of(counts.repaired, counts.total)} repaired"
    return f"{signed(value_of(counts))} points"


def _axis(scale: Scale, ticks: Sequence[float], unit: Unit, limit: float | None) -> Markup:
    """Whole percents; points with the decimals that the step of the ticks needs."""
    if unit is RATES:
        return figures.axis(scale, ticks, limit, RATES.limit(limit), WHOLE_RATES.say)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return figures.axis(scale, ticks, limit, f"margin {signed(limit, 1)}", lambda v: signed(v, digits))
