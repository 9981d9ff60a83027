"""Images with random labels, and a failure batch of them: for benchmarks of time and memory, not of accuracy."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from repairops.data.records import FailureBatch, ImageSet

NAMES = tuple("0123456789")


def image_set(pixels: Tensor, rng: np.random.Generator, name: str) -> ImageSet:
    """uint8 (N, 3, H, W) with labels drawn from `rng`; `name` tells its images from another set's."""
    count = len(pixels)
    return ImageSet(pixels, rng.integers(0, 10, count), NAMES, np.array([f"{name}-{i}" for i in range(count)]))


def failure_batch(images: ImageSet) -> FailureBatch:
    blank = np.full(len(images), "")
    return FailureBatch(images, images.labels, np.ones(len(images), np.float32), blank, blank)
