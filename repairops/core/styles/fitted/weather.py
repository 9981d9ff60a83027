"""What lies between the scene and the lens: a smooth veil (fog, glare) and bright specks (snow, rain)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from repairops.core.styles.fitted.noise import standard_normal
from repairops.core.styles.fitted.optics import spread_points
from repairops.core.styles.spectrum import frequencies

VEIL_FALL = 2.2  # the veil's amplitude falls with this power of the frequency, between those of CIFAR-10-C's fogs
SPECK_OPACITY = (0.3, 0.9)  # drawn for each image, as is the length
SPECK_LENGTH = (0.3, 4.0)  # pixels of standard deviation, along the fall
SPECK_WIDTH = 0.4


def add_veil(images: Tensor, strength: Tensor, generator: Generator) -> Tensor:
    """Adds a smooth random grey layer of mean 0 and root mean square `strength` (B,) to (B, C, H, W)."""
    batch, _, height, width = images.shape
    vertical, horizontal = frequencies(height, width, images.device)
    squared = vertical.square() + horizontal.square()
    amplitude = torch.where(squared > 0, squared.clamp_min(1e-12).pow(-VEIL_FALL / 2), 0.0)
    drawn = torch.fft.rfft2(standard_normal((batch, 1, height, width), generator, images.device))
    layer = torch.fft.irfft2(drawn * amplitude, s=(height, width))
    layer = layer / layer.square().mean((2, 3), keepdim=True).sqrt().clamp_min(1e-9)
    veiled: Tensor = images + strength[:, None, None, None] * layer
    return veiled


def add_specks(images: Tensor, coverage: Tensor, generator: Generator) -> Tensor:
    """Covers a share `coverage` (B,) of (B, C, H, W) by white specks, of one length, angle and opacity each."""
    batch, _, height, width = images.shape
    drawn = torch.rand(3, batch, generator=generator).to(images.device)
    angle = 2 * torch.pi * drawn[0]  # twice the specks' angle
    length, density = (
        low + (high - low) * u for (low, high), u in zip((SPECK_LENGTH, SPECK_OPACITY), drawn[1:], strict=True)
    )
    layer = standard_normal((batch, 1, height, width), generator, images.device)
    layer = spread_points(layer, torch.full_like(length, SPECK_WIDTH), length * angle.cos(), length * angle.sin())[:, 0]
    ranked = layer.flatten(1).sort(1, descending=True).values
    place = (coverage * height * width).long().clamp(0, height * width - 1)
    threshold = ranked.gather(1, place[:, None])[:, :, None]
    softness = layer.std((1, 2), keepdim=True).clamp_min(1e-9)
    opacity = density[:, None, None] * ((layer - threshold) / softness + 0.5).clamp(0, 1)
    covered: Tensor = images + opacity[:, None] * (1 - images).clamp_min(0)
    return covered
