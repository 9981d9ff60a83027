"""Which repair failures join a training batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from repairops.config import MethodConfig
from repairops.core.methods.base import MethodData
from repairops.model.network import to_unit


@dataclass(frozen=True, eq=False)
class FailureSampler:
    """Draws repair failures as training samples: `share` for each train image, uniformly, with replacement."""

    data: MethodData
    share: float

    def draw(self, train_images: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Jittered failures float32 (n, C, H, W) in 0..1 and their labels int64 (n,), on the data's device.

        n = round(share * train_images), which can be 0.
        """
        count = round(self.share * train_images) if len(self.data.failures) else 0
        index = torch.randint(0, max(len(self.data.failures), 1), (count,), generator=generator)
        images = to_unit(self.data.failures.images.pixels[index].to(self.data.device))
        labels = torch.as_tensor(self.data.failures.images.labels[index.numpy()], device=self.data.device)
        return self.data.jitter(images, generator), labels

    def join(self, images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor, int]:
        """The batch with failures drawn for it at its end, their labels, and how many they are."""
        failures, failure_labels = self.draw(len(images), generator)
        return torch.cat((images, failures)), torch.cat((labels, failure_labels)), len(failures)


def make_sampler(data: MethodData, method: MethodConfig, *, by_default: bool = True) -> FailureSampler:
    """The failures that join, in the configured share; `use_failures` auto = what the method does `by_default`."""
    used = by_default if method.use_failures == "auto" else method.use_failures == "on"
    return FailureSampler(data, method.failure_share if used else 0.0)
