"""Where pixels go: random translation and flip, the training loop's own jitter; and boxes, cut out or filled."""

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


def draw_boxes(sides: Tensor, size: torch.Size, generator: Generator) -> Tensor:
    """One box for each image, int64 (B, 4) as top, left, bottom, right (exclusive), cut off at the border.

    sides: float (B,), 0..1, the box's sides as shares of the image's. size: (height, width) in pixels. The centre is
    uniform over the pixels, as in Cutout and CutMix, so a box near the border is smaller than asked for.
    """
    count, (height, width) = len(sides), size
    row = torch.randint(0, height, (count,), generator=generator)
    column = torch.randint(0, width, (count,), generator=generator)
    high, wide = (sides * height).round().long(), (sides * width).round().long()
    top, left = row - high // 2, column - wide // 2
    edges = torch.stack((top, left, top + high, left + wide), 1)
    return torch.minimum(edges.clamp(min=0), torch.tensor([height, width, height, width]))


def inside(boxes: Tensor, size: torch.Size, device: torch.device) -> Tensor:
    """bool (B, 1, H, W): the pixels of each box."""
    height, width = size
    top, left, bottom, right = boxes.to(device).view(-1, 4, 1, 1).unbind(1)
    row = torch.arange(height, device=device).view(1, -1, 1)
    column = torch.arange(width, device=device).view(1, 1, -1)
    found: Tensor = (row >= top) & (row < bottom) & (column >= left) & (column < right)
    return found[:, None]


def cut_out(images: Tensor, boxes: Tensor, fill: Tensor) -> Tensor:
    """Images (B, C, H, W) with each box in the colour `fill` (C,)."""
    mask = inside(boxes, images.shape[2:], images.device)
    return torch.where(mask, fill.to(images).view(1, -1, 1, 1), images)


def cut_mix(images: Tensor, partners: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) with each box filled from image `partners` (B,), and the share float32 (B,) that stays.

    The share is by the pixels that were really replaced, as in CutMix's code, not by the share that was drawn.
    """
    mask = inside(boxes, images.shape[2:], images.device)
    return torch.where(mask, images[partners], images), 1 - mask.float().mean((1, 2, 3))
