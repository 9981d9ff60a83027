"""Intervals and shares: one value against its limit, or many rows on one scale.

A figure whose value is missing is an empty string. The side of a limit that is not allowed is shaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from markupsafe import Markup

from repairops.report.formats import number
from repairops.report.svg import CHARACTER, Scale, circle, drawing, inside, line, nice_ticks, rect, text

Side = Literal["above", "below"]  # of the limit: the allowed side
ROW_HEIGHT = 34.0


def interval_scale(values: Sequence[float], domain: tuple[float, float] | None, width: float) -> Scale:
    """The horizontal scale of `interval`: the domain, or the values with a quarter of their range on each side."""
    if domain is None:
        room = (max(values) - min(values)) / 4 or 1.0
        domain = (min(values) - room, max(values) + room)
    return Scale(domain[0], domain[1], 6.0, width - 6.0)


def interval(
    lower: float | None,
    point: float | None,
    upper: float | None,
    limit: float | None,
    *,
    label: str,
    limit_text: str = "",
    texts: tuple[str, str] = ("", ""),
    allowed: Side = "above",
    domain: tuple[float, float] | None = None,
    zero: bool = False,
    width: float = 260,
) -> Markup:
    """A point with its interval against a limit.

    A missing bound leaves only the point. `texts` label the two bounds, `zero` marks zero where it is in sight.
    Without `domain` the scale holds all values (and zero where marked) with room beside them.
    """
    lower, point, upper, limit = (number(v) for v in (lower, point, upper, limit))
    if point is None:
        return Markup("")
    given = [v for v in (lower, point, upper, limit, 0.0 if zero else None) if v is not None]
    scale = interval_scale(given, domain, width)
    parts = _track(scale, limit, allowed) + (_zero(scale, limit, limit_text) if zero else [])
    if lower is not None and upper is not None:
        a, b = scale(lower), scale(upper)
        parts += [rect(a, 22, max(b - a, 1), 6, "range", 3)]
        parts += _bounds(a, b, texts, width)
    parts.append(circle(scale(point), 25, 4.5, "point"))
    parts += _limit(scale, limit, limit_text, width)
    above, below = zero or limit is not None, lower is not None and upper is not None and any(texts)
    return drawing(width, 48, label, parts, "interval", top=0 if above else 14, bottom=0 if below else 8)


def dots(
    values: Sequence[float | None],
    limit: float | None,
    *,
    label: str,
    limit_text: str = "",
    domain: tuple[float, float] | None = None,
    zero: bool = False,
    texts: Callable[[float], str] | None = None,
    width: float = 260,
) -> Markup:
    """Many values of one kind against a limit below which none may fall, each a dot; the ends carry their values."""
    present = [v for value in values if (v := number(value)) is not None]
    limit = number(limit)
    if not present:
        return Markup("")
    given = [v for v in (*present, limit, 0.0 if zero else None) if v is not None]
    scale = interval_scale(given, domain, width)
    parts = _track(scale, limit, "above") + (_zero(scale, limit, limit_text) if zero else [])
    parts += [circle(scale(v), 25, 4, "dot beyond" if limit is not None and v < limit else "dot") for v in present]
    if texts:
        ends = scale(min(present)), scale(max(present))
        parts += _bounds(*ends, (texts(min(present)), texts(max(present)) if len(present) > 1 else ""), width)
    parts += _limit(scale, limit, limit_text, width)
    return drawing(width, 48, label, parts, "interval")


def _track(scale: Scale, limit: float | None, allowed: Side) -> list[str]:
    parts = [rect(scale.start, 16, scale.stop - scale.start, 18, "track", 2)]
    if limit is not None:
        left, right = (scale.start, scale(limit)) if allowed == "above" else (scale(limit), scale.stop)
        parts.append(rect(left, 16, right - left, 18, "forbidden"))
    return parts


def _zero(scale: Scale, limit: float | None, limit_text: str) -> list[str]:
    """Zero where it is in sight, with its label unless that of the limit reaches over it."""
    if not scale.low <= 0 <= scale.high:
        return []
    drawn, x = [line(scale(0), 16, scale(0), 34, "zero")], scale(0)
    at = None if limit is None else scale(limit)
    reach = CHARACTER * len(limit_text)
    taken = at is not None and (at - reach < x < at + reach if at <= reach else at - reach < x < at)
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


def _limit(scale: Scale, limit: float | None, words: str, width: float) -> list[str]:
    """The limit's line, and its label on the left where there is room (zero's label stands on the right)."""
    if limit is None:
        return []
    x = scale(limit)
    drawn = [line(x, 13, x, 37, "limit")]
    if not words:
        return drawn
    if x > CHARACTER * len(words):
        return [*drawn, text(x + 3, 11, words, "end", "dim")]
    return [*drawn, text(x - 3, 11, words, "start", "dim")]


def row_scale(values: Sequence[float | None], width: float = 300) -> tuple[Scale, list[float]]:
    """One scale for the rows of a table, with round ends, and its ticks."""
    present = [v for v in values if v is not None] or [0.0, 1.0]
    ticks = nice_ticks(min(present), max(present))
    return Scale(ticks[0], ticks[-1], 10.0, width - 10.0), ticks


def row(
    lower: float | None,
    point: float | None,
    upper: float | None,
    limit: float | None,
    scale: Scale,
    *,
    label: str,
    zero: bool = False,
) -> Markup:
    """One row of many on a shared scale. Limit and zero run from edge to edge, so that they join over the rows."""
    lower, point, upper, limit = (number(v) for v in (lower, point, upper, limit))
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
    before: float | None,
    after: float | None,
    domain: tuple[float, float],
    *,
    label: str,
    beyond: bool,
    width: float = 200,
) -> Markup:
    """Champion (ring) and challenger (dot) on one scale, joined; `beyond` marks a change for the worse."""
    before, after = number(before), number(after)
    if before is None or after is None:
        return Markup("")
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
