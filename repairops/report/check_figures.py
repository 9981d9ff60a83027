"""The checks with the intervals and limits behind them.

A figure is chosen by what a check's figures hold, not by its name: a new check that writes the same keys is drawn too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from repairops.gate.evidence import Check, Figures
from repairops.outcome import Record
from repairops.report import statements
from repairops.report.figures import dots, interval
from repairops.report.formats import fixed, number, percent, signed

LEVELS = {"required": "every one must pass before a promotion", "advisory": "for the reviewer to weigh"}
CEILINGS = {  # figure -> (what it is called after the check's name, its limit, in words)
    "share": ("", "max_share", lambda x: percent(x, 1)),
    "ratio": (" ratio", "max_ratio", fixed),
    "rise": (", rise", "max_rise", lambda x: fixed(x, 3)),
}


def check_figure(name: str, record: Record, width: float = 260) -> Markup:
    """The figure of the check `name`; empty where the gate did not ask it."""
    found = statements.check(record, name)
    return figure(found, width) if found else Markup("")


def figure(check: Check, width: float = 260) -> Markup:
    """The interval, the dots or the limit behind a check; empty where its figures are missing."""
    values, name = check.figures, statements.check_name(check)
    for key, (called, limit, words) in CEILINGS.items():
        if limit in values:
            return _ceiling(values, key, limit, f"{name}{called}", words, width)
    if rows := next((rows for rows in values.values() if rows and isinstance(rows, list | tuple)), None):
        return _dots(rows, values, name, width)
    return _change(values, name, width) if "margin_points" in values else _rate(values, name, width)


def _limit(values: Figures, key: str) -> float | None:
    """The limit of a change in points."""
    margin = number(values.get(key))
    return None if margin is None else -margin


def _dots(rows: Sequence[Mapping[str, Any]], values: Figures, name: str, width: float) -> Markup:
    """Many things that a check looks at: classes, clusters, slices, corruptions."""
    changes = [number(row.get("difference_points")) for row in rows]
    known = [v for v in changes if v is not None]
    if known:
        limit = _limit(values, "margin_points")
        label = f"{name}: {len(rows)} changes in points, the largest fall {signed(min(known))}."
        named = "" if limit is None else f"margin {signed(limit)}"
        return dots(changes, limit, label=label, limit_text=named, zero=True, texts=signed, width=width)
    rates = [number(row.get("rate")) for row in rows]
    least = number(values.get("min_rate"))
    lowest = min((v for v in rates if v is not None), default=None)
    return dots(
        rates,
        least,
        label=f"{name}: {len(rows)} rates, the lowest {percent(lowest)}.",
        limit_text="" if least is None else f"at least {percent(least, 0)}",
        domain=(0.0, 1.0),
        texts=lambda v: percent(v, 0),
        width=width,
    )


def _change(values: Figures, name: str, width: float) -> Markup:
    lower, point, upper = (number(values.get(f"{k}_points")) for k in ("lower", "difference", "upper"))
    limit = _limit(values, "margin_points")
    return interval(
        lower,
        point,
        upper,
        limit,
        label=f"{name}: {signed(point)} points, interval {signed(lower)} to {signed(upper)}; "
        f"the margin is {signed(limit)} points.",
        limit_text=f"margin {signed(limit)}",
        texts=(signed(lower), signed(upper)),
        zero=True,
        width=width,
    )


def _rate(values: Figures, name: str, width: float) -> Markup:
    lower, point, upper, limit = (number(values.get(k)) for k in ("lower", "rate", "upper", "min_rate"))
    return interval(
        lower,
        point,
        upper,
        limit,
        label=f"{name} {percent(point)}, interval {percent(lower)} to {percent(upper)}; "
        f"at least {percent(limit, 0)} is required.",
        limit_text=f"at least {percent(limit, 0)}",
        texts=(percent(lower), percent(upper)),
        domain=(0.0, 1.0),
        width=width,
    )


def _ceiling(
    values: Figures, key: str, limit_key: str, what: str, words: Callable[[float], str], width: float
) -> Markup:
    """A figure, with its bounds where its standard error is known, against the most that is allowed."""
    from repairops.gate.statistics import quantile

    value, limit = number(values.get(key)), number(values.get(limit_key))
    if value is None:
        return Markup("")
    error, sure = number(values.get("standard_error")), number(values.get("confidence"))
    bounds: tuple[float, ...] = ()
    if error is not None and sure is not None and 0.5 < sure < 1:
        around = quantile(sure) * error
        bounds = (value - around, value + around)
    low, high = 1.4 * min(0.0, value, *bounds), 1.4 * max(value, limit or 0.0, *bounds) or 1.0
    bound = "" if limit is None else f"at most {words(limit)}"
    return interval(
        bounds[0] if bounds else None,
        value,
        bounds[1] if bounds else None,
        limit,
        label=f"{what} {words(value)}{'; ' + bound + ' allowed' if bound else ''}.",
        limit_text=bound,
        texts=(words(bounds[0]), words(bounds[1])) if bounds else ("", ""),
        allowed="below",
        domain=(low, high),
        zero=low < 0,
        width=width,
    )
