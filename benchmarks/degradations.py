"""What the field may do to images beside CIFAR-10-C's corruptions, and which components each of both has in truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from repairops.bench.corruptions import corrupt_pixels
from repairops.model.network import from_unit, to_unit


@dataclass(frozen=True)
class Truth:
    """Components by the names of the findings. there: must be told. fair: may be told, since it is partly so."""

    there: tuple[str, ...] = ()
    fair: tuple[str, ...] = ()


NOISE, TINT = ("noise", "shot", "grain"), ("tint_red", "tint_blue")
TRUTHS = {
    "gaussian_noise": Truth(("noise",)),
    "shot_noise": Truth(("shot",)),
    "impulse_noise": Truth(("impulses",)),
    "defocus_blur": Truth(("blur",)),
    "glass_blur": Truth((), ("blur",)),
    "motion_blur": Truth(("streak",), ("blur",)),
    "zoom_blur": Truth((), ("blur",)),
    "snow": Truth(("specks",), ("shift", "contrast", *TINT)),
    "frost": Truth(("shift",), ("veil", "specks", "contrast", *TINT)),
    "fog": Truth(("contrast", "veil"), ("shift",)),
    "brightness": Truth(("shift",), ("contrast",)),
    "contrast": Truth(("contrast",)),
    "elastic_transform": Truth((), ("blur",)),
    "pixelate": Truth(("coarseness",)),
    "jpeg_compression": Truth(("blocking",)),
    "other_camera": Truth(("blur",), ("coarseness", "shift", "contrast", "noise", "shot")),
    "gamma": Truth(("shift",), ("contrast",)),
    "colour_cast": Truth(("tint_red", "tint_blue"), ("shift", "contrast")),
    "vignette": Truth(("shift",), ("veil", "contrast")),
    "salt_and_pepper": Truth(("impulses",), ("specks",)),
    "stripes": Truth(("rows",)),
    "shaking_hand": Truth((), ("streak", "blur")),  # a crooked trail is a blur or a streak, or a bit of both
    "posterised": Truth(),
    "blur_and_noise": Truth(("blur", "noise"), ("shot",)),
    "none": Truth(),
}
OWN = tuple(list(TRUTHS)[15:])


def degrade_pixels(pixels: Tensor, name: str, severity: int, generator: Generator) -> Tensor:
    """uint8 (N, C, H, W) to the same, at severity 1 to 5."""
    if name not in OWN:
        return corrupt_pixels(pixels, name, severity, generator)
    if name == "blur_and_noise":
        blurred = corrupt_pixels(pixels, "defocus_blur", severity, generator)
        return corrupt_pixels(blurred, "gaussian_noise", severity, generator)
    if name == "none":  # the same scenes, a bit aside
        return pixels.roll(severity - 3, 3).flip(3) if severity % 2 else pixels.roll(severity - 3, 3)
    return from_unit(CHANGES[name](to_unit(pixels), severity - 1, generator))


def other_camera(images: Tensor, step: int, generator: Generator) -> Tensor:
    side = (26, 22, 19, 16, 13)[step]
    small = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    large = F.interpolate(small, size=images.shape[2:], mode="bilinear").clamp(0, 1) ** 1.15
    return large + 0.015 * torch.randn(images.shape, generator=generator)


def gamma(images: Tensor, step: int, generator: Generator) -> Tensor:
    return images ** (1.4, 1.8, 2.2, 2.7, 3.3)[step]


def colour_cast(images: Tensor, step: int, generator: Generator) -> Tensor:
    amount = (0.1, 0.18, 0.25, 0.32, 0.4)[step]
    return images * torch.tensor([1 + amount / 2, 1, 1 - amount]).view(1, 3, 1, 1)


def vignette(images: Tensor, step: int, generator: Generator) -> Tensor:
    across = torch.linspace(-1, 1, images.shape[3])
    distance = torch.linspace(-1, 1, images.shape[2])[:, None] ** 2 + across**2
    return images * (1 - (0.3, 0.45, 0.6, 0.75, 0.9)[step] * distance / 2).clamp_min(0.05)


def salt_and_pepper(images: Tensor, step: int, generator: Generator) -> Tensor:
    chance = torch.rand(len(images), 1, *images.shape[2:], generator=generator)
    share = (0.01, 0.02, 0.04, 0.06, 0.09)[step]
    return torch.where(chance < share / 2, 0.0, torch.where(chance > 1 - share / 2, 1.0, images))


def stripes(images: Tensor, step: int, generator: Generator) -> Tensor:
    offsets = torch.randn(len(images), 1, images.shape[2], 1, generator=generator)
    return images + (0.02, 0.04, 0.06, 0.08, 0.11)[step] * offsets


def shaking_hand(images: Tensor, step: int, generator: Generator) -> Tensor:
    steps = (4, 7, 10, 14, 19)[step]
    moves = torch.randint(-1, 2, (steps, 2), generator=generator).cumsum(0)
    moved = [images.roll((int(down), int(right)), (2, 3)) for down, right in moves.clamp(-6, 6)]
    return torch.stack([images, *moved]).mean(0)


def posterised(images: Tensor, step: int, generator: Generator) -> Tensor:
    levels = (12, 8, 6, 4, 3)[step] - 1
    return (images * levels).round() / levels


CHANGES: dict[str, Callable[[Tensor, int, Generator], Tensor]] = {
    change.__name__: change
    for change in (other_camera, gamma, colour_cast, vignette, salt_and_pepper, stripes, shaking_hand, posterised)
}
