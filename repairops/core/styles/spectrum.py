"""Frequencies, sums and windows of the discrete Fourier transform."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def frequencies(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Vertical (H, 1) and horizontal (1, W // 2 + 1) frequencies of rfft2, cycles per pixel."""
    vertical: Tensor = torch.fft.fftfreq(height, device=device)[:, None]
    horizontal: Tensor = torch.fft.rfftfreq(width, device=device)[None]
    return vertical, horizontal


def sums_by_index(values: Tensor, index: Tensor, count: int) -> Tensor:
    """Of (..., K), what belongs together by index int64 (K,): (..., count).

    The same sums each time: a GPU's index_add_ takes its addends in no fixed order.
    """
    if values.device.type == "cpu":
        return values.new_zeros(*values.shape[:-1], count).index_add_(-1, index, values)
    return values @ F.one_hot(index, count).to(values)


def hann(side: int, device: torch.device) -> Tensor:
    """Hann window (side,) without its two zeros."""
    return torch.hann_window(side + 2, periodic=False, device=device)[1:-1]
