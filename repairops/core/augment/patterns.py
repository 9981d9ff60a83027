"""Known noise patterns: what an expert knows of the field, as operations that join the styles.

Source: DeepRepair, Figure 1. A pattern takes images float32 (B, C, H, W) in 0..1 and a generator on the CPU, and
returns the same kind. Each built-in one draws its strength anew for each image, up to about what CIFAR-10-C has.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from repairops.errors import PatternNotUsable, listing
from repairops.model.device import device_generator

Pattern = Callable[[Tensor, Generator], Tensor]


def gaussian_noise(images: Tensor, generator: Generator) -> Tensor:
    """Independent normal noise with a standard deviation of up to 0.12 of full scale."""
    drawn_on = device_generator(generator, images.device)
    noise = torch.randn(images.shape, generator=drawn_on, device=images.device) * _strength(images, 0.12, generator)
    return (images + noise.to(images)).clamp(0, 1)


def gaussian_blur(images: Tensor, generator: Generator) -> Tensor:
    """Blur with a standard deviation of up to a twentieth of the shorter side."""
    height, width = images.shape[2:]
    sigma = _strength(images, min(height, width) / 20, generator).view(-1, 1)
    rows, columns = (torch.fft.fftfreq(n, device=images.device) for n in (2 * height, 2 * width))
    gain = [torch.exp(-2 * (torch.pi * sigma * f) ** 2) for f in (rows, columns[: width + 1])]
    mirrored = torch.cat((images, images.flip(2)), 2)
    mirrored = torch.cat((mirrored, mirrored.flip(3)), 3)
    spectrum = torch.fft.rfft2(mirrored) * gain[0][:, None, :, None] * gain[1][:, None, None, :]
    blurred: Tensor = torch.fft.irfft2(spectrum, s=mirrored.shape[2:])[..., :height, :width]
    return blurred.clamp(0, 1)


def contrast(images: Tensor, generator: Generator) -> Tensor:
    """Contrast reduced to between all and a tenth of it, about the image's mean."""
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * (1 - _strength(images, 0.9, generator))


def brightness(images: Tensor, generator: Generator) -> Tensor:
    """Lighter or darker by up to 0.3 of full scale."""
    return (images + 2 * _strength(images, 0.3, generator) - 0.3).clamp(0, 1)


def pixelate(images: Tensor, generator: Generator) -> Tensor:
    """Reduced to between half and all of its pixels and enlarged again; one factor for the batch."""
    factor = 0.5 + 0.5 * float(torch.rand((), generator=generator))
    small = F.interpolate(images, scale_factor=factor, mode="area")
    return F.interpolate(small, images.shape[2:], mode="nearest")


PATTERNS: dict[str, Pattern] = {
    "gaussian_noise": gaussian_noise,
    "gaussian_blur": gaussian_blur,
    "contrast": contrast,
    "brightness": brightness,
    "pixelate": pixelate,
}


def find_pattern(name: str) -> Pattern:
    """A built-in pattern by name, or the function that `package.module:function` names.

    Raises PatternNotUsable. What an own function returns is checked each time it is called.
    """
    if name in PATTERNS:
        return PATTERNS[name]
    module, found, function = name.partition(":")
    if not found:
        raise PatternNotUsable(name, f"it is neither one of {listing(PATTERNS)} nor package.module:function")
    try:
        pattern = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise PatternNotUsable(name, str(error)) from error
    if not callable(pattern):
        raise PatternNotUsable(name, f"it is a {type(pattern).__name__}, not a function")
    return lambda images, generator: _checked(name, pattern, images, generator)


def _checked(name: str, pattern: Pattern, images: Tensor, generator: Generator) -> Tensor:
    result = pattern(images, generator)
    if not isinstance(result, Tensor) or result.shape != images.shape or result.dtype != images.dtype:
        given = f"{result.dtype} {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
        raise PatternNotUsable(name, f"it returned {given} for images {images.dtype} {tuple(images.shape)}")
    if not bool(result.isfinite().all()):
        raise PatternNotUsable(name, "it returned values that are NaN or infinite")
    return result.to(images.device).clamp(0, 1)


def _strength(images: Tensor, most: float, generator: Generator) -> Tensor:
    """Uniform in 0..most for each image, (B, 1, 1, 1), on the images' device."""
    return most * torch.rand(len(images), 1, 1, 1, generator=generator).to(images)
