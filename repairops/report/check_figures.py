"""The checks with the intervals and limits behind them.

A figure is chosen by what a check's figures hold, not by its name: a new check that writes the same keys is drawn too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from repairops.gate.evidence import Check, Figures
from repairops.report import statements
from repairops.report.figures import POINTS, RATES, WHOLE_RATES, Unit, dots, interval
from repairops.report.formats import fixed, number, percent, signed

LEVELS = {"required": "every one must pass before a promotion", "advisory": "for the reviewer to weigh"}
CEILINGS = {  # figure -> (what it is called after the check's name, its limit, in words)
    "share": ("", "max_share", lambda x: percent(x, 1)),
    "ratio": (" ratio", "max_ratio", fixed),
    "rise": (", rise", "max_rise", lambda x: fixed(x, 3)),
}


def figure(check: Check, width: float = 260) -> Markup:
    """The interval, the dots or the limit behind a check; empty where its figures are missing."""
    values, name = check.figures, statements.check_name(check)
    for key, (called, limit, words) in CEILINGS.items():
        if limit in values:
            return _ceiling(values, key, limit, f"{name}{called}", words, width)
    if rows := next((rows for rows in values.values() if rows and isinstance(rows, list | tuple)), None):
        return _dots(rows, values, name, width)
    return _interval(values, name, width)


def limit_of(values: Figures, unit: Unit) -> float | None:
    """What no value of a check may fall below: a change in points, or a rate in 0..1."""
    margin, least = number(values.get("margin_points")), number(values.get("min_rate"))
    if unit is not POINTS:
        return least
    return None if margin is None else -margin


def _dots(rows: Sequence[Mapping[str, Any]], values: Figures, name: str, width: float) -> Markup:
    """Many things that a check looks at: classes, clusters, slices, corruptions."""
    changes, rates = ([number(row.get(key)) for row in rows] for key in ("difference_points", "rate"))
    if falls := [v for v in changes if v is not None]:
        label = f"{name}: {len(rows)} changes in points, the largest fall {signed(min(falls))}."
        return dots(changes, limit_of(values, POINTS), POINTS, label=label, width=width)
    label = f"{name}: {len(rows)} rates, the lowest {percent(min((v for v in rates if v is not None), default=None))}."
    return dots(rates, limit_of(values, RATES), WHOLE_RATES, label=label, width=width)


def _interval(values: Figures, name: str, width: float) -> Markup:
    """A change in points against its margin, or a rate against the least one."""
    if "margin_points" in values:
        unit, keys = POINTS, ("lower_points", "difference_points", "upper_points")
        text = "{}: {} points, interval {} to {}; the margin is {} points."
    else:
        unit, keys = RATES, ("lower", "rate", "upper")
        text = "{} {}, interval {} to {}; {} is required."
    lower, point, upper = (number(values.get(key)) for key in keys)
    limit = limit_of(values, unit)
    said = signed(limit) if unit is POINTS else unit.limit(limit)
    label = text.format(name, *map(unit.say, (point, lower, upper)), said)
    return interval((lower, point, upper), limit, unit, label=label, width=width)


def _ceiling(
    values: Figures, key: str, limit_key: str, what: str, words: Callable[[float | None], str], width: float
) -> Markup:
    """A figure, with its bounds where its standard error is known, against the most that is allowed."""
    from repairops.gate.statistics import quantile

    value, limit = number(values.get(key)), number(values.get(limit_key))
    if value is None:
        return Markup("")
    error, sure = number(values.get("standard_error")), number(values.get("confidence"))
    around = quantile(sure) * error if error is not None and sure is not None and 0.5 < sure < 1 else None
    lower, upper = (None, None) if around is None else (value - around, value + around)
    known = [v for v in (value, lower, upper) if v is not None]
    low, high = 1.4 * min(0.0, *known), 1.4 * max(limit or 0.0, *known) or 1.0
    unit = Unit(words, lambda most: f"at most {words(most)}", (low, high), zero=low < 0, allowed="below")
    bound = "" if limit is None else f"; {unit.limit(limit)} allowed"
    return interval((lower, value, upper), limit, unit, label=f"{what} {words(value)}{bound}.", width=width)
