"""Inline SVG from numbers. Colours come from the page's style sheet by class; all text is escaped.

Every drawing has role="img" and a label in words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

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


def share_ticks(low: float, high: float, narrowest: float = 0.01) -> list[float]:
    """Ticks around shares of 0..1: none outside, and never for less than `narrowest`."""
    middle, half = (low + high) / 2, max((high - low) / 2, narrowest / 2)
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    return [tick for tick in nice_ticks(low, high) if 0 <= tick <= 1]


def drawing(
    width: float, height: float, label: str, parts: Sequence[str], kind: str, top: float = 0, bottom: float = 0
) -> Markup:
    """A drawing of width x height pixels; `top` and `bottom` pixels of it are cut off where they are empty."""
    box = f"0 {top:g} {width:g} {height - top - bottom:g}"
    head = Markup('<svg class="{}" viewBox="{}" width="{}" height="{}" role="img" aria-label="{}">').format(
        kind, box, f"{width:g}", f"{height - top - bottom:g}", label
    )
    return head + Markup("").join(Markup(p) for p in parts) + Markup("</svg>")  # noqa: S704, parts are escaped


def text(x: float, y: float, words: str, anchor: str = "middle", kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>'


def rect(x: float, y: float, width: float, height: float, kind: str, radius: float = 0) -> str:
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{max(width, 0):g}" height="{height:g}" rx="{radius:g}"/>'


def circle(x: float, y: float, radius: float, kind: str) -> str:
    return f'<circle class="{kind}" cx="{x:g}" cy="{y:g}" r="{radius:g}"/>'


def path(points: Sequence[tuple[float, float]], kind: str) -> str:
    joined = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline class="{kind}" points="{joined}"/>'


def inside(x: float, words: str, width: float) -> float:
    """The middle of a text at x, moved so far that the text stays within 0..width."""
    half = CHARACTER * len(words) / 2
    return round(min(max(x, half), max(width - half, half)), 2)
