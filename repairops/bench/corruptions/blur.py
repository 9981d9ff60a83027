"""Blurs: images float (N, C, H, W) in 0..1 to the same. And the linear filters of all corruptions.

Filters and resizings are one-dimensional, as matrices: exact at the borders, for any size, and one product a batch.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from repairops.bench.corruptions.noise import uniform

DEFOCUS = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))  # radius, sigma of its anti-aliasing, pixels
GLASS = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))  # sigma in pixels, rounds; a pixel moves by 1 at most
MOTION = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))  # radius, sigma, pixels
ZOOM = (1.06, 1.11, 1.16, 1.21, 1.26)  # factors 1.00, 1.01, ... as np.arange counts them: three times the end too
NEGLIGIBLE = 1e-5  # of a kernel's sum


def defocus_blur(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """An anti-aliased disk; the border is mirrored without repeating the edge, as OpenCV does."""
    kernel = _disk(*DEFOCUS[severity - 1]).to(images.device)
    reach = kernel.shape[0] // 2
    flat = images.flatten(0, 1)[:, None]
    return F.conv2d(F.pad(flat, (reach,) * 4, mode="reflect"), kernel[None, None]).view_as(images)


@functools.cache
def _disk(radius: float, sigma: float) -> Tensor:
    """float32 (5, 5), sums to 1."""
    along = torch.arange(-2, 3)
    disk = (along[:, None] ** 2 + along**2 <= radius**2).double()
    side = torch.exp(torch.tensor([-1.0, 0.0, -1.0], dtype=torch.float64) / (2 * sigma**2))
    smooth = torch.outer(side, side) / side.sum() ** 2
    return F.conv2d((disk / disk.sum())[None, None], smooth[None, None], padding=1)[0, 0].float()


def glass_blur(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Gaussian blur, cut to 8 bits, pixels displaced by up to one, Gaussian blur again.

    In the published script each pixel (rows and columns from 2 on) means to swap places with one of its upper left
    neighbours; but a row of a NumPy array is a view, so it takes the neighbour's value and the neighbour keeps it.
    From the lower right on, a pixel's neighbours are still untouched when it is its turn: one gather a round.
    """
    sigma, rounds = GLASS[severity - 1]
    count, channels, height, width = images.shape
    blurred = (gaussian_blur(images, sigma) * 255 + 1e-3).floor() / 255
    rows = torch.arange(height, device=images.device)[:, None]
    columns = torch.arange(width, device=images.device)
    movable = (rows > 1) & (columns > 1)
    for _ in range(rounds):
        up, left = (uniform((2, count, height, width), 0, 2, generator, images.device).long() * movable).unbind(0)
        source = ((rows - up) * width + columns - left).flatten(1)[:, None]
        blurred = blurred.flatten(2).gather(2, source.expand(-1, channels, -1)).view_as(images)
    return gaussian_blur(blurred, sigma)


def motion_blur(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Along a direction within 45 degrees of horizontal, drawn for each image."""
    radius, sigma = MOTION[severity - 1]
    return directed_blur(images, radius, sigma, uniform((len(images),), -45, 45, generator, images.device))


def directed_blur(images: Tensor, radius: int, sigma: float, degrees: Tensor) -> Tensor:
    """ImageMagick's MotionBlur: half a Gaussian along whole pixels of a line, edges repeated.

    degrees: (N,), 0 = from the right, 90 = from below. Taps below 1e-5 of the sum are left out. Differs: not rounded
    to 8 bits.
    """
    channels, height, width = images.shape[1:]
    taps = torch.exp(-(torch.arange(2 * radius + 1, dtype=torch.float64) ** 2) / (2 * sigma**2))
    taps = taps / taps.sum()
    taps = taps[taps >= NEGLIGIBLE].float()
    step = torch.arange(len(taps), device=images.device)[:, None]
    right = torch.ceil(step * torch.cos(torch.deg2rad(degrees)) - 0.5).long()[..., None]
    down = torch.ceil(step * torch.sin(torch.deg2rad(degrees)) - 0.5).long()[..., None]
    rows = (torch.arange(height, device=images.device) + down).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) + right).clamp(0, width - 1)
    flat, blurred = images.flatten(2), torch.zeros_like(images).flatten(2)
    for tap, row, column in zip((taps / taps.sum()).tolist(), rows, columns, strict=True):
        source = (row[:, :, None] * width + column[:, None, :]).flatten(1)[:, None]
        blurred.add_(flat.gather(2, source.expand(-1, channels, -1)), alpha=tap)
    return blurred.view_as(images)


def zoom_blur(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """The mean of the image and of its zooms."""
    height, width = images.shape[2:]
    factors = np.arange(1, ZOOM[severity - 1], 0.01).tolist()
    rows = torch.cat([zoom_matrix(height, factor) for factor in factors]).to(images.device)  # (factors * H, H)
    columns = torch.cat([zoom_matrix(width, factor) for factor in factors], 1).to(images.device)  # (W, factors * W)
    zoomed = (rows @ images).view(*images.shape[:2], len(factors), height, width).transpose(2, 3).flatten(3)
    total: Tensor = images + zoomed @ columns.T  # (N, C, H, factors * W) @ (factors * W, W)
    return total / (len(factors) + 1)


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
