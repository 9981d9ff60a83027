"""Charts with two axes: curves over epochs, and the trade-off that a checkpoint was chosen on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup, escape

from repairops.gate.evidence import ConfidenceBin
from repairops.outcome.sections import Point
from repairops.report.formats import number, percent
from repairops.report.svg import (
    CHARACTER,
    Scale,
    circle,
    drawing,
    inside,
    line,
    nice_ticks,
    path,
    rect,
    share_ticks,
    text,
)


@dataclass(frozen=True)
class Curve:
    """One line of a chart; `kind` is the style-sheet class that gives colour and dashes."""

    name: str
    kind: str
    values: tuple[float | None, ...]


def line_chart(
    x: Sequence[float], curves: Sequence[Curve], *, label: str, percents: bool = False, chosen: float | None = None
) -> Markup:
    """Curves over epochs with axes. A missing value (None, NaN) breaks its line; `chosen` is a vertical line."""
    width, height = 440.0, 200.0
    clean = [Curve(c.name, c.kind, tuple(number(v) for v in c.values)) for c in curves]
    present = [v for c in clean for v in c.values if v is not None]
    if not present or not x:
        return Markup("")
    ticks = (share_ticks if percents else nice_ticks)(min(present), max(present))
    left, right, top, bottom = 44.0, width - 12, 18.0, height - 34
    across, up = Scale(min(x), max(x), left + 8, right - 8), Scale(ticks[0], ticks[-1], bottom, top)
    parts = _rules(ticks, up, left, right, percents)
    for tick in x[:: max(1, math.ceil(len(x) / 8))]:
        parts.append(text(across(tick), bottom + 16, f"{tick:g}"))
    parts.append(text((left + right) / 2, height - 3, "epoch", kind="dim"))
    if (where := number(chosen)) is not None and min(x) <= where <= max(x):
        anchor, side = ("end", -4) if across(where) > (left + right) / 2 else ("start", 4)
        parts += [line(across(where), top - 6, across(where), bottom, "chosen")]
        parts += [text(across(where) + side, top - 6, "chosen", anchor, "dim")]
    for curve in clean:
        parts += _curve(
            [(across(a), up(b)) if b is not None else None for a, b in zip(x, curve.values, strict=False)], curve
        )
    return drawing(width, height, label, parts, "chart")


def _rules(ticks: Sequence[float], up: Scale, left: float, right: float, percents: bool) -> list[str]:
    parts = []
    for tick in ticks:
        parts += [
            line(left, up(tick), right, up(tick), "rule"),
            text(left - 6, up(tick) + 4, _tick(tick, percents), "end"),
        ]
    return parts


def _curve(points: Sequence[tuple[float, float] | None], curve: Curve) -> list[str]:
    parts = []
    for known, run in groupby(points, key=lambda point: point is not None):
        piece = [point for point in run if point is not None]
        if len(piece) > 1:
            parts.append(path(piece, f"curve {escape(curve.kind)}"))
        if known and (len(points) <= 30 or len(piece) == 1):
            parts += [circle(px, py, 2.6, f"mark {curve.kind}") for px, py in piece]
    return parts


def _tick(value: float, percents: bool) -> str:
    return f"{100 * value:.4g}%" if percents else f"{value:.4g}"


def trade_off_chart(points: Sequence[Point], *, width: float = 440, height: float = 240) -> Markup:
    """Validation accuracy over validation repair rate along the line of weights; the chosen point is marked."""
    points = [p for p in points if math.isfinite(p.validation_accuracy + p.validation_repair_rate)]
    points.sort(key=lambda p: p.weight)
    if len(points) < 2:
        return Markup("")
    rates, accuracies = [p.validation_repair_rate for p in points], [p.validation_accuracy for p in points]
    xs, ys = share_ticks(min(rates), max(rates)), share_ticks(min(accuracies), max(accuracies))
    left, right, top, bottom = 50.0, width - 14, 22.0, height - 38
    across, up = Scale(xs[0], xs[-1], left + 8, right - 8), Scale(ys[0], ys[-1], bottom, top)
    parts = _rules(ys, up, left, right, True)
    parts += [text(across(tick), bottom + 16, _tick(tick, True)) for tick in xs]
    parts.append(text((left + right) / 2, height - 4, "validation repair rate", kind="dim"))
    parts.append(text(0, 10, "validation accuracy", "start", "dim"))
    places = [(across(rate), up(accuracy)) for rate, accuracy in zip(rates, accuracies, strict=True)]
    parts.append(path(places, "curve c1"))
    for p, (x, y) in zip(points, places, strict=True):
        parts.append(circle(x, y, 6 if p.chosen else 3, "point" if p.chosen else "mark c1"))
        parts += _named(p, x, y, right, bottom)
    return drawing(width, height, trade_off_words(points), parts, "chart")


def _named(point: Point, x: float, y: float, right: float, bottom: float) -> list[str]:
    """The names of the ends and of the chosen point, below the line: it falls where more is repaired."""
    ends = {0.0: "champion", 1.0: "fine-tuned"}
    words = f"chosen, weight {point.weight:g}" if point.chosen else ends.get(point.weight, "")
    if not words:
        return []
    kind = "halo" if point.chosen else "halo dim"
    if x + CHARACTER * len(words) <= right:
        return [text(x - 4, y + 19, words, "start", kind)]
    return [text(x - 11, y + 5, words, "end", kind) if y + 21 > bottom else text(x - 3, y + 19, words, "end", kind)]


def trade_off_words(points: Sequence[Point]) -> str:
    """The chart in one sentence, for those who do not see it."""
    said = [
        f"weight {p.weight:g}: accuracy {percent(p.validation_accuracy)}, "
        f"repair rate {percent(p.validation_repair_rate)}{' (chosen)' if p.chosen else ''}"
        for p in points
    ]
    return f"Trade-off on the validation parts, {len(points)} points. {'; '.join(said)}."


def reliability_chart(
    champion: Sequence[ConfidenceBin], challenger: Sequence[ConfidenceBin], *, label: str, side: float = 260
) -> Markup:
    """Accuracy over confidence: champion as rings, challenger as dots, larger where there are more images."""
    most = max((b.n for b in (*champion, *challenger)), default=0)
    if most <= 0:
        return Markup("")
    across, up = Scale(0, 1, 44, side + 32), Scale(0, 1, side - 18, 12)
    parts = _rules([0, 0.25, 0.5, 0.75, 1.0], up, 44, side + 32, True)
    parts += [text(across(tick), side - 2, _tick(tick, True)) for tick in (0, 0.5, 1.0)]
    parts += [text(across(0.5), side + 14, "mean confidence", kind="dim"), text(50, 24, "accuracy", "start", "dim")]
    parts.append(line(across(0), up(0), across(1), up(1), "chosen"))
    for bins, kind in ((champion, "ring"), (challenger, "dot")):
        parts += [circle(across(b.confidence), up(b.right / b.n), _radius(b.n, most), kind) for b in bins if b.n]
    return drawing(side + 44, side + 20, label, parts, "chart")


def _radius(n: int, most: int) -> float:
    """Pixels of a dot whose area grows with n."""
    return round(2 + 6 * math.sqrt(n / most), 2)


def mirrored_histogram(
    above: Sequence[int], below: Sequence[int], marks: Sequence[float], *, label: str, width: float = 440
) -> Markup:
    """Shares of two sets by a probability, in equal bins of 0..1, one set upwards and the other downwards.

    Heights go by the square root, so that a few images show beside most; marks: probabilities with a dashed line.
    """
    left, right, top, middle, bottom = 44.0, width - 12, 12.0, 102.0, 192.0
    if not (sum(above) or sum(below)):
        return Markup("")
    across, parts = Scale(0, 1, left, right), []
    for bins, end, kind in ((above, top, "accepted"), (below, bottom, "refused")):
        up = Scale(0, 1, middle, end)
        for tick in (0.01, 0.1, 0.5, 1.0):
            at = up(math.sqrt(tick))
            parts += [line(left, at, right, at, "rule"), text(left - 6, at + 4, _tick(tick, True), "end")]
        for place, n in enumerate(bins):
            start, stop = across(place / len(bins)), across((place + 1) / len(bins))
            tip = up(math.sqrt(n / max(sum(bins), 1)))
            parts.append(rect(start + 0.5, min(middle, tip), stop - start - 1, round(abs(tip - middle), 2), kind))
    parts.append(line(left, middle, right, middle, "zero"))
    parts += [line(across(mark), top - 4, across(mark), bottom + 4, "chosen") for mark in marks]
    for tick in (0, 0.25, 0.5, 0.75, 1.0):
        words = _tick(tick, True)
        parts.append(text(inside(across(tick), words, width), bottom + 16, words))
    parts.append(text((left + right) / 2, bottom + 32, "guard's probability of the look", kind="dim"))
    return drawing(width, bottom + 36, label, parts, "chart")
