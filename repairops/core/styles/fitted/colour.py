"""Brightness, tint and contrast: an affine map of the colours about the image's mean."""

from __future__ import annotations

import torch
from torch import Tensor


def shift_colours(images: Tensor, shift: Tensor, tint_red: Tensor, tint_blue: Tensor) -> Tensor:
    """Adds to float (B, C, H, W): `shift` (B,) to all channels, the tints (B,) to the first and the last of three."""
    offset = shift[:, None].expand(-1, images.shape[1]).clone()
    if images.shape[1] == 3:
        offset += torch.stack([tint_red, torch.zeros_like(shift), tint_blue], 1)
    return images + offset[:, :, None, None]


def change_contrast(images: Tensor, log_gain: Tensor) -> Tensor:
    """Scales (B, C, H, W) about each channel's mean by exp(log_gain), (B,)."""
    mean = images.mean((2, 3), keepdim=True)
    return mean + log_gain.exp()[:, None, None, None] * (images - mean)
