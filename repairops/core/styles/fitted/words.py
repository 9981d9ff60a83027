"""Degradations in words: what was found in a group of failures, one sentence for each component."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from repairops.core.styles.fitted.parameters import PARAMETERS
from repairops.core.styles.fitted.random_effects import Estimate

WIDE = 1.2816  # standard deviations to the 10% and 90% quantiles of a normal distribution
ONE_DIRECTION = 0.5  # share of the mean length that is left when streaks are averaged as vectors
UNEXPLAINED = 12.0  # see `Estimate.unexplained`; set between 8 and 15 in docs/styles-measured.md
GREY = 0.6  # correlation of the channels' noise from which it is called grey


@dataclass(frozen=True)
class Finding:
    """One component in one group of failures.

    value: mean over the images that have it; low, high: where 80% of them lie, uncertainty included; error: standard
    error of the mean; all in `unit`. images: how many have it, of `of`.
    """

    component: str
    text: str
    value: float
    low: float
    high: float
    error: float
    unit: str
    images: int
    of: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Wording:
    """How a parameter is said: a text with {value}, {low}, {high} and {sign}, its unit, and its scale in words."""

    text: str
    unit: str
    say: Callable[[float], float] = float
    digits: int = 2


def _percent(value: float) -> float:
    return 100 * value


WORDINGS = {
    "shift": Wording("{sign} by {value} ({low} to {high})", "full scale"),
    "contrast": Wording("contrast {sign} to {value} ({low} to {high}) of the original", "factor", math.exp),
    "blur": Wording("blur, width {value} ({low} to {high}) pixels", "pixels of standard deviation"),
    "streak": Wording("motion blur {sign}, width {value} ({low} to {high}) pixels", "pixels of standard deviation"),
    "coarseness": Wording("resolution reduced to {value} ({low} to {high}) of the original", "factor", lambda v: 1 - v),
    "veil": Wording("a smooth grey veil, strength {value} ({low} to {high})", "full scale, root mean square"),
    "specks": Wording("bright specks on {value}% ({low} to {high}%) of the image", "percent", _percent, 1),
    "noise": Wording("additive {sign}noise, sigma {value} ({low} to {high})", "full scale", digits=3),
    "shot": Wording(
        "{sign}noise that grows with brightness, sigma {value} ({low} to {high}) at white", "full scale", digits=3
    ),
    "grain": Wording("{sign}grain over several pixels, sigma {value} ({low} to {high})", "full scale", digits=3),
    "rows": Wording("stripes along rows, sigma {value} ({low} to {high})", "full scale", digits=3),
    "columns": Wording("stripes along columns, sigma {value} ({low} to {high})", "full scale", digits=3),
    "impulses": Wording("impulses in {value}% ({low} to {high}%) of the values", "percent", _percent, 1),
    "blocking": Wording("blocks as of JPEG quality {value} ({low} to {high})", "quality", lambda v: 100 * (1 - v), 0),
    "tint_red": Wording("red {sign} against green by {value} ({low} to {high})", "full scale"),
    "tint_blue": Wording("blue {sign} against green by {value} ({low} to {high})", "full scale"),
}


def findings(found: Estimate, members: Tensor | None = None) -> list[Finding]:
    """What the failures `members`, int64 (n,), of an estimate have; all of its failures by default.

    Components that fewer than a tenth of the members have are left out.
    """
    values = found.values if members is None else found.values[members.to(found.values.device)]
    remaining = (found.spread @ found.spread.T).diagonal()
    told = []
    for name, column, uncertain in _columns(found, values, remaining):
        parameter = "streak_x" if name == "streak" else name
        present = column.abs() > PARAMETERS[parameter].least / 2
        count = int(present.sum())
        if count and count >= len(values) / 10:
            index = found.names.index(parameter)
            finding = _finding(name, column[present], float(uncertain), float(found.error[index]), found, values)
            told.append(Finding(**finding, images=count, of=len(values)))
    return told


def sentence(told: Sequence[Finding], failures: int, unexplained: float = 0.0) -> str:
    """All findings of a group in one sentence, and whether they account for its look (`Estimate.unexplained`)."""
    rest = "; much of their look is something else" if unexplained > UNEXPLAINED else ""
    if not told:
        return f"no degradation that shows against clean images, {failures} images{rest}"
    parts = [f"{f.text}, {f.images} of {f.of} images" if f.images < f.of else f.text for f in told]
    said = f"{'; '.join(parts)}; {failures} images" if len(parts) > 1 else f"{told[0].text}, {told[0].images} images"
    return said + rest


def _columns(found: Estimate, values: Tensor, remaining: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """Name, values (n,) and uncertain variance of each component; both streak parameters are one length."""
    columns = []
    for i, name in enumerate(found.names):
        if name == "streak_x":
            both = values[:, i : i + 2]
            length = (both.square().sum(1) + remaining[i : i + 2].sum()).sqrt()
            columns.append(("streak", length, remaining[i : i + 2].mean()))
        elif name != "streak_y":
            columns.append((name, values[:, i], remaining[i]))
    return columns


def _finding(
    name: str, column: Tensor, uncertain: float, error: float, found: Estimate, values: Tensor
) -> dict[str, Any]:
    wording = WORDINGS[name]
    mean = float(column.mean())
    width = WIDE * math.sqrt(float(column.var(correction=0)) + uncertain)
    parameter = PARAMETERS["streak_x" if name == "streak" else name]
    least = max(mean - width, parameter.low if parameter.low < 0 and name != "streak" else 0.0)
    sign = _sign(name, mean, found, values)
    raw = [mean, least, mean + width]
    if name in ("shift", "tint_red", "tint_blue") and mean < 0:
        raw = [-x for x in raw]
    value, *ends = (wording.say(x) for x in raw)
    low, high = sorted(ends)
    shown = {k: f"{v:.{wording.digits}f}" for k, v in (("value", value), ("low", low), ("high", high))}
    slope = abs(wording.say(raw[0] + error) - value)
    return {
        "component": name, "text": wording.text.format(sign=sign, **shown), "value": value, "low": low, "high": high,
        "error": slope, "unit": wording.unit,
    }  # fmt: skip


def _sign(name: str, mean: float, found: Estimate, values: Tensor) -> str:
    if name == "shift":
        return "brighter" if mean > 0 else "darker"
    if name == "contrast":
        return "reduced" if mean < 0 else "raised"
    if name.startswith("tint"):
        return "raised" if mean > 0 else "lowered"
    if name == "streak":
        return _direction(values[:, found.names.index("streak_x")], values[:, found.names.index("streak_y")])
    if name in ("noise", "shot", "grain"):
        return _noise_colour(found.noise_shape)
    return ""


def _direction(x: Tensor, y: Tensor) -> str:
    """An angle where most streaks share it: counter-clockwise from horizontal."""
    mean = torch.stack([x, y]).mean(1)
    if mean.norm() < ONE_DIRECTION * torch.hypot(x, y).mean():
        return "in varying directions"
    degrees = math.degrees(math.atan2(float(mean[1]), float(mean[0]))) / 2 % 180
    return f"along {degrees:.0f} degrees"


def _noise_colour(shape: Tensor) -> str:
    covariance = shape @ shape.T
    if len(covariance) == 1:
        return ""
    deviation = covariance.diagonal().clamp_min(1e-9).sqrt()
    correlation = covariance / (deviation[:, None] * deviation)
    others = ~torch.eye(len(covariance), dtype=torch.bool, device=shape.device)
    return "grey " if correlation[others].mean() > GREY else "colour "
