"""Noise: images float (N, C, H, W) in 0..1 to the same; `corrupt` clips. And the random draws of all corruptions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

GAUSSIAN = (0.04, 0.06, 0.08, 0.09, 0.10)  # standard deviation
SHOT = (500, 250, 100, 75, 50)  # photons of full brightness
IMPULSE = (0.01, 0.02, 0.03, 0.05, 0.07)  # share of the values that are 0 or 1 afterwards


def gaussian_noise(images: Tensor, severity: int, generator: Generator) -> Tensor:
    return images + GAUSSIAN[severity - 1] * normal(images.shape, generator, images.device)


def shot_noise(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Poisson noise."""
    photons = SHOT[severity - 1]
    counts = torch.poisson((images * photons).to(generator.device), generator=generator)
    return counts.to(images.device) / photons


def impulse_noise(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Salt and pepper of each channel's values, as scikit-image's `random_noise(mode='s&p')`."""
    share = IMPULSE[severity - 1]
    draws = uniform(images.shape, 0, 1, generator, images.device)
    return torch.where(draws < share / 2, 0.0, torch.where(draws >= 1 - share / 2, 1.0, images))


def uniform(shape: Sequence[int], low: float, high: float, generator: Generator, device: torch.device) -> Tensor:
    """float32 of this shape, uniform in [low, high); drawn on the generator's own device, then moved."""
    draws = torch.rand(tuple(shape), generator=generator, device=generator.device)
    return (low + (high - low) * draws).to(device)


def normal(shape: Sequence[int], generator: Generator, device: torch.device) -> Tensor:
    """float32 of this shape, with mean 0 and standard deviation 1."""
    return torch.randn(tuple(shape), generator=generator, device=generator.device).to(device)
