"""Random draws of the corruptions: from the generator's own device, then moved to the images'."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def uniform(shape: Sequence[int], low: float, high: float, generator: Generator, device: torch.device) -> Tensor:
    """float32 of this shape, uniform in [low, high)."""
    draws = torch.rand(tuple(shape), generator=generator, device=generator.device)
    return (low + (high - low) * draws).to(device)


def normal(shape: Sequence[int], generator: Generator, device: torch.device) -> Tensor:
    """float32 of this shape, with mean 0 and standard deviation 1."""
    return torch.randn(tuple(shape), generator=generator, device=generator.device).to(device)
