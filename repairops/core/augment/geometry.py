"""Random translation and flip of each image, the training loop's own jitter."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def random_crop_flip(images: Tensor, padding: int, flip: bool, generator: Generator) -> Tensor:
    """Moves each image by up to `padding` pixels each way, and mirrors half of them where `flip` is set.

    images: (B, C, H, W), any dtype and device; returns the same kind. The border that comes in is 0 (black), as
    in the usual CIFAR recipe. The draws come from `generator` (CPU), and take the same amount from it whatever
    the options are.
    """
    count = len(images)
    down, right = torch.randint(0, 2 * padding + 1, (2, count), generator=generator) - padding
    mirrored = torch.rand(count, generator=generator) < 0.5
    if not padding and not flip:
        return images
    return shift_flip(images, down, right, mirrored if flip else torch.zeros_like(mirrored))


def shift_flip(images: Tensor, down: Tensor, right: Tensor, mirrored: Tensor) -> Tensor:
    """Mirrors left-right where `mirrored` (B,) bool, then moves by whole pixels `down`, `right` (B,) int64."""
    height, width = images.shape[2:]
    if not len(images):
        return images.clone()
    reach = int(torch.stack((down.abs(), right.abs())).max())
    down, right, mirrored = (draw.to(images.device) for draw in (down, right, mirrored))
    padded = F.pad(images, (reach,) * 4)
    rows = torch.arange(height, device=images.device) - down[:, None] + reach
    columns = torch.arange(width, device=images.device) - right[:, None]
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns) + reach
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
