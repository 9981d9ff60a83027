"""Noise: of the pixels (constant and growing with brightness), grain, stripes, and impulses."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from repairops.core.styles.fitted.optics import spread_points
from repairops.model.device import device_generator

GRAIN_WIDTH = 0.8  # pixels of standard deviation over which grain is correlated


def standard_normal(shape: tuple[int, ...], generator: Generator, device: torch.device) -> Tensor:
    """Drawn on the device itself."""
    return torch.randn(shape, generator=device_generator(generator, device), device=device)


def add_noise(images: Tensor, noise: Tensor, shot: Tensor, shape: Tensor, generator: Generator) -> Tensor:
    """Adds noise of variance noise^2 + shot^2 * brightness, both (B,), to (B, C, H, W); shape: see `Degradation`."""
    variance = noise.square()[:, None, None, None] + shot.square()[:, None, None, None] * images.clamp(0, 1)
    return images + variance.sqrt() * coloured(tuple(images.shape), shape, generator)


def add_grain(images: Tensor, grain: Tensor, shape: Tensor, generator: Generator) -> Tensor:
    """Adds noise of standard deviation `grain` (B,) that neighbouring pixels share."""
    drawn = coloured(tuple(images.shape), shape, generator)
    drawn = spread_points(drawn, torch.full_like(grain, GRAIN_WIDTH), *torch.zeros(2, len(grain), device=grain.device))
    drawn = drawn / drawn.std((1, 2, 3), keepdim=True, correction=0).clamp_min(1e-9)
    return images + grain[:, None, None, None] * drawn


def add_stripes(images: Tensor, rows: Tensor, columns: Tensor, shape: Tensor, generator: Generator) -> Tensor:
    """Adds one offset for each row, and one for each column, of standard deviations `rows` and `columns`, (B,)."""
    batch, channels, height, width = images.shape
    for strength, size in ((rows, (height, 1)), (columns, (1, width))):
        if strength.any():
            offsets = coloured((batch, channels, *size), shape, generator)
            images = images + strength[:, None, None, None] * offsets
    return images


def add_impulses(images: Tensor, rate: Tensor, generator: Generator) -> Tensor:
    """Replaces a share `rate` (B,) of the values of (B, C, H, W) by 0 or 1, channel by channel."""
    drawn_on = device_generator(generator, images.device)
    chance = torch.rand(images.shape, generator=drawn_on, device=images.device)
    half = rate[:, None, None, None] / 2
    images = torch.where(chance < half, torch.zeros((), device=images.device), images)
    return torch.where(chance > 1 - half, torch.ones((), device=images.device), images)


def coloured(size: tuple[int, ...], shape: Tensor, generator: Generator) -> Tensor:
    """Standard normal noise (B, C, H, W) with covariance L L' across the channels."""
    drawn = standard_normal(size, generator, shape.device)
    return torch.einsum("ij,bjhw->bihw", shape, drawn)
