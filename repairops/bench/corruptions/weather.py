"""Weather: images float (N, C, H, W) in 0..1 to the same; `corrupt` clips."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from repairops.bench.corruptions.blur import along_axes, directed_blur, zoom_matrix
from repairops.bench.corruptions.noise import normal, uniform

# mean and deviation of the flakes' layer, its zoom, the level below which it is empty, radius and sigma of the motion
# in pixels, and how much of the image stays as it is
SNOW = (
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
)
FROST = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))  # weights of image and frost
FROST_TINT = (0.88, 0.95, 1.0)  # red, green, blue
FOG = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))  # amount, decay of its fractal
BRIGHTNESS = (0.05, 0.1, 0.15, 0.2, 0.3)  # added to the value of HSV


def snow(images: Tensor, severity: int, generator: Generator) -> Tensor:
    mean, deviation, zoom, empty_below, radius, sigma, kept = SNOW[severity - 1]
    count, channels, height, width = images.shape
    layer = mean + deviation * normal((count, 1, height, width), generator, images.device)
    rows, columns = (zoom_matrix(size, zoom).to(images.device) for size in (height, width))
    layer = along_axes(layer, rows, columns)
    layer = torch.where(layer < empty_below, 0.0, layer).clamp(0, 1)
    falling = directed_blur(
        (layer * 255).floor() / 255, int(radius), sigma, uniform((count,), -135, -45, generator, images.device)
    )
    if channels == 3:
        grey = (images * images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    else:
        grey = images
    whitened = kept * images + (1 - kept) * torch.maximum(images, grey * 1.5 + 0.5)
    return whitened + falling + falling.flip(2, 3)


def frost(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """A weighted sum of the image and a texture of ice.

    Differs: CIFAR-10-C cuts its textures from six photographs; here each is synthesised, as ridges of two fractal
    maps (crystals) over a third one (haze), in a light blue. One channel gets the texture's mean.
    """
    kept, amount = FROST[severity - 1]
    count, channels, height, width = images.shape
    maps = fractal(3 * count, height, width, 1.9, generator, images.device).view(3, count, height, width)
    ridges = (1 - (2 * maps[:2] - 1).abs()).amax(0)  # bright where a map crosses its middle
    ice = (0.25 + 0.35 * maps[2] + 0.6 * ridges**4).clamp(0, 1)[:, None]
    tint = images.new_tensor(FROST_TINT).view(1, 3, 1, 1)
    return kept * images + amount * ice * (tint if channels == 3 else tint.mean())


def fog(images: Tensor, severity: int, generator: Generator) -> Tensor:
    amount, decay = FOG[severity - 1]
    count, _, height, width = images.shape
    brightest = images.amax((1, 2, 3), keepdim=True)
    haze = fractal(count, height, width, decay, generator, images.device)[:, None]
    return (images + amount * haze) * brightest / (brightest + amount)


def fractal(count: int, height: int, width: int, decay: float, generator: Generator, device: torch.device) -> Tensor:
    """Plasma maps by diamond and square, float32 (count, height, width) from maps that span 0..1.

    Each map has the next power of two as its side and wraps round; the upper left part is taken. Source:
    `plasma_fractal` of CIFAR-10-C's script, the same arithmetic.
    """
    step = 1 << (max(height, width) - 1).bit_length()
    maps = torch.zeros(count, step, step, device=device)
    spread = 100.0

    def mean_with_noise(sums: Tensor) -> Tensor:
        return sums / 4 + spread * uniform(sums.shape, -spread, spread, generator, device)

    while step >= 2:
        half = step // 2
        corners = maps[:, ::step, ::step]
        pairs = corners + corners.roll(-1, 1)
        maps[:, half::step, half::step] = mean_with_noise(pairs + pairs.roll(-1, 2))
        centres = maps[:, half::step, half::step]
        above = centres + centres.roll(1, 1)
        maps[:, ::step, half::step] = mean_with_noise(above + corners + corners.roll(-1, 2))
        beside = centres + centres.roll(1, 2)
        maps[:, half::step, ::step] = mean_with_noise(beside + corners + corners.roll(-1, 1))
        step, spread = half, spread / decay
    lowest = maps.amin((1, 2), keepdim=True)
    span = (maps.amax((1, 2), keepdim=True) - lowest).clamp_min(1e-9)
    return ((maps - lowest) / span)[:, :height, :width]


def brightness(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Raises the value of HSV, its largest channel; hue and saturation stay, so the channels keep their ratios."""
    value = images.amax(1, keepdim=True)
    raised = (value + BRIGHTNESS[severity - 1]).clamp(max=1)
    return torch.where(value > 0, images * (raised / value.clamp_min(1e-6)), raised)
