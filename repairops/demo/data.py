"""The demo's images: scikit-learn's handwritten digits (real scans), or a user's own, and the field's pattern."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from repairops.config import ImagesConfig, derive_seed
from repairops.data.records import ImageSet, InputSpec
from repairops.data.sets import from_arrays, load_image_set, peek_image_size
from repairops.data.sources import peek_class_names
from repairops.errors import UnreadableDataset
from repairops.model.network import to_unit

SIDE = 16  # pixels; the scans are 8x8 and are enlarged
SHOTS = 4  # photographs of each scan in the field
FIELD_SHARE, CLEAN_SHARE = 0.17, 0.45
LIMIT = 6000  # images of a user's own set that the demo takes, so that it stays within minutes on a CPU


@dataclass(frozen=True)
class DemoData:
    """Three disjoint sets of scans: what the champion is trained on, what judges it, what the field sees."""

    train: ImageSet
    clean: ImageSet
    field: ImageSet
    spec: InputSpec


def demo_data(path: Path | None, seed: int) -> DemoData:
    """The digits, or the images of an ImageFolder or parquet, shuffled and cut in three."""
    images = _own(path) if path else _digits()
    order = np.random.default_rng(derive_seed(seed, "demo", "split")).permutation(len(images))[:LIMIT]
    n = len(order)
    field, clean = int(n * FIELD_SHARE), int(n * CLEAN_SHARE)
    channels, height, width = images.pixels.shape[1:]
    spec = InputSpec(channels, height, width, images.class_names, mean=(0.5,), std=(0.5,))
    return DemoData(
        images.subset(order[field + clean :]),
        images.subset(order[field : field + clean]),
        images.subset(order[:field]),
        spec,
    )


def photograph(field: ImageSet, seed: int) -> tuple[Tensor, np.ndarray]:
    """The field's photographs of each scan: (SHOTS * N, C, H, W) uint8, and each one's scan, int64.

    The pattern: a tired scanner lamp (lost contrast under a grey veil), lines of a failing sensor row, and noise,
    each of random strength.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "demo", "field"))
    scans = np.repeat(np.arange(len(field)), SHOTS)
    shots = [scanner(to_unit(field.pixels[torch.from_numpy(part)]), generator) for part in np.array_split(scans, SHOTS)]
    return torch.cat(shots).mul(255).round().to(torch.uint8), scans


def scanner(images: Tensor, generator: Generator) -> Tensor:
    """The failing scanner: float (N, C, H, W) in 0..1 to the same. contrast 0.45-0.95, veil, row lines, noise."""
    n, _, height, _ = images.shape

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)

    contrast, veil = draw(0.45, 0.95), draw(0.0, 0.5)
    lines = torch.randn(n, 1, height, 1, generator=generator) * draw(0.02, 0.06)
    noise = torch.randn(images.shape, generator=generator) * draw(0.01, 0.05)
    return (images * contrast + veil * (1 - contrast) + lines + noise).clamp(0, 1)


def _digits() -> ImageSet:
    from sklearn.datasets import load_digits

    digits = load_digits()
    scans = torch.from_numpy(digits.images).float()[:, None] / 16
    enlarged = F.interpolate(scans, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    names = tuple(str(name) for name in digits.target_names)
    pixels = enlarged.clamp(0, 1).mul(255).round().to(torch.uint8)
    return from_arrays(pixels, digits.target.astype(np.int64), names, "scikit-learn digits")


def _own(path: Path) -> ImageSet:
    names, size = peek_class_names(path), peek_image_size(path)
    if not names or not size:
        raise UnreadableDataset(path, "it names no classes, or its first image does not decode")
    channels, height, width = size
    side = min(height, width, 64)  # the demo trains on a CPU
    spec = InputSpec(channels, side, side, tuple(names), resize="center_crop")
    return load_image_set(path, spec, ImagesConfig())
