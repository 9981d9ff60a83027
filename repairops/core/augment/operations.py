"""AugMix's nine general operations, batched, with one parameter for each image.

Images here are float32 (B, C, H, W) that hold whole numbers 0..255, with any C, H and W, since the operations
are defined on 8-bit images; `mixing` converts from and to 0..1. All return new tensors of the same kind.
autocontrast, equalize, posterize, solarize and whole-pixel translations equal Pillow's results exactly; rotate
and shear equal Pillow's bilinear `Image.transform` up to one grey level where float32 rounds differently.

Source: Hendrycks et al., AugMix (ICLR 2020), the operations that do not overlap with the test corruptions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

OPERATIONS = (
    "autocontrast",
    "equalize",
    "posterize",
    "solarize",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
_FIRST_AFFINE = OPERATIONS.index("rotate")  # from here on, one affine map of the coordinates each


def autocontrast(images: Tensor) -> Tensor:
    """Stretches each channel linearly to 0..255; a constant channel stays as it is."""
    low = images.amin((2, 3)).double().unsqueeze(-1)
    high = images.amax((2, 3)).double().unsqueeze(-1)
    levels = torch.arange(256, dtype=torch.float64, device=images.device)
    span = (high - low).clamp(min=1)
    scale = torch.full_like(span, 255).div(span)  # `255 / span` would multiply by a rounded reciprocal
    table = (levels * scale + -low * scale).trunc().clamp(0, 255)  # float64 and this order: Pillow's rounding
    return _look_up(images, torch.where(high > low, table, levels))


def equalize(images: Tensor) -> Tensor:
    """Flattens each channel's histogram; a channel with too few pixels or a single value stays as it is."""
    batch, channels, height, width = images.shape
    values = images.reshape(batch, channels, -1).long()
    histogram = torch.zeros(batch, channels, 256, dtype=torch.long, device=images.device)
    histogram.scatter_add_(2, values, torch.ones_like(values))
    brightest = histogram.gather(2, values.amax(2, keepdim=True))
    step = (height * width - brightest) // 255
    below = histogram.cumsum(2) - histogram
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    return _look_up(images, torch.where(step > 0, table, torch.arange(256, device=images.device)))


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keeps the highest `bits` (B,), 1..8, of each value."""
    step = torch.pow(2.0, 8 - bits.to(images)).view(-1, 1, 1, 1)
    return torch.floor(images / step) * step


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Inverts the values that are at least `threshold` (B,), 0..256."""
    return torch.where(images < threshold.to(images).view(-1, 1, 1, 1), images, 255 - images)


def rotation_coefficients(degrees: Tensor, height: int, width: int) -> Tensor:
    """Pillow's affine coefficients (B, 6) of a counter-clockwise turn about the centre."""
    angle = -torch.deg2rad(degrees.double())
    cos, sin = angle.cos(), angle.sin()
    x, y = width / 2, height / 2
    return torch.stack((cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y), 1)


def affine(images: Tensor, coefficients: Tensor) -> Tensor:
    """Pillow's `transform(size, AFFINE, (a, b, c, d, e, f), BILINEAR)` with one (B, 6) row for each image.

    The output pixel at (x, y) is taken from (a x + b y + c, d x + e y + f); what lies outside is 0.
    """
    height, width = images.shape[2:]
    a, b, c, d, e, f = coefficients.to(images).view(-1, 6, 1, 1).unbind(1)
    x = (torch.arange(width, device=images.device) + 0.5).view(1, 1, -1)
    y = (torch.arange(height, device=images.device) + 0.5).view(1, -1, 1)
    from_x, from_y = a * x + b * y + c, d * x + e * y + f
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    grid = torch.stack((from_x * 2 / width - 1, from_y * 2 / height - 1), -1)
    sampled = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.floor(sampled + 1e-3) * inside.unsqueeze(1)  # Pillow cuts off; 1e-3 is float32's error


def apply_operations(images: Tensor, operations: Tensor, levels: Tensor, signs: Tensor) -> Tensor:
    """Up to D operations for each image, one after the other, at AugMix's strengths.

    operations: int64 (B, D), index into OPERATIONS, or negative for none. levels: float (B, D), 0..10, AugMix's drawn
    level. signs: float (B, D), +1 or -1, the direction of the affine operations. At each place all affine operations
    share one resampling. operations, levels and signs lie on the CPU, where they are drawn; a GPU gets what it needs of
    them in two copies.
    """
    kinds = operations.clamp(-1, _FIRST_AFFINE)
    counts = [(column + 1).bincount(minlength=_FIRST_AFFINE + 2).tolist() for column in kinds.unbind(1)]
    order = kinds.argsort(dim=0, stable=True).to(images.device)
    drawn = (operations.flatten(), levels.flatten(), signs.flatten())
    settings = torch.cat((_affine_coefficients(*drawn, images.shape[2:]), _pointwise_settings(*drawn[:2])), 1)
    settings = settings.to(images).view(*operations.shape, -1)
    result = images.clone()
    for place, indices in enumerate(order.unbind(1)):
        for kind, index in enumerate(torch.split(indices, counts[place])[1:]):  # the first split has no operation
            if len(index):
                result[index] = _apply(kind, result[index], settings[index, place])
    return result


def _apply(kind: int, images: Tensor, settings: Tensor) -> Tensor:
    """kind: index into OPERATIONS, _FIRST_AFFINE for all affine ones. settings: (B, 7), coefficients and one number."""
    if kind == _FIRST_AFFINE:
        return affine(images, settings[:, :6])
    if OPERATIONS[kind] == "autocontrast":
        return autocontrast(images)
    if OPERATIONS[kind] == "equalize":
        return equalize(images)
    return (posterize if OPERATIONS[kind] == "posterize" else solarize)(images, settings[:, 6])


def _pointwise_settings(operations: Tensor, levels: Tensor) -> Tensor:
    """Float64 (N, 1): posterize's bits, solarize's threshold."""
    bits, threshold = 4 - torch.trunc(levels * 4 / 10), 256 - torch.trunc(levels * 256 / 10)
    return torch.where(operations == OPERATIONS.index("posterize"), bits, threshold).double().unsqueeze(1)


def _affine_coefficients(operations: Tensor, levels: Tensor, signs: Tensor, size: torch.Size) -> Tensor:
    """Float64 (N, 6); the identity's where an operation is not affine."""
    height, width = size
    turned = operations == _FIRST_AFFINE
    result = rotation_coefficients(torch.trunc(levels * 30 / 10) * signs * turned, height, width)
    moved = (operations > _FIRST_AFFINE).nonzero().squeeze(1)
    kind = operations[moved] - _FIRST_AFFINE - 1  # shear x, y, translate x, y
    strength = levels[moved] * torch.tensor([0.3, 0.3, width / 3, height / 3])[kind] / 10
    strength = torch.where(kind < 2, strength, torch.trunc(strength)) * signs[moved]
    result[moved, torch.tensor([1, 3, 2, 5])[kind]] = strength.double()
    return result


def _look_up(images: Tensor, table: Tensor) -> Tensor:
    """Replaces each value by its entry in its channel's own table (B, C, 256)."""
    values = images.reshape(*images.shape[:2], -1).long()
    return table.to(images).gather(2, values).view_as(images)
