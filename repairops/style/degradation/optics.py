"""What the optics and the sensor's grid do: point spread (isotropic and directional) and loss of resolution."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from repairops.style.spectrum import frequencies


def spread_points(images: Tensor, blur: Tensor, streak_x: Tensor, streak_y: Tensor) -> Tensor:
    """Blurs float (B, C, H, W) with a Gaussian point spread and a streak; borders are reflected.

    blur: (B,), standard deviation of the Gaussian in pixels. streak_x, streak_y: (B,), s cos 2 phi and s sin 2 phi of
    a streak along the angle phi, from motion of the camera or the scene: a two-sided exponential of standard
    deviation s, which keeps more of the high frequencies than a Gaussian, as real trails with their sharp ends do.
    """
    height, width = images.shape[2:]
    pad = min(8, min(height, width) // 4)
    padded = F.pad(images, (pad,) * 4, mode="reflect") if pad else images
    vertical, horizontal = frequencies(padded.shape[2], padded.shape[3], images.device)
    length = torch.hypot(streak_x, streak_y)
    squared = (vertical.square() + horizontal.square()).expand(len(images), -1, -1)
    gaussian = torch.exp(-2 * math.pi**2 * blur.square()[:, None, None] * squared)
    # With rows counted downwards, f = (cos phi, -sin phi) along the trail; (s f)^2 by its double angle.
    across = (horizontal.square() - vertical.square()) * streak_x[:, None, None]
    across = across - 2 * horizontal * vertical * streak_y[:, None, None]
    along = (length[:, None, None] * (length[:, None, None] * squared + across) / 2).clamp_min(0)
    transfer = gaussian / (1 + 2 * math.pi**2 * along)
    blurred: Tensor = torch.fft.irfft2(torch.fft.rfft2(padded) * transfer[:, None], s=padded.shape[2:])
    return blurred[..., pad : pad + height, pad : pad + width]


def coarsen(images: Tensor, coarseness: Tensor) -> Tensor:
    """Reduces (B, C, H, W) to a share 1 - coarseness (B,) of its sides by area, and enlarges it again in blocks."""
    rows, columns = (_resampling(side, coarseness) for side in images.shape[2:])
    return rows[:, None] @ images @ columns[:, None].transpose(-1, -2)


def _resampling(side: int, coarseness: Tensor) -> Tensor:
    """Matrices (B, side, side): the mean over each coarse pixel, repeated over its extent."""
    sizes = (side * (1 - coarseness)).round().clamp(1, side).long()
    different = sorted(set(sizes.tolist()))
    index = torch.tensor([different.index(n) for n in sizes.tolist()], device=coarseness.device)
    return torch.stack([_reduce_and_repeat(side, n) for n in different]).to(coarseness.device)[index]


def _reduce_and_repeat(side: int, size: int) -> Tensor:
    edges = torch.arange(size + 1) * side / size
    pixel = torch.arange(side)
    overlap = torch.minimum(edges[1:, None], pixel + 1.0) - torch.maximum(edges[:-1, None], pixel.float())
    mean = overlap.clamp_min(0) * size / side
    nearest = ((pixel + 0.5) * size / side).floor().long().clamp_max(size - 1)
    return mean[nearest]
