"""The look of failures: what is known of their degradations, and how that is said.

A normal random-effects model of the answers for a group: their mean, their spread between images (what exceeds the
scatter of the answers), and for each image what its own answer adds. It is told in one sentence for each component.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from repairops.core.styles.fitted.degradation import PARAMETERS, Degradation
from repairops.core.styles.fitted.regression import Answers
from repairops.core.styles.whitening import safe_eigh

WIDE = 1.2816  # standard deviations to the 10% and 90% quantiles of a normal distribution
ONE_DIRECTION = 0.5  # share of the mean length that is left when streaks are averaged as vectors
UNEXPLAINED = 12.0  # see `FittedLook.unexplained`; set between 8 and 15 in docs/styles-measured.md
CLEAR = 2.0  # of `FittedLook.evidence`, in the same units: what is told explains as much, see docs/styles-measured.md
STRANGE = 4.0  # times what is unexplained, where that is much: a warp is taken for a veil that explains twice as much
INTERVAL = re.compile(r" \(\{low\}[^)]*\)")
GREY = 0.6  # correlation of the channels' noise from which it is called grey


@dataclass(frozen=True, eq=False)
class FittedLook:
    """What was found in R failures.

    names: the P parameters that are present. values: (R, P), each failure's own most likely values. spread: (P, P),
    factor L of what remains uncertain of them, L L'. error: (P,), standard error of their mean. noise_shape, fade: see
    `Degradation`. surplus: (R, K), what of each failure's measures is not that of clean images so degraded, in
    independent directions of unit spread between single images; None where nothing was measured. evidence: by family,
    how much less is explained without it (`evidence.py`); a family that is not named was not tried.
    """

    names: tuple[str, ...]
    values: Tensor
    spread: Tensor
    error: Tensor
    noise_shape: Tensor
    fade: float | None = None
    surplus: Tensor | None = None
    evidence: Mapping[str, float] = field(default_factory=dict)

    def to(self, device: torch.device) -> FittedLook:
        """The same on another device."""
        moved: dict[str, Any] = {name: x.to(device) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return dataclasses.replace(self, **moved)

    def unexplained(self, members: Tensor | None = None) -> float:
        """How far the failures `members`, int64 (n,), as a group are from images that are degraded as was found.

        The squared distance of their mean measures, in units of the spread between single images (Mahalanobis 1936),
        less what chance gives; at least 0.
        """
        if self.surplus is None:
            return 0.0
        surplus = self.surplus if members is None else self.surplus[members.to(self.surplus.device)]
        chance = surplus.var(0, correction=0).sum() / len(surplus)
        return max(0.0, float(surplus.mean(0).square().sum() - chance))

    def clear(self, parameter: str) -> bool:
        """Whether the family of this parameter is told: without it clearly less is explained, and more than what is not
        explained with it, which may be what it stands for; where that is much, several times as much.
        """
        left, evidence = self.unexplained(), self.evidence.get(PARAMETERS[parameter].family, math.inf)
        return evidence >= max(CLEAR, left if left <= UNEXPLAINED else STRANGE * left)

    def draw(self, index: Tensor, generator: Generator, low: Tensor, high: Tensor) -> Degradation:
        """Parameters for failures `index` int64 (B,), anew from what is known of each, within low and high, (P,).

        On the device of these limits.
        """
        device = low.device
        values = self.values[index.to(self.values.device)].to(device)
        normal = torch.randn(values.shape, generator=generator).to(device)
        values = (values + normal @ self.spread.T.to(device)).clamp(low, high)
        return Degradation(self.names, values, self.noise_shape.to(device), self.fade)


def random_effects(
    names: tuple[str, ...],
    answers: Answers,
    low: Tensor,
    high: Tensor,
    shape: Tensor,
    fade: float | None = None,
) -> FittedLook:
    """The failures' parameters from the answers for them."""
    between = positive(answers.total - answers.scatter)
    gain = between @ torch.linalg.pinv(between + answers.scatter, hermitian=True)
    mean = answers.mean
    values = (mean + (answers.values - mean) @ gain.T).clamp(low, high)
    error = answers.total / len(answers.values)
    remaining = positive(between - gain @ between + error)
    roots, vectors = safe_eigh(remaining)
    spread = vectors * roots.clamp_min(0).sqrt()
    return FittedLook(names, values, spread, error.diagonal().clamp_min(0).sqrt(), shape, fade)


def positive(matrix: Tensor) -> Tensor:
    """A symmetric matrix (P, P) without its negative eigenvalues."""
    values, vectors = safe_eigh((matrix + matrix.T) / 2)
    return (vectors * values.clamp_min(0)) @ vectors.T


def nothing(references: Tensor) -> FittedLook:
    """No degradation of references (R, C, H, W)."""
    none = references.new_zeros(0)
    shape = torch.eye(references.shape[1], device=references.device)
    return FittedLook((), references.new_zeros(len(references), 0), none.view(0, 0), none, shape)


@dataclass(frozen=True)
class LookFinding:
    """One component in one group of failures.

    value: mean over the images that have it; low, high: where 80% of them lie, uncertainty included, None where much of
    their look is something else; error: standard error of the mean; all in `unit`. images: how many have it, of `of`.
    """

    component: str
    text: str
    value: float
    low: float | None
    high: float | None
    error: float
    unit: str
    images: int
    of: int


@dataclass(frozen=True)
class Wording:
    """How a parameter is said: a text with {value}, {low}, {high} and {sign}, its unit, and its scale in words."""

    text: str
    unit: str
    say: Callable[[float], float] = float
    digits: int = 2


WORDINGS = {
    "shift": Wording("{sign} by {value} ({low} to {high})", "full scale"),
    "contrast": Wording("contrast {sign} to {value} ({low} to {high}) of the original", "factor", math.exp),
    "blur": Wording("blur, width {value} ({low} to {high}) pixels", "pixels of standard deviation"),
    "streak": Wording("motion blur {sign}, width {value} ({low} to {high}) pixels", "pixels of standard deviation"),
    "coarseness": Wording("resolution reduced to {value} ({low} to {high}) of the original", "factor", lambda v: 1 - v),
    "veil": Wording("a smooth grey veil, strength {value} ({low} to {high})", "full scale, root mean square"),
    "specks": Wording("bright specks on {value}% ({low} to {high}%) of the image", "percent", lambda v: 100 * v, 1),
    "noise": Wording("additive {sign}noise, sigma {value} ({low} to {high})", "full scale", digits=3),
    "shot": Wording(
        "{sign}noise that grows with brightness, sigma {value} ({low} to {high}) at white", "full scale", digits=3
    ),
    "grain": Wording("{sign}grain over several pixels, sigma {value} ({low} to {high})", "full scale", digits=3),
    "rows": Wording("stripes along rows, sigma {value} ({low} to {high})", "full scale", digits=3),
    "columns": Wording("stripes along columns, sigma {value} ({low} to {high})", "full scale", digits=3),
    "impulses": Wording("impulses in {value}% ({low} to {high}%) of the values", "percent", lambda v: 100 * v, 1),
    "blocking": Wording("blocks as of JPEG quality {value} ({low} to {high})", "quality", lambda v: 100 * (1 - v), 0),
    "tint_red": Wording("red {sign} against green by {value} ({low} to {high})", "full scale"),
    "tint_blue": Wording("blue {sign} against green by {value} ({low} to {high})", "full scale"),
}


def findings(found: FittedLook, members: Tensor | None = None) -> list[LookFinding]:
    """What the failures `members`, int64 (n,), of an estimate have; all of its failures by default.

    Components that fewer than a tenth of the members have are left out, and those whose absence would not show
    (`FittedLook.clear`). Where much of the look is something else, nothing is sure enough for an interval.
    """
    values = found.values if members is None else found.values[members.to(found.values.device)]
    remaining = (found.spread @ found.spread.T).diagonal()
    told, sure = [], found.unexplained(members) <= UNEXPLAINED
    for i, parameter in enumerate(found.names):
        name, column, uncertain = parameter, values[:, i], remaining[i]
        if parameter == "streak_y" or not found.clear(parameter):
            continue
        if parameter == "streak_x":  # it and streak_y are one length
            name, both, uncertain = "streak", values[:, i : i + 2], remaining[i : i + 2].mean()
            column = (both.square().sum(1) + remaining[i : i + 2].sum()).sqrt()
        present = column.abs() > PARAMETERS[parameter].least / 2
        count = int(present.sum())
        if count and count >= len(values) / 10:
            told.append(_finding(name, parameter, column[present], float(uncertain), found, values, sure=sure))
    return told


def sentence(told: Sequence[LookFinding], failures: int, unexplained: float = 0.0) -> str:
    """All findings of a group in one sentence, and whether they account for its look (`FittedLook.unexplained`)."""
    rest = "; much of their look is something else" if unexplained > UNEXPLAINED else ""
    if not told and rest:
        return f"a look that no degradation known here explains, {failures} images"
    if not told:
        return f"no degradation that shows against clean images, {failures} images"
    parts = [f"{f.text}, {f.images} of {f.of} images" if f.images < f.of else f.text for f in told]
    said = f"{'; '.join(parts)}; {failures} images" if len(parts) > 1 else f"{told[0].text}, {told[0].images} images"
    return said + rest


def _finding(
    name: str, parameter: str, column: Tensor, uncertain: float, found: FittedLook, values: Tensor, *, sure: bool
) -> LookFinding:
    """column: (k,), of those of the values (n, P) that have the component. parameter: `streak_x` for a streak.

    sure: with an interval.
    """
    wording, low = WORDINGS[name], PARAMETERS[parameter].low
    mean, error = float(column.mean()), float(found.error[found.names.index(parameter)])
    width = WIDE * math.sqrt(float(column.var(correction=0)) + uncertain)
    raw = [mean, max(mean - width, low if low < 0 and name != "streak" else 0.0), mean + width]
    if name in ("shift", "tint_red", "tint_blue") and mean < 0:
        raw = [-x for x in raw]
    value, *ends = (wording.say(x) for x in raw)
    least, most = sorted(ends)
    shown = {k: f"{v:.{wording.digits}f}" for k, v in (("value", value), ("low", least), ("high", most))}
    form = wording.text if sure else INTERVAL.sub("", wording.text)
    text = form.format(sign=_sign(name, mean, found, values), **shown)
    slope = abs(wording.say(raw[0] + error) - value)
    finding = LookFinding(name, text, value, least, most, slope, wording.unit, len(column), len(values))
    return finding if sure else dataclasses.replace(finding, low=None, high=None)


def _sign(name: str, mean: float, found: FittedLook, values: Tensor) -> str:
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
