"""The protocol of all methods, and what a method may see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from repairops.config import MethodConfig
from repairops.core.styles.base import Style
from repairops.data.records import Clusters, FailureBatch, ImageSet
from repairops.model.network import Classifier


@dataclass(frozen=True, eq=False)
class MethodData:
    """What a method may see: training images and repair failures, never a clean set or a held-out failure.

    train: a shuffled sample of the training part, at most 2,000 images; the loop's batches come from all of it.

    jitter: the training loop's own random crop and flip, float (B, C, H, W) in 0..1 to the same.

    champion: makes a frozen copy of it, for methods that compare with what it says; the one in training changes.

    style: fitted to the failures already; None for a method that takes none.
    """

    train: ImageSet
    failures: FailureBatch
    clusters: Clusters
    jitter: Callable[[Tensor, Generator], Tensor]
    device: torch.device
    champion: Callable[[], Classifier]
    style: Style | None = None


class Method(Protocol):
    """A way to repair. `loss` is all that the training loop asks of it."""

    def loss(
        self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """The training loss of one batch of clean train images, and figures to log.

        images: float32 (B, C, H, W) in 0..1 on the device, jittered already. labels: int64 (B,).
        """
        ...


MethodFactory = Callable[[MethodData, MethodConfig, Generator], Method]
