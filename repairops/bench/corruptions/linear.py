"""One-dimensional filters and resizings as matrices: exact at the borders, for any size, and one product a batch."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor


def along_axes(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ image @ columns.T of each image. images: (..., H, W); rows: (h, H); columns: (w, W)."""
    return rows @ (images @ columns.T)


@functools.cache
def gaussian_matrix(size: int, sigma: float, mode: str, truncate: float) -> Tensor:
    """SciPy's gaussian_filter1d over `size` samples, float32 (size, size). mode: SciPy's name of the border."""
    from scipy.ndimage import gaussian_filter1d

    return torch.from_numpy(gaussian_filter1d(np.eye(size), sigma, axis=0, mode=mode, truncate=truncate)).float()


def gaussian_blur(images: Tensor, sigma: float, *, mode: str = "nearest", truncate: float = 4.0) -> Tensor:
    """(..., H, W); the defaults are those of scikit-image's `gaussian`."""
    height, width = images.shape[-2:]
    rows, columns = (gaussian_matrix(size, sigma, mode, truncate).to(images.device) for size in (height, width))
    return along_axes(images, rows, columns)


@functools.cache
def zoom_matrix(size: int, factor: float) -> Tensor:
    """CIFAR-10-C's `clipped_zoom` along one axis, float32 (size, size).

    The middle ceil(size / factor) samples are resized linearly, both ends on the ends (SciPy's `zoom` with order 1),
    and what is more than `size` is cut off.
    """
    inner = math.ceil(size / factor)
    top, resized = (size - inner) // 2, round(inner * factor)
    trim = (resized - size) // 2
    position = (torch.arange(size, dtype=torch.float64) + trim) * (inner - 1) / max(resized - 1, 1)
    lower = position.floor().long().clamp(0, max(inner - 2, 0))
    share = position - lower
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix[torch.arange(size), top + lower] = 1 - share
    matrix[torch.arange(size), top + (lower + 1).clamp(max=inner - 1)] += share
    return matrix.float()


@functools.cache
def box_matrix(size: int, out: int) -> Tensor:
    """Pillow's resizing with the filter BOX along one axis, float32 (out, size)."""
    scale = size / out
    support = max(scale, 1.0)
    centre = (torch.arange(out, dtype=torch.float64)[:, None] + 0.5) * scale
    distance = (torch.arange(size, dtype=torch.float64) + 0.5 - centre) / support
    inside = ((distance > -0.5) & (distance <= 0.5)).double()
    return (inside / inside.sum(1, keepdim=True)).float()
