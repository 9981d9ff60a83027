"""The page's drawings: small inline SVGs from numbers. Colours come from the page's style sheet by class.

Every figure has role="img" and a label in words. A figure whose point is missing is an empty string.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

from repairops.report.wording import number

CHARACTER = 7.2  # pixels of one character of a label, at most: fonts differ


@dataclass(frozen=True)
class Scale:
    """Linear map of [low, high] onto pixels [start, stop]; values outside are clamped to the ends."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        if self.high <= self.low:
            return (self.start + self.stop) / 2
        share = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        return round(self.start + share * (self.stop - self.start), 2)


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """About `wanted` round values that enclose [low, high], in steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [round(i * step, digits) for i in range(first, last + 1)]


def _svg(width: float, height: float, label: str, parts: Sequence[str], kind: str) -> Markup:
    head = Markup('<svg class="{}" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">').format(
        kind, f"{width:g}", f"{height:g}", f"{width:g}", f"{height:g}", label
    )
    return head + Markup("").join(Markup(p) for p in parts) + Markup("</svg>")  # noqa: S704, parts are escaped


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>'


def _rect(x: float, y: float, width: float, height: float, kind: str, radius: float = 0) -> str:
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{max(width, 0):g}" height="{height:g}" rx="{radius:g}"/>'


def _circle(x: float, y: float, radius: float, kind: str) -> str:
    return f'<circle class="{kind}" cx="{x:g}" cy="{y:g}" r="{radius:g}"/>'


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
    allowed: Literal["above", "below"] = "above",
    domain: tuple[float, float] | None = None,
    zero: bool = False,
    width: float = 260,
) -> Markup:
    """A point with its interval against a limit; the side of the limit that is not allowed is shaded.

    A missing bound leaves only the point. `texts` label the two bounds, `zero` marks zero where it is in sight.
    Without `domain` the scale holds all values (and zero where marked) with room beside them.
    """
    lower, point, upper, limit = (number(v) for v in (lower, point, upper, limit))
    if point is None:
        return Markup("")
    given = [v for v in (lower, point, upper, limit, 0.0 if zero else None) if v is not None]
    scale = interval_scale(given, domain, width)
    top, mid, bottom = 16.0, 25.0, 34.0
    parts = [_rect(scale.start, top, scale.stop - scale.start, bottom - top, "track", 2)]
    if limit is not None:
        x = scale(limit)
        left, right = (scale.start, x) if allowed == "above" else (x, scale.stop)
        parts.append(_rect(left, top, right - left, bottom - top, "forbidden"))
    if zero and scale.low <= 0 <= scale.high:
        parts += [_line(scale(0), top, scale(0), bottom, "zero"), _text(scale(0) + 3, 11, "0", "start", "dim")]
    if lower is not None and upper is not None:
        a, b = scale(lower), scale(upper)
        parts += [_rect(a, mid - 3, max(b - a, 1), 6, "range", 3)]
        parts += _bounds(a, b, texts, width)
    parts.append(_circle(scale(point), mid, 4.5, "point"))
    if limit is not None:
        parts += [
            _line(scale(limit), top - 3, scale(limit), bottom + 3, "limit"),
            _limit(scale(limit), limit_text, width),
        ]
    return _svg(width, 48, label, parts, "interval")


def _bounds(a: float, b: float, texts: tuple[str, str], width: float) -> list[str]:
    """The labels of the two bounds below their ends, apart from each other and inside the picture."""
    half = [CHARACTER * len(text) / 2 for text in texts]
    overlap = max(0.0, half[0] + half[1] + 12 - (b - a))
    left, right = a - overlap / 2, b + overlap / 2
    shift = max(0.0, half[0] - left) - max(0.0, right + half[1] - width)
    left, right = max(left + shift, half[0]), min(right + shift, width - half[1])
    places = ((left, texts[0]), (right, texts[1]))
    return [_text(round(x, 2), 45, text, "middle", "dim") for x, text in places if text]


def _limit(x: float, text: str, width: float) -> str:
    """The limit's label above its line, on the left where there is room (zero's label stands on the right)."""
    if not text:
        return ""
    return _text(x + 3, 11, text, "end", "dim") if x > CHARACTER * len(text) else _text(x - 3, 11, text, "start", "dim")


def dumbbell(
    before: float | None,
    after: float | None,
    domain: tuple[float, float],
    *,
    label: str,
    beyond: bool,
    width: float = 200,
) -> Markup:
    """Champion (ring) and challenger (dot) on one scale, joined; `beyond` marks a fall beyond the margin."""
    before, after = number(before), number(after)
    if before is None or after is None:
        return Markup("")
    scale = Scale(domain[0], domain[1], 7, width - 7)
    a, b = scale(before), scale(after)
    kind = "beyond" if beyond else "within"
    parts = [_line(7, 9, width - 7, 9, "track"), _line(a, 9, b, 9, f"join {kind}")]
    parts += [_circle(a, 9, 4, "ring"), _circle(b, 9, 4, f"dot {kind}")]
    return _svg(width, 18, label, parts, "dumbbell")


def share_bar(parts: Sequence[tuple[float, str]], *, label: str, width: float = 200, height: float = 8) -> Markup:
    """Amounts as one bar, (amount, class) each, in the order given; the whole bar is their sum."""
    amounts = [(number(amount) or 0.0, kind) for amount, kind in parts]
    total = sum(amount for amount, _ in amounts)
    if total <= 0:
        return Markup("")
    drawn, x = [], 0.0
    for amount, kind in amounts:
        step = amount / total * width
        drawn.append(_rect(round(x, 2), 0, round(step, 2), height, kind))
        x += step
    return _svg(width, height, label, drawn, "shares")


@dataclass(frozen=True)
class Curve:
    """One line of a chart; `kind` is the style-sheet class that gives colour and dashes."""

    name: str
    kind: str
    values: tuple[float | None, ...]


def line_chart(
    x: Sequence[float],
    curves: Sequence[Curve],
    *,
    label: str,
    percent: bool = False,
    marked: float | None = None,
    marked_text: str = "",
    width: float = 440,
    height: float = 200,
) -> Markup:
    """Curves over epochs with axes. A missing value (None, NaN) breaks its line; `marked` is a vertical line."""
    clean = [Curve(c.name, c.kind, tuple(number(v) for v in c.values)) for c in curves]
    present = [v for c in clean for v in c.values if v is not None]
    if not present or not x:
        return Markup("")
    ticks = nice_ticks(min(present), max(present))
    left, right, top, bottom = 44.0, width - 12, 18.0, height - 34
    across, up = Scale(min(x), max(x), left + 8, right - 8), Scale(ticks[0], ticks[-1], bottom, top)
    parts = []
    for tick in ticks:
        parts += [
            _line(left, up(tick), right, up(tick), "rule"),
            _text(left - 6, up(tick) + 4, _tick(tick, percent), "end"),
        ]
    for tick in x[:: max(1, math.ceil(len(x) / 8))]:
        parts.append(_text(across(tick), bottom + 16, f"{tick:g}"))
    parts.append(_text((left + right) / 2, height - 3, "epoch", kind="dim"))
    if (where := number(marked)) is not None and min(x) <= where <= max(x):
        anchor = "end" if across(where) > (left + right) / 2 else "start"
        side = -4 if anchor == "end" else 4
        parts += [_line(across(where), top - 6, across(where), bottom, "chosen")]
        parts += [_text(across(where) + side, top - 6, marked_text, anchor, "dim")]
    for curve in clean:
        parts += _curve(
            [(across(a), up(b)) if b is not None else None for a, b in zip(x, curve.values, strict=False)], curve
        )
    return _svg(width, height, label, parts, "chart")


def _curve(points: Sequence[tuple[float, float] | None], curve: Curve) -> list[str]:
    pieces: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            pieces.append([])
        else:
            pieces[-1].append(point)
    parts = []
    for piece in pieces:
        if len(piece) > 1:
            path = " ".join(f"{px:g},{py:g}" for px, py in piece)
            parts.append(f'<polyline class="curve {escape(curve.kind)}" points="{path}"/>')
        if len(points) <= 30 or len(piece) == 1:
            parts += [_circle(px, py, 2.6, f"mark {curve.kind}") for px, py in piece]
    return parts


def _tick(value: float, percent: bool) -> str:
    return f"{100 * value:.4g}%" if percent else f"{value:.4g}"
