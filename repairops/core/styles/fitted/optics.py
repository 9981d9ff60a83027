"""What the optics and the sensor's grid do: point spread (isotropic and directional) and loss of resolution."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from repairops.core.styles.spectrum import frequencies

HALF_GAUSSIAN = 0.5
STEPS, MOST_PLACE = 64, 4  # of a trail's table: places for each unit of frequency times standard deviation, and its end


def spread_points(
    images: Tensor, blur: Tensor, streak_x: Tensor, streak_y: Tensor, fade: float | None = None
) -> Tensor:
    """Blurs float (B, C, H, W) with a Gaussian point spread and a streak; borders are reflected.

    blur: (B,), standard deviation of the Gaussian in pixels. streak_x, streak_y: (B,), s cos 2 phi and s sin 2 phi of
    a streak along the angle phi, from motion of the camera or the scene: a trail of standard deviation s about its
    centroid. fade: how the light of all streaks fades along them, see `trail_table`; None where nothing is known of it:
    to both sides, as an exponential.
    """
    height, width = images.shape[2:]
    pad = min(8, min(height, width) // 4)
    padded = F.pad(images, (pad,) * 4, mode="reflect") if pad else images
    vertical, horizontal = frequencies(padded.shape[2], padded.shape[3], images.device)
    squared = vertical.square() + horizontal.square()
    gaussian = torch.exp(-2 * math.pi**2 * blur.square()[:, None, None] * squared)
    length, angle = torch.hypot(streak_x, streak_y), torch.atan2(streak_y, streak_x) / 2
    # With rows counted downwards, f = (cos phi, -sin phi) along the trail.
    right, down = ((length * part)[:, None, None] for part in (angle.cos(), -angle.sin()))
    transfer = gaussian * trail_transfer(horizontal * right + vertical * down, fade)
    blurred: Tensor = torch.fft.irfft2(torch.fft.rfft2(padded) * transfer[:, None], s=padded.shape[2:])
    return blurred[..., pad : pad + height, pad : pad + width]


def trail_transfer(place: Tensor, fade: float | None) -> Tensor:
    """Transfer function of a trail at `place` float (B, H, W), frequency times standard deviation; complex64, or
    float32 where the trail has two equal sides.
    """
    if fade is None:
        return 1 / (1 + 2 * math.pi**2 * place.square())
    table = trail_table(fade).to(place.device)
    step = (place.abs() * STEPS).clamp_max(len(table) - 1.001)
    left = step.long()
    value = torch.lerp(table[left], table[left + 1], (step - left)[..., None])
    return torch.complex(value[..., 0], value[..., 1] * place.sign())


@functools.cache
def trail_table(fade: float) -> Tensor:
    """Transfer function of a trail of standard deviation 1 about its centroid, (places, 2): real and imaginary.

    The light along a trail is exp(-t^p), t >= 0, with 1 / p = fade from 0 to 1: steady and then gone (0, a shutter's),
    half a Gaussian (0.5), or an exponential (1). At STEPS places for each unit.
    """
    place = torch.arange(MOST_PLACE * STEPS + 1, dtype=torch.float64) / STEPS
    t = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000 * 12**fade
    weight = torch.exp(-(t ** (1 / fade))) if fade else torch.ones_like(t)
    weight = weight / weight.sum()
    t = t - (weight * t).sum()
    t = t / (weight * t.square()).sum().sqrt()
    phase = 2 * math.pi * place[:, None] * t
    return torch.stack([phase.cos() @ weight, -phase.sin() @ weight], 1).float()


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
