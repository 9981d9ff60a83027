"""A guarded network: champion, repaired network, and a guard that decides who answers. Stands alone, on torch.

A copy of this file travels with each guarded version as `repairops_guarded.py`, so that plain `mlflow.pytorch` loads it
where repairops is not installed; its classes say that they come from there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHIPPED = "repairops_guarded"  # the module's name beside a model
LEVELS = 3  # of Haar bands; a level that an image is too small for repeats the one before
CLIPS = (0.01, 0.04)  # magnitudes of details, of the range 0..1
STEPS = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)  # of the histogram
SOFT = 0.2  # width of a step
TINY = 1e-4
SIDE = 48  # of a larger image about so many rows and columns are looked at, evenly spread
MEMBERS, HIDDEN = 4, 64  # small networks whose log-odds are averaged, and their units
Signs = tuple[tuple[float, ...], ...]  # of a block's pixels, by rows
# Of a block of 2x2 pixels: its differences across, down and along the diagonal.
DETAILS: tuple[Signs, ...] = (((1.0, -1.0), (1.0, -1.0)), ((1.0, 1.0), (-1.0, -1.0)), ((1.0, -1.0), (-1.0, 1.0)))
MEAN: Signs = ((1.0, 1.0), (1.0, 1.0))


def look_statistics(images: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """What an image looks like, in numbers that do not say what it shows: (N, C, H, W) in 0..1 to (N, statistics).

    Pooled over the image, so that any size from 2 pixels gives the same statistics: brightness, contrast and range of
    each channel, a coarse histogram, and for three levels of Haar bands how strong the details are, how heavy their
    tails, and how many are next to nothing. Clipped means and power means stand for quantiles, and of large images a
    part of the pixels and blocks is looked at: so an ONNX runtime computes them in a small part of a network's time.
    Differentiable.

    scale, shift: (1, C or 1, 1, 1) each, where the images become 0..1 by them.
    """
    side, channels = min(images.shape[2:]), images.shape[1]
    every = -(-side // SIDE)
    logs, plain, floor = [], [], []
    for stride, signs in _kernels(side, every).items():
        details = _blocks(images, signs, stride)
        if scale is not None:
            details = details * scale.expand(1, channels, 1, 1).repeat_interleave(len(signs), 1)
        size, square = details.abs(), details * details
        logs += [torch.cat((square, size, square * square), 1).mean((2, 3)), size.amax((2, 3))]
        plain += [torch.cat([size.clamp(max=clip) for clip in CLIPS], 1).mean((2, 3))]
        floor += [tiny for tiny in (TINY**2, TINY, TINY**4, TINY) for _ in range(details.shape[1])]
    small = _blocks(images, [MEAN], 2 * every)
    if scale is not None and shift is not None:
        small = small * scale + shift
    plain += [small.mean((2, 3)), _deviation(small), small.amin((2, 3)), small.amax((2, 3))]
    spread = small.amax(1, keepdim=True) - small.amin(1, keepdim=True)
    plain += [spread.mean((2, 3)), _deviation(spread)]
    steps = images.new_tensor(STEPS).view(1, -1, 1, 1)
    plain += [((small.mean(1, keepdim=True) - steps) / SOFT + 0.5).clamp(0, 1).mean((2, 3))]
    return torch.cat(((torch.cat(logs, 1) + images.new_tensor(floor)).log(), *plain), 1)


def _kernels(side: int, every: int) -> dict[int, list[Signs]]:
    """The signs of all levels' details by the distance in pixels of the blocks looked at: of a large image one for all.

    every: of a large image, the distance of blocks of 2x2 pixels, in blocks; of larger blocks as many are looked at.
    """
    found: dict[int, list[Signs]] = {}
    for level in range(LEVELS):
        width = 2 ** (min(level, max(side.bit_length() - 2, 0)))
        found.setdefault(max(2 * width, 2 * every), []).extend(_enlarged(signs, width) for signs in DETAILS)
    return found


def _blocks(images: Tensor, signs: Sequence[Signs], stride: int) -> Tensor:
    """Of square blocks, the mean of their pixels under each of the signs: (N, C * signs, h, w)."""
    widest = max(len(rows) for rows in signs)
    kernels = [
        F.pad(images.new_tensor(rows) / len(rows) ** 2, (0, widest - len(rows), 0, widest - len(rows)))
        for rows in signs
    ]
    one_by_one = images.reshape(-1, 1, *images.shape[2:])  # a runtime is slow at convolutions in groups
    found = F.conv2d(one_by_one, torch.stack(kernels).unsqueeze(1), stride=stride)
    return found.reshape(images.shape[0], -1, *found.shape[2:])


def _deviation(images: Tensor) -> Tensor:
    return (images.var((2, 3), correction=0) + TINY**2).sqrt()


def _enlarged(signs: Signs, times: int) -> Signs:
    """Each sign as a square of so many by so many."""
    return tuple(tuple(sign for sign in row for _ in range(times)) for row in signs for _ in range(times))


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

    def forward(self, images: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        return self.odds_of(look_statistics(images, scale, shift))

    def odds_of(self, statistics: Tensor) -> Tensor:
        """Statistics (N, S) to the calibrated log-odds (N,)."""
        all_members = self.odds.weight.reshape(-1, 1) / MEMBERS
        mean: Tensor = (self._units(statistics) @ all_members).squeeze(1) + self.odds.bias.mean()
        return mean * self.scale + self.shift

    def members(self, statistics: Tensor) -> Tensor:
        """Statistics (N, S) to each member's uncalibrated log-odds (N, MEMBERS)."""
        hidden = self._units(statistics).reshape(-1, MEMBERS, HIDDEN)
        return (hidden * self.odds.weight).sum(2) + self.odds.bias

    def _units(self, statistics: Tensor) -> Tensor:
        standard = ((statistics - self.mean) / self.deviation).clamp(-6, 6)
        return F.relu(self.hidden(standard))


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
        kind = images.device.type
        if torch.is_autocast_enabled(kind):  # powers of small details are lost in half precision
            with torch.autocast(kind, enabled=False):
                return self.probability(images.float())
        odds: Tensor = self.guard(images, self.scale, self.shift)
        return odds.sigmoid()

    def weight(self, probability: Tensor) -> Tensor:
        """The repaired network's part of the answer, (N,): 0, 1, or the guard's probability between the limits."""
        return weight_of(probability, *self.limits)

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """The one obvious logits tensor of a network's output, which was checked before it was guarded."""
        return fitting(tensors_in(network(images)) or [], self.classes)[0]

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


def tensors_in(output: Any) -> list[Tensor] | None:
    """What of a network's output may be logits: a tensor, what a mapping calls 'logits', else the tensors of a mapping
    or sequence. None for an output of another kind.
    """
    if isinstance(output, Mapping):
        named = output.get("logits")
        output = named if isinstance(named, Tensor) else list(output.values())
    if isinstance(output, Tensor):
        return [output]
    return [value for value in output if isinstance(value, Tensor)] if isinstance(output, list | tuple) else None


def fitting(tensors: Sequence[Tensor], classes: int) -> list[Tensor]:
    """Those of the shape (N, classes)."""
    return [tensor for tensor in tensors if tensor.ndim == 2 and tensor.shape[1] == classes]


for _shipped in (Guard, Guarded):
    _shipped.__module__ = SHIPPED
sys.modules[SHIPPED] = sys.modules[__name__]
