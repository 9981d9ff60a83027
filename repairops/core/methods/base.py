"""The protocol of all methods, what a method may see, and which repair failures join a training batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from repairops.config import MethodConfig
from repairops.core.styles.base import Style
from repairops.data.records import Clusters, FailureBatch, ImageSet
from repairops.model.network import Classifier, to_unit

Loss = tuple[Tensor, dict[str, float]]  # of one batch, and figures to log


@dataclass(frozen=True, eq=False)
class MethodData:
    """What a method may see: training images and repair failures, never a clean set or a held-out failure.

    train: a shuffled sample of the training part, at most 2,000 images; the loop's batches come from all of it.

    jitter: the training loop's own random crop and flip, float (B, C, H, W) in 0..1 to the same.

    champion: makes a frozen copy of what is served, for methods that compare with what it says; the one in training
    changes.

    style: fitted to the failures already; None for a method that takes none.

    replayed: failures that earlier repairs of the champion trained on, if any.
    """

    train: ImageSet
    failures: FailureBatch
    clusters: Clusters
    jitter: Callable[[Tensor, Generator], Tensor]
    device: torch.device
    champion: Callable[[], Classifier]
    style: Style | None = None
    replayed: FailureBatch | None = None


class Method(Protocol):
    """A way to repair. `loss` is all that the training loop asks of it."""

    def loss(self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator) -> Loss:
        """The training loss of one batch of clean train images, and figures to log.

        images: float32 (B, C, H, W) in 0..1 on the device, jittered already. labels: int64 (B,).
        """
        ...


MethodFactory = Callable[[MethodData, MethodConfig, Generator], Method]


@dataclass(frozen=True, eq=False)
class FailureSampler:
    """Draws repair failures as training samples: `share` for each train image, uniformly, with replacement.

    again: of these, the share that is drawn from the data's `replayed` ones, where there are some.
    """

    data: MethodData
    share: float
    again: float = 0.0

    def draw(self, train_images: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Jittered failures float32 (n, C, H, W) in 0..1 and their labels int64 (n,), on the data's device.

        n = round(share * train_images), which can be 0.
        """
        count = round(self.share * train_images) if len(self.data.failures) else 0
        before = self.data.replayed
        replayed = round(self.again * count) if before else 0
        images, labels = self._drawn(self.data.failures, count - replayed, generator)
        if before and replayed:
            more, theirs = self._drawn(before, replayed, generator)
            images, labels = torch.cat((images, more)), torch.cat((labels, theirs))
        return self.data.jitter(images, generator), labels

    def _drawn(self, failures: FailureBatch, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        index = torch.randint(0, max(len(failures), 1), (count,), generator=generator)
        images = to_unit(failures.images.pixels[index].to(self.data.device))
        return images, torch.as_tensor(failures.images.labels[index.numpy()], device=self.data.device)

    def join(self, images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor, int]:
        """The batch with failures drawn for it at its end, their labels, and how many they are."""
        failures, failure_labels = self.draw(len(images), generator)
        return torch.cat((images, failures)), torch.cat((labels, failure_labels)), len(failures)


def make_sampler(data: MethodData, method: MethodConfig, *, by_default: bool = True) -> FailureSampler:
    """The failures that join, in the configured share; `use_failures` auto = what the method does `by_default`."""
    used = by_default if method.use_failures == "auto" else method.use_failures == "on"
    return FailureSampler(data, method.failure_share if used else 0.0, method.replay_share)
