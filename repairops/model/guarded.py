"""A guarded network: champion, repaired network, and a guard that decides who answers. Stands alone, on torch.

A copy of this file travels with each guarded version as `repairops_guarded.py`, so that plain `mlflow.pytorch` loads it
where repairops is not installed; its classes say that they come from there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHIPPED = "repairops_guarded"  # the module's name beside a model
LEVELS = 3  # of Haar bands; a level that an image is too small for repeats the one before
CLIPS = (0.01, 0.04)  # magnitudes of details, of the range 0..1
STEPS = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)  # of the histogram
SOFT = 0.05  # width of a step
TINY = 1e-4
MEMBERS, HIDDEN = 4, 64  # small networks whose log-odds are averaged, and their units


def look_statistics(images: Tensor) -> Tensor:
    """What an image looks like, in numbers that do not say what it shows: (N, C, H, W) in 0..1 to (N, statistics).

    Pooled over the whole image, so that any size gives the same statistics: brightness, contrast and range of each
    channel, a coarse histogram, and for three levels of Haar bands how strong the details are, how heavy their tails,
    and how many are next to nothing. Clipped means and power means stand for quantiles: they cost no sorting, so that
    an ONNX runtime computes them in a small part of a network's time. Differentiable.
    """
    parts = [images.mean((2, 3)), images.std((2, 3), correction=0), images.amin((2, 3)), images.amax((2, 3))]
    low, details = haar(images)
    small = low
    for level in range(LEVELS):
        if level and min(low.shape[2:]) >= 2:
            low, details = haar(low)
        parts += _strengths(details)
    grey, spread = small.mean(1), small.amax(1) - small.amin(1)
    parts += [((grey - step) / SOFT).sigmoid().mean((1, 2)).unsqueeze(1) for step in STEPS]
    parts += [spread.mean((1, 2)).unsqueeze(1), spread.std((1, 2), correction=0).unsqueeze(1)]
    return torch.cat(parts, 1)


def haar(images: Tensor) -> tuple[Tensor, Tensor]:
    """One level: the mean of each 2x2 block (N, C, h, w), and the three details (N, 3 C, h, w); odd sides are cut."""
    height, width = images.shape[2] // 2 * 2, images.shape[3] // 2 * 2
    a, b = images[..., 0:height:2, 0:width:2], images[..., 0:height:2, 1:width:2]
    c, d = images[..., 1:height:2, 0:width:2], images[..., 1:height:2, 1:width:2]
    return (a + b + c + d) / 4, torch.cat((a - b + c - d, a + b - c - d, a - b - c + d), 1) / 4


def _strengths(details: Tensor) -> list[Tensor]:
    """Of Haar details (N, 3 C, h, w): (N, 3 C) each."""
    size, square = details.abs(), details.square()
    return [
        (square.mean((2, 3)) + TINY**2).log(),
        (size.mean((2, 3)) + TINY).log(),
        (square.square().mean((2, 3)) + TINY**4).log(),
        (size.amax((2, 3)) + TINY).log(),
        *(size.clamp(max=clip).mean((2, 3)) / clip for clip in CLIPS),
    ]


class Guard(nn.Module):
    """Float images (N, C, H, W) in 0..1, C = 1 or 3, any size, to the log-odds (N,) that they have the failures' look.

    Statistics of the image, standardised, and a few small networks on them whose log-odds are averaged; then a scale
    and a shift, by which the odds are calibrated. Differentiable.

    looks: statistics (M, S) in half precision of what it was fitted to, for the guard of the next repair.
    """

    mean: Tensor
    deviation: Tensor
    scale: Tensor
    shift: Tensor
    looks: Tensor

    def __init__(self, statistics: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(statistics))
        self.register_buffer("deviation", torch.ones(statistics))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("looks", torch.empty(0, statistics, dtype=torch.half))
        self.hidden = nn.Linear(statistics, MEMBERS * HIDDEN)
        self.odds = nn.Linear(HIDDEN, MEMBERS)

    def forward(self, images: Tensor) -> Tensor:
        return self.odds_of(look_statistics(images))

    def odds_of(self, statistics: Tensor) -> Tensor:
        """Statistics (N, S) to the calibrated log-odds (N,)."""
        return self.members(statistics).mean(1) * self.scale + self.shift

    def members(self, statistics: Tensor) -> Tensor:
        """Statistics (N, S) to each member's uncalibrated log-odds (N, MEMBERS)."""
        standard = ((statistics - self.mean) / self.deviation).clamp(-6, 6)
        hidden: Tensor = F.relu(self.hidden(standard)).reshape(-1, MEMBERS, HIDDEN)
        return (hidden * self.odds.weight).sum(2) + self.odds.bias


class Guarded(nn.Module):
    """Takes what the champion takes, returns logits (N, classes): the champion's, bit for bit, for images without the
    failures' look, the repaired network's for images that have it.

    low, high: the guard's probabilities. Below `low` the champion answers, from `high` on the repaired network; between
    them both, their probabilities weighted by the guard's (`low == high`: nothing lies between). In training, under a
    trace and in an export both networks run on all rows, else each on those that need it.

    value_range, mean, std: how the champion's input was made from images in 0..1, for the guard.
    """

    limits: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        champion: nn.Module,
        repaired: nn.Module,
        guard: Guard,
        *,
        low: float,
        high: float,
        classes: int,
        value_range: tuple[float, float],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.champion, self.repaired, self.guard, self.classes = champion, repaired, guard, classes
        start, end = value_range
        self.register_buffer("limits", torch.tensor([low, high], dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(std).view(1, -1, 1, 1) / (end - start))
        self.register_buffer("shift", (torch.tensor(mean).view(1, -1, 1, 1) - start) / (end - start))

    def forward(self, images: Tensor) -> Tensor:
        weight = self.weight(self.probability(images))
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            return mix(self.logits(self.champion, images), self.logits(self.repaired, images), weight)
        old, new = weight < 1, weight > 0
        if not bool(new.any()):
            return self.logits(self.champion, images)
        if not bool(old.any()):
            return self.logits(self.repaired, images)
        first, second = (self._rows(part, images, rows) for part, rows in ((self.champion, old), (self.repaired, new)))
        return mix(first, second, weight)

    def probability(self, images: Tensor) -> Tensor:
        """The guard's, (N,) in 0..1, that images (N, C, H, W), as the champion takes them, have the failures' look."""
        odds: Tensor = self.guard(images * self.scale + self.shift)
        return odds.sigmoid()

    def weight(self, probability: Tensor) -> Tensor:
        """The repaired network's part of the answer, (N,): 0, 1, or the guard's probability between the limits."""
        return weight_of(probability, *self.limits)

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """The one obvious logits tensor of a network's output."""
        return find_logits(network(images), self.classes)

    def _rows(self, network: nn.Module, images: Tensor, rows: Tensor) -> Tensor:
        """Logits (N, classes) of the rows that are wanted, 0 elsewhere."""
        found = self.logits(network, images[rows])
        return found.new_zeros(len(images), self.classes).index_put((rows.nonzero().squeeze(1),), found)


def weight_of(probability: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """0 below `low`, 1 from `high` on, else the probability itself: (N,) to (N,)."""
    inner = torch.where(probability >= high, torch.ones_like(probability), probability)
    return torch.where(probability < low, torch.zeros_like(probability), inner)


def mix(champion: Tensor, repaired: Tensor, weight: Tensor) -> Tensor:
    """Logits (N, K) where `weight` (N,) is 0 or 1, else the log of both probabilities' weighted mean."""
    part = weight.unsqueeze(1)
    both = ((1 - part) * champion.softmax(1) + part * repaired.softmax(1)).clamp_min(1e-12).log()
    return torch.where(part <= 0, champion, torch.where(part >= 1, repaired, both))


def find_logits(output: Any, classes: int) -> Tensor:
    """Of a tensor, a mapping or a sequence: the one tensor (N, classes), in a mapping the one named 'logits'."""
    if isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        output = output["logits"]
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    fitting = [v for v in values if isinstance(v, Tensor) and v.ndim == 2 and v.shape[1] == classes]
    return fitting[0]


for _shipped in (Guard, Guarded):
    _shipped.__module__ = SHIPPED
sys.modules.setdefault(SHIPPED, sys.modules[__name__])
