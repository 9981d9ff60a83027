"""Pictures made of pictures, for PNG artifacts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from repairops.data.decoding import encode_png

SMALLEST, LARGEST = 48, 96  # pixels a side; below they are enlarged, above reduced
GAP, GREY = 2, 160


def image_grid(rows: Sequence[Tensor]) -> np.ndarray:
    """Rows of images as one picture, uint8 (H, W, 3), with thin grey lines between; short rows end in grey.

    rows: uint8 (n, C, h, w) each, C = 1 or 3, all of one size. Images with a side below 48 pixels are enlarged by a
    whole factor without smoothing; others with a side above 96 are reduced.
    """
    rows = [_display_size(row) for row in rows]
    height, width = rows[0].shape[2:] if rows else (0, 0)
    columns = max((len(row) for row in rows), default=0)
    grid = np.full((len(rows) * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), GREY, np.uint8)
    for r, row in enumerate(rows):
        top = GAP + r * (height + GAP)
        for c, image in enumerate(row.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()):
            left = GAP + c * (width + GAP)
            grid[top : top + height, left : left + width] = image
    return grid


def as_png(picture: np.ndarray) -> bytes:
    """The PNG of a picture, uint8 (H, W, 3)."""
    return encode_png(torch.from_numpy(picture.transpose(2, 0, 1)))


def _display_size(images: Tensor) -> Tensor:
    height, width = images.shape[2:]
    factor = math.ceil(SMALLEST / min(height, width))
    if factor > 1:
        return images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    if max(height, width) <= LARGEST or not len(images):
        return images if len(images) else torch.empty(0, images.shape[1], *_reduced(height, width), dtype=torch.uint8)
    small = F.interpolate(images.float(), _reduced(height, width), mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)


def _reduced(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, LARGEST / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
