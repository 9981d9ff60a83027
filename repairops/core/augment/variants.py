"""Natural variants of images, by parameters: where a search for hard ones looks (SENSEI)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

# Largest change of each parameter, in both directions. Rotation in degrees; translation as a share of the side;
# shear as a factor; zoom and contrast as 1 + x; brightness in 0..1.
RANGES = {
    "rotation": 30.0,
    "translate_x": 0.1,
    "translate_y": 0.1,
    "shear": 0.1,
    "zoom": 0.1,
    "brightness": 32 / 255,
    "contrast": 0.2,
}


def draw_variants(count: int, generator: Generator) -> Tensor:
    """Parameters float32 (count, len(RANGES)), uniform in -1..1 (units of RANGES); 0 changes nothing."""
    return 2 * torch.rand(count, len(RANGES), generator=generator) - 1


def cross_over(first: Tensor, second: Tensor, generator: Generator) -> Tensor:
    """Children (n, P) of parents (n, P): each parameter from one of the two, by a fair draw."""
    return torch.where(torch.rand(first.shape, generator=generator) < 0.5, first, second)


def mutate(parameters: Tensor, generator: Generator) -> Tensor:
    """One parameter of each row drawn anew."""
    place = torch.randint(0, parameters.shape[1], (len(parameters), 1), generator=generator)
    return parameters.scatter(1, place, 2 * torch.rand(len(parameters), 1, generator=generator) - 1)


def apply_variants(images: Tensor, parameters: Tensor) -> Tensor:
    """Each image, float32 (B, C, H, W) in 0..1, changed by its own parameters (B, len(RANGES)) in -1..1.

    All geometry is one bilinear resampling about the centre; what comes in from outside repeats the border.
    """
    amount = parameters.to(images) * images.new_tensor(list(RANGES.values()))
    rotation, right, down, shear, zoom, brightness, contrast = amount.unbind(1)
    angle, scale = torch.deg2rad(rotation), 1 / (1 + zoom)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    ratio = images.shape[2] / images.shape[3]  # grid coordinates are shares of each side; rotate in pixels
    rows = (
        torch.stack((cos, (shear * cos - sin) * ratio, -2 * right), 1),
        torch.stack((sin / ratio, shear * sin + cos, -2 * down), 1),
    )
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    mean = moved.mean((2, 3), keepdim=True)
    gain, offset = (1 + contrast).view(-1, 1, 1, 1), brightness.view(-1, 1, 1, 1)
    return ((moved - mean) * gain + mean + offset).clamp(0, 1)
