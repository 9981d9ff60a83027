"""Real and synthetic images for the tests of styles."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def digits() -> Tensor:
    """scikit-learn's digits, float32 (1797, 1, 8, 8) in 0..1, shuffled."""
    from sklearn.datasets import load_digits

    images = load_digits().images.astype(np.float32) / 16
    order = torch.randperm(len(images), generator=generator(7))
    return torch.from_numpy(images)[order, None]


@cache
def scenes(count: int = 400, side: int = 32) -> Tensor:
    """Smooth coloured images with some edges, float32 (count, 3, side, side) in 0.1..0.9, unlike each other."""
    draw = generator(11)
    coarse = torch.rand(count, 3, 4, 4, generator=draw)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)
    blocks = torch.rand(count, 3, side // 4, side // 4, generator=draw).repeat_interleave(4, 2).repeat_interleave(4, 3)
    texture = torch.randn(count, 3, side, side, generator=draw)
    strength = torch.rand(count, 2, 1, 1, 1, generator=draw)
    images = 0.5 + strength[:, 0] * (smooth - 0.5) + 0.3 * strength[:, 1] * (blocks - 0.5) + 0.01 * texture
    return images.clamp(0.1, 0.9)


@cache
def photo_crops(count: int, side: int = 32) -> Tensor:
    """Crops of scikit-learn's two photos at half their size, in turn, float32 (count, 3, side, side)."""
    from sklearn.datasets import load_sample_images

    draw = generator(3)
    photos = [torch.from_numpy(photo.copy()).permute(2, 0, 1)[None] / 255 for photo in load_sample_images().images]
    halves = [torch.nn.functional.avg_pool2d(photo, 2)[0] for photo in photos]
    crops = []
    for i in range(count):
        photo = halves[i % len(halves)]
        top, left = (int(torch.randint(size - side, (), generator=draw)) for size in photo.shape[1:])
        crops.append(photo[:, top : top + side, left : left + side])
    return torch.stack(crops)


def eight_bits(images: Tensor) -> Tensor:
    """Clipped and rounded as a stored image is."""
    return (images.clamp(0, 1) * 255).round() / 255
