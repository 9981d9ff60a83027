"""The checks with the intervals and limits behind them.

A figure is chosen by what a check's figures hold, not by its name: a new check that writes the same keys is drawn too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from repairops.report import facts
from repairops.report.facts import Outcome
from repairops.report.figures import dots, interval
from repairops.report.wording import fixed, mapping, mappings, number, percent, plain, ratio, signed

LEVELS = {
    "required": ("Required", "every one must pass before a promotion"),
    "advisory": ("Advisory", "for the reviewer to weigh"),
}


def checks(outcome: Outcome) -> list[dict[str, Any]]:
    """The checks in groups by level; a level that the report does not know comes last, under its own name."""
    groups = facts.by_level(outcome)
    known = [c for found in groups.values() for c in found]
    other = [c for c in facts.checks(outcome) if c not in known]
    return [
        {
            "title": LEVELS[level][0] if level in LEVELS else "Other",
            "note": LEVELS[level][1] if level in LEVELS else "",
            "tally": facts.tally(found),
            "checks": [_check(c, outcome) for c in found],
        }
        for level, found in {**groups, "": other}.items()
        if found
    ]


def _check(check: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
    result = plain(check.get("result"))
    return {
        "name": facts.check_name(check),
        "result": result,
        "sign": facts.SIGNS.get(result, "·"),
        "summary": plain(check.get("summary")),
        "figure": figure(check, outcome),
    }


def check_figure(name: str, outcome: Outcome, width: float = 260) -> Markup:
    """The figure of the check `name`; empty where the gate did not ask it."""
    found = facts.check(outcome, name)
    return figure(found, outcome, width) if found else Markup("")


def figure(check: Mapping[str, Any], outcome: Outcome, width: float = 260) -> Markup:
    """The interval, the dots or the limit behind a check; empty where its figures are missing."""
    values, policy = mapping(check.get("figures")), mapping(outcome.get("policy"))
    name = facts.check_name(check)
    if check.get("name") == "negative_flips":
        share = ratio(facts.negative_flips(outcome), facts.clean_images(outcome))
        return _ceiling(share, number(policy.get("max_negative_flips")), name, lambda x: percent(x, 1), width)
    if check.get("name") == "latency":
        limit = number(values.get("max_ratio", policy.get("max_latency_ratio")))
        return _ceiling(number(values.get("ratio")), limit, f"{name} ratio", fixed, width)
    if "max_rise" in values:
        return _rise(values, name, width)
    if rows := _rows(values):
        return _dots(rows, values, policy, name, width)
    if "difference_points" in values or "margin_points" in values:
        return _change(values, policy, name, width)
    return _rate(values, policy, name, width)


def _rows(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of a check that looks at many things: classes, clusters, slices, corruptions."""
    return next((rows for value in values.values() if (rows := mappings(value))), [])


def _dots(
    rows: list[Mapping[str, Any]], values: Mapping[str, Any], policy: Mapping[str, Any], name: str, width: float
) -> Markup:
    changes = [number(row.get("difference_points")) for row in rows]
    known = [v for v in changes if v is not None]
    if known:
        margin = number(values.get("margin_points", policy.get("class_margin_points")))
        limit = None if margin is None else -margin
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


def _change(values: Mapping[str, Any], policy: Mapping[str, Any], name: str, width: float) -> Markup:
    lower, point, upper = (number(values.get(f"{k}_points")) for k in ("lower", "difference", "upper"))
    margin = number(values.get("margin_points", policy.get("margin_points")))
    limit = None if margin is None else -margin
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


def _rate(values: Mapping[str, Any], policy: Mapping[str, Any], name: str, width: float) -> Markup:
    lower, upper = number(values.get("lower")), number(values.get("upper"))
    point = number(values.get("rate"))
    point = ratio(values.get("repaired"), values.get("total")) if point is None else point
    limit = number(values.get("min_rate", policy.get("min_repair_rate")))
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


def _rise(values: Mapping[str, Any], name: str, width: float) -> Markup:
    """A rise with its bounds, from its standard error, against the most that it may be."""
    from repairops.gate.statistics import quantile

    rise, error = number(values.get("rise")), number(values.get("standard_error"))
    sure = number(values.get("confidence"))
    limit = number(values.get("max_rise"))
    if rise is None or error is None or sure is None or not 0.5 < sure < 1:
        return _ceiling(rise, limit, f"{name}, rise", _thousandths, width)
    around = quantile(sure) * error
    return _ceiling(rise, limit, f"{name}, rise", _thousandths, width, (rise - around, rise + around))


def _ceiling(
    value: float | None,
    limit: float | None,
    what: str,
    words: Callable[[float], str],
    width: float,
    bounds: tuple[float, float] | None = None,
) -> Markup:
    """A figure, with its bounds where known, against the most that is allowed."""
    if value is None:
        return Markup("")
    lower, upper = bounds or (None, None)
    low = 1.4 * min(0.0, value, *(bounds or ()))
    high = 1.4 * max(value, limit or 0.0, *(bounds or ())) or 1.0
    bound = "" if limit is None else f"at most {words(limit)}"
    label = f"{what} {words(value)}{'; ' + bound + ' allowed' if bound else ''}."
    return interval(
        lower,
        value,
        upper,
        limit,
        label=label,
        limit_text=bound,
        texts=(words(lower), words(upper)) if lower is not None and upper is not None else ("", ""),
        allowed="below",
        domain=(low, high),
        zero=low < 0,
        width=width,
    )


def _thousandths(value: float) -> str:
    return fixed(value, 3)
