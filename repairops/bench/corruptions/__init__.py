"""The 15 corruptions of CIFAR-10-C with CIFAR-10-C's own constants, batched, at five severities.

Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations (ICLR
2019), and the constants of the script that made CIFAR-10-C (`make_cifar_c.py` in hendrycks/robustness, Apache-2.0);
those of ImageNet-C are far too hard at 32x32. Written anew for batches in torch. What differs is said at each function;
the largest difference is `frost`, whose photographs of frost are replaced by synthesised textures.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from repairops.bench.corruptions import blur, digital, noise, weather
from repairops.errors import InvalidOption, listing

__all__ = ["CORRUPTIONS", "SEVERITIES", "corrupt", "corrupt_pixels"]

SEVERITIES = (1, 2, 3, 4, 5)
CHUNK = 1000  # images corrupted at once by `corrupt_pixels`


# Images, severity and generator to images, see `corrupt`.
CORRUPTIONS: dict[str, Callable[[Tensor, int, Generator], Tensor]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}


def corrupt(images: Tensor, name: str, severity: int | Tensor, generator: Generator) -> Tensor:
    """Corrupted images in 0..1, of the same shape, float32, on the same device; not rounded to 8 bits.

    images: float (N, C, H, W) in 0..1, C = 1 or 3. severity: 1..5 for all, or int64 (N,). The draws come from
    `generator`; where it is on the CPU they are the same for images on a GPU. Raises InvalidOption.
    """
    if name not in CORRUPTIONS:
        raise InvalidOption("corruption", name, f"one of {listing(CORRUPTIONS, 15)}")
    apply = CORRUPTIONS[name]
    severities = torch.as_tensor(severity, device="cpu").expand(len(images))
    levels = sorted(set(severities.tolist()))
    if not set(levels) <= set(SEVERITIES):
        raise InvalidOption("severity", levels, "whole numbers from 1 to 5")
    images = images.float()
    if len(levels) == 1:
        return apply(images, levels[0], generator).clamp(0, 1)
    corrupted = torch.empty_like(images)
    for level in levels:
        rows = (severities == level).nonzero().squeeze(1).to(images.device)
        corrupted[rows] = apply(images[rows], level, generator).clamp(0, 1)
    return corrupted


def corrupt_pixels(pixels: Tensor, name: str, severity: int | Tensor, generator: Generator) -> Tensor:
    """`corrupt` for 8-bit images, uint8 (N, C, H, W) to the same; cut to 8 bits as CIFAR-10-C is, not rounded."""
    severities = torch.as_tensor(severity).expand(len(pixels))
    corrupted = torch.empty_like(pixels)
    for start in range(0, len(pixels), CHUNK):
        rows = slice(start, start + CHUNK)
        images = corrupt(pixels[rows].float() / 255, name, severities[rows], generator)
        corrupted[rows] = (images * 255 + 1e-3).to(torch.uint8)  # + 1e-3: a whole value stays one in float32
    return corrupted
