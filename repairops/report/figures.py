"""Intervals and shares: one value against its limit, or many rows on one scale.

A figure whose value is missing is an empty string. The side of a limit that is not allowed is shaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from repairops.report.formats import number, percent, signed
from repairops.report.svg import CHARACTER, Scale, circle, drawing, inside, line, nice_ticks, rect, text

Range = tuple[float | None, float | None, float | None]  # lower bound, value, upper bound
ROW_HEIGHT = 34.0


@dataclass(frozen=True)
class Unit:
    """How values of one kind are said and drawn.

    say, limit: a value, and a limit with its name, in words. domain: the ends of the scale; None: the values' with
    room beside them. zero: it is marked where it is in sight. allowed: the side of the limit.
    """

    say: Callable[[float | None], str]
    limit: Callable[[float | None], str]
    domain: tuple[float, float] | None = None
    zero: bool = False
    allowed: Literal["above", "below"] = "above"

    def scale(self, values: Sequence[float], limit: float | None, width: float) -> Scale:
        """The horizontal scale: the domain, or all that is drawn with a quarter of its range on each side."""
        low, high = self.domain or (0.0, 0.0)
        if not self.domain:
            given = [*values, *([] if limit is None else [limit]), *([0.0] if self.zero else [])]
            room = (max(given) - min(given)) / 4 or 1.0
            low, high = min(given) - room, max(given) + room
        return Scale(low, high, 6.0, width - 6.0)


POINTS = Unit(signed, lambda limit: f"margin {signed(limit)}", zero=True)
RATES = Unit(percent, lambda limit: f"at least {percent(limit, 0)}", (0.0, 1.0))
WHOLE_RATES = Unit(lambda rate: percent(rate, 0), RATES.limit, RATES.domain)


def interval(values: Range, limit: float | None, unit: Unit, *, label: str, width: float = 260) -> Markup:
    """A point with its interval, whose bounds are labelled, against a limit. A missing bound leaves only the point."""
    lower, point, upper, limit = map(number, (*values, limit))
    if point is None:
        return Markup("")
    bounds = [] if lower is None or upper is None else [lower, upper]
    scale = unit.scale([point, *bounds], limit, width)
    parts = _track(scale, limit, unit)
    if bounds:
        a, b = map(scale, bounds)
        parts += [rect(a, 22, max(b - a, 1), 6, "range", 3)]
        parts += _bounds(a, b, (unit.say(lower), unit.say(upper)), width)
    parts.append(circle(scale(point), 25, 4.5, "point"))
    parts += _limit(scale, limit, unit)
    above = unit.zero or limit is not None
    return drawing(width, 48, label, parts, "interval", top=0 if above else 14, bottom=0 if bounds else 8)


def dots(values: Sequence[float | None], limit: float | None, unit: Unit, *, label: str, width: float = 260) -> Markup:
    """Many values of one kind against a limit below which none may fall, each a dot; the ends carry their values."""
    present = [v for value in values if (v := number(value)) is not None]
    limit = number(limit)
    if not present:
        return Markup("")
    scale = unit.scale(present, limit, width)
    parts = _track(scale, limit, unit)
    parts += [circle(scale(v), 25, 4, "dot beyond" if limit is not None and v < limit else "dot") for v in present]
    low, high = min(present), max(present)
    parts += _bounds(scale(low), scale(high), (unit.say(low), unit.say(high) if len(present) > 1 else ""), width)
    return drawing(width, 48, label, parts + _limit(scale, limit, unit), "interval")


def _track(scale: Scale, limit: float | None, unit: Unit) -> list[str]:
    """What the values lie on: the side that is not allowed, and zero."""
    parts = [rect(scale.start, 16, scale.stop - scale.start, 18, "track", 2)]
    if limit is not None:
        left, right = (scale.start, scale(limit)) if unit.allowed == "above" else (scale(limit), scale.stop)
        parts.append(rect(left, 16, right - left, 18, "forbidden"))
    return parts + _zero(scale, limit, unit) if unit.zero else parts


def _zero(scale: Scale, limit: float | None, unit: Unit) -> list[str]:
    """Zero where it is in sight, with its label unless that of the limit reaches over it."""
    if not scale.low <= 0 <= scale.high:
        return []
    drawn, x = [line(scale(0), 16, scale(0), 34, "zero")], scale(0)
    at, reach = (-math.inf, 0.0) if limit is None else (scale(limit), CHARACTER * len(unit.limit(limit)))
    taken = at - reach < x < (at + reach if at <= reach else at)
    return drawn if taken else [*drawn, text(x + 3, 11, "0", "start", "dim")]


def _bounds(a: float, b: float, texts: tuple[str, str], width: float) -> list[str]:
    """The labels of the two bounds below their ends, apart from each other and inside the picture."""
    half = [CHARACTER * len(words) / 2 for words in texts]
    overlap = max(0.0, half[0] + half[1] + 12 - (b - a))
    left, right = a - overlap / 2, b + overlap / 2
    shift = max(0.0, half[0] - left) - max(0.0, right + half[1] - width)
    left, right = max(left + shift, half[0]), min(right + shift, width - half[1])
    places = ((left, texts[0]), (right, texts[1]))
    return [text(round(x, 2), 45, words, "middle", "dim") for x, words in places if words]


def _limit(scale: Scale, limit: float | None, unit: Unit) -> list[str]:
    """The limit's line, and its label on the left where there is room (zero's label stands on the right)."""
    if limit is None:
        return []
    x, words = scale(limit), unit.limit(limit)
    place, anchor = (x + 3, "end") if x > CHARACTER * len(words) else (x - 3, "start")
    return [line(x, 13, x, 37, "limit"), text(place, 11, words, anchor, "dim")]


def row_scale(values: Sequence[float | None], width: float = 300) -> tuple[Scale, list[float]]:
    """One scale for the rows of a table, with round ends, and its ticks."""
    present = [v for v in values if v is not None] or [0.0, 1.0]
    ticks = nice_ticks(min(present), max(present))
    return Scale(ticks[0], ticks[-1], 10.0, width - 10.0), ticks


def row(values: Range, limit: float | None, scale: Scale, *, label: str, zero: bool = False) -> Markup:
    """One row of many on a shared scale. Limit and zero run from edge to edge, so that they join over the rows."""
    lower, point, upper, limit = map(number, (*values, limit))
    if point is None:
        return Markup("")
    middle = ROW_HEIGHT / 2
    parts = []
    if limit is not None and limit > scale.low:
        parts.append(rect(scale.start, 0, scale(limit) - scale.start, ROW_HEIGHT, "forbidden"))
    parts.append(line(scale.start, middle, scale.stop, middle, "rail"))
    if zero and scale.low <= 0 <= scale.high:
        parts.append(line(scale(0), 0, scale(0), ROW_HEIGHT, "zero"))
    if limit is not None and scale.low <= limit <= scale.high:
        parts.append(line(scale(limit), 0, scale(limit), ROW_HEIGHT, "limit"))
    if lower is not None and upper is not None:
        a, b = scale(lower), scale(upper)
        parts.append(rect(a, middle - 2.5, max(b - a, 1), 5, "range", 2.5))
    beyond = " beyond" if limit is not None and point < limit else ""
    parts.append(circle(scale(point), middle, 4.5, f"point{beyond}"))
    return drawing(scale.stop + 10, ROW_HEIGHT, label, parts, "row")


def axis(
    scale: Scale, ticks: Sequence[float], limit: float | None, limit_text: str, words: Callable[[float], str]
) -> Markup:
    """The scale above the rows of a table: ticks, and the limit by its name."""
    width, limit = scale.stop + 10, number(limit)
    shown = [tick for tick in ticks if limit is None or abs(scale(tick) - scale(limit)) > 4]
    parts = [text(inside(scale(tick), words(tick), width), 27, words(tick), "middle", "dim") for tick in shown]
    parts += [line(scale(tick), 31, scale(tick), 34, "zero") for tick in ticks]
    label = f"Scale from {words(scale.low)} to {words(scale.high)}"
    if limit is not None and scale.low <= limit <= scale.high:
        parts += [line(scale(limit), 14, scale(limit), 34, "limit")]
        parts += [text(inside(scale(limit), limit_text, width), 10, limit_text, "middle", "limit-name")]
        label += f"; {limit_text}"
    return drawing(width, 34, f"{label}.", parts, "row")


def dumbbell(
    before: float, after: float, domain: tuple[float, float], *, label: str, beyond: bool, width: float = 200
) -> Markup:
    """Champion (ring) and challenger (dot) on one scale, joined; `beyond` marks a change for the worse."""
    scale = Scale(domain[0], domain[1], 7, width - 7)
    a, b = scale(before), scale(after)
    kind = "beyond" if beyond else "within"
    parts = [line(7, 9, width - 7, 9, "rail"), line(a, 9, b, 9, f"join {kind}")]
    parts += [circle(a, 9, 4, "ring"), circle(b, 9, 4, f"dot {kind}")]
    return drawing(width, 18, label, parts, "dumbbell")


def share_bar(parts: Sequence[tuple[float, str]], *, label: str, width: float = 200, height: float = 8) -> Markup:
    """Amounts as one bar, (amount, class) each, in the order given; the whole bar is their sum."""
    amounts = [(number(amount) or 0.0, kind) for amount, kind in parts]
    total = sum(amount for amount, _ in amounts)
    if total <= 0:
        return Markup("")
    drawn, x = [], 0.0
    for amount, kind in amounts:
        step = amount / total * width
        drawn.append(rect(round(x, 2), 0, round(step, 2), height, kind))
        x += step
    return drawing(width, height, label, drawn, "shares")
