"""Rings and windows of the discrete Fourier transform."""

from __future__ import annotations

import torch
from torch import Tensor


def radial_bins(height: int, width: int, rings: int, device: torch.device) -> Tensor:
    """Ring of each rfft2 coefficient, int64 (H, W // 2 + 1): round(rings * frequency in cycles per pixel)."""
    vertical, horizontal = frequencies(height, width, device)
    frequency: Tensor = (vertical.square() + horizontal.square()).sqrt()
    return (rings * frequency).round().long()


def frequencies(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Vertical (H, 1) and horizontal (1, W // 2 + 1) frequencies of rfft2, cycles per pixel."""
    vertical: Tensor = torch.fft.fftfreq(height, device=device)[:, None]
    horizontal: Tensor = torch.fft.rfftfreq(width, device=device)[None]
    return vertical, horizontal


def radial_mean(values: Tensor, bins: Tensor) -> Tensor:
    """Mean over each ring: (..., H, W // 2 + 1) to (..., max bin + 1); a ring without coefficients is 0."""
    flat = bins.flatten()
    count = torch.bincount(flat).clamp_min(1)
    sums = values.new_zeros(*values.shape[:-2], len(count)).index_add_(-1, flat, values.flatten(-2))
    return sums / count


def hann(side: int, device: torch.device) -> Tensor:
    """Hann window (side,) without its two zeros."""
    return torch.hann_window(side + 2, periodic=False, device=device)[1:-1]
