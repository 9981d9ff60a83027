"""Images with random labels, and a failure batch of them: for benchmarks of time and memory, not of accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Generator, Tensor

from repairops.config import MethodConfig, StyleConfig
from repairops.core.looks import fit_to_failures
from repairops.core.methods import Method, MethodData, make_method
from repairops.core.parts import TrainingParts
from repairops.data.records import FailureBatch, ImageSet
from repairops.model.network import Classifier

NAMES = tuple("0123456789")


def image_set(pixels: Tensor, rng: np.random.Generator, name: str) -> ImageSet:
    """uint8 (N, 3, H, W) with labels drawn from `rng`; `name` tells its images from another set's."""
    count = len(pixels)
    return ImageSet(pixels, rng.integers(0, 10, count), NAMES, np.array([f"{name}-{i}" for i in range(count)]))


def failure_batch(images: ImageSet) -> FailureBatch:
    blank = np.full(len(images), "")
    return FailureBatch(images, images.labels, np.ones(len(images), np.float32), blank, blank)


def styled_method(
    config: MethodConfig, parts: TrainingParts, champion: Classifier, device: torch.device
) -> Callable[[MethodData], Method]:
    """What `train` makes its method by: the configured one, with the default style fitted to the failures."""
    style = fit_to_failures(parts, champion, StyleConfig(), device, seed=0)
    return lambda data: make_method(config, replace(data, style=style), Generator().manual_seed(0))
