"""The checks with the intervals and limits behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from repairops.report import facts
from repairops.report.facts import Outcome
from repairops.report.figures import interval
from repairops.report.wording import fixed, mapping, number, percent, plain, ratio, signed


def card_figure(name: str, outcome: Outcome) -> Markup:
    """The figure of the check `name`, as wide as a card."""
    found = next((c for c in facts.checks(outcome) if c.get("name") == name), None)
    return figure(found, outcome, width=300) if found else Markup("")


def checks(outcome: Outcome) -> list[dict[str, Any]]:
    return [
        {
            "name": facts.check_name(check),
            "result": plain(check.get("result")),
            "level": plain(check.get("level")),
            "summary": plain(check.get("summary")),
            "figure": figure(check, outcome),
        }
        for check in facts.checks(outcome)
    ]


def figure(check: Mapping[str, Any], outcome: Outcome, width: float = 260) -> Markup:
    """The interval or limit behind a check; empty where its figures are missing."""
    values, policy = mapping(check.get("figures")), mapping(outcome.get("policy"))
    match check.get("name"):
        case "clean_non_regression":
            return _clean_figure(values, policy, width)
        case "repair_rate":
            return _repair_figure(values, policy, width)
        case "negative_flips":
            share = ratio(facts.negative_flips(outcome), facts.clean_images(outcome))
            return _ceiling(share, number(policy.get("max_negative_flips")), "Negative flips", lambda x: percent(x, 1))
        case "latency":
            return _ceiling(_latency_ratio(values), number(policy.get("max_latency_ratio")), "Latency ratio", fixed)
    return Markup("")


def _clean_figure(values: Mapping[str, Any], policy: Mapping[str, Any], width: float) -> Markup:
    lower, point, upper = (number(values.get(f"{k}_points")) for k in ("lower", "difference", "upper"))
    margin = number(values.get("margin_points", policy.get("margin_points")))
    limit = None if margin is None else -margin
    label = f"Change of clean accuracy {signed(point)} points, interval {signed(lower)} to {signed(upper)}"
    return interval(
        lower,
        point,
        upper,
        limit,
        label=f"{label}; the margin is {signed(limit)} points.",
        limit_text=f"margin {signed(limit)}",
        texts=(signed(lower), signed(upper)),
        zero=True,
        width=width,
    )


def _repair_figure(values: Mapping[str, Any], policy: Mapping[str, Any], width: float) -> Markup:
    lower, upper = number(values.get("lower")), number(values.get("upper"))
    point = number(values.get("rate"))
    point = ratio(values.get("repaired"), values.get("total")) if point is None else point
    limit = number(values.get("min_rate", policy.get("min_repair_rate")))
    label = f"Repair rate {percent(point)}, interval {percent(lower)} to {percent(upper)}"
    return interval(
        lower,
        point,
        upper,
        limit,
        label=f"{label}; at least {percent(limit, 0)} is required.",
        limit_text=f"at least {percent(limit, 0)}",
        texts=(percent(lower), percent(upper)),
        domain=(0.0, 1.0),
        width=width,
    )


def _ceiling(value: float | None, limit: float | None, what: str, words: Any) -> Markup:
    """A single figure against the most that is allowed."""
    if value is None:
        return Markup("")
    high = max(value, limit or 0.0) * 1.4 or 1.0
    bound = "" if limit is None else f"at most {words(limit)}"
    label = f"{what} {words(value)}{'; ' + bound + ' allowed' if bound else ''}."
    return interval(None, value, None, limit, label=label, limit_text=bound, allowed="below", domain=(0.0, high))


def _latency_ratio(values: Mapping[str, Any]) -> float | None:
    return number(values.get("ratio"))
