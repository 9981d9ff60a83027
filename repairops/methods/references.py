"""Which repair failure a style is taken from, and which failures join a training batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from repairops.methods.base import RepairData
from repairops.network import to_unit
from repairops.records import Clusters


def draw_references(clusters: Clusters, count: int, generator: Generator) -> Tensor:
    """References for `count` images: int64 (count,), indices into the repair failures, on the CPU.

    For each image a cluster is drawn uniformly, then a member with Eq. 4's probability (DeepRepair, step 2).
    """
    sizes = np.bincount(clusters.assignments, minlength=clusters.count)
    weights = torch.from_numpy(clusters.probabilities / np.count_nonzero(sizes))
    return torch.multinomial(weights, count, replacement=True, generator=generator)


@dataclass(frozen=True, eq=False)
class FailureSampler:
    """Draws repair failures as training samples: `share` for each train image, uniformly, with replacement."""

    data: RepairData
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
