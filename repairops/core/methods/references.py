"""Which repair failures join a training batch, and which look each train image takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from repairops.config import MethodConfig
from repairops.core.augment.patterns import Pattern
from repairops.core.methods.base import RepairData
from repairops.core.styles.base import Style
from repairops.data.records import Clusters
from repairops.model.network import to_unit


def reference_weights(clusters: Clusters, *, uniform: bool = False) -> Tensor:
    """The chance of each repair failure to be a reference, float64 (R,), sums to 1.

    A cluster is drawn uniformly, then a member with Eq. 4's probability (DeepRepair, step 2). uniform: all failures
    alike, the paper's ablation without clustering.
    """
    if uniform:
        return torch.full((len(clusters.assignments),), 1 / max(len(clusters.assignments), 1), dtype=torch.float64)
    sizes = np.bincount(clusters.assignments, minlength=clusters.count)
    return torch.from_numpy(clusters.probabilities / np.count_nonzero(sizes))


@dataclass(frozen=True, eq=False)
class StyleOperations:
    """The paper's O^c: one style operation for each cluster, and the known patterns beside them.

    weights: (R,) from `reference_weights`. clusters: the number of style operations. Without clustering there are
    as many, so that only the choice of references differs.
    """

    style: Style
    weights: Tensor
    clusters: int
    patterns: tuple[Pattern, ...] = ()

    @property
    def count(self) -> int:
        return self.clusters + len(self.patterns)

    def apply(self, content: Tensor, generator: Generator) -> Tensor:
        """Each content image, float32 (B, C, H, W) in 0..1, after one of the operations, drawn uniformly."""
        with torch.no_grad():
            if not self.patterns:
                return self._restyle(content, generator)
            drawn = torch.randint(0, self.count, (len(content),), generator=generator)
            result = torch.empty_like(content)
            for number in range(-1, len(self.patterns)):  # -1: all style operations, in one call
                chosen = drawn < self.clusters if number < 0 else drawn == self.clusters + number
                index = chosen.nonzero().squeeze(1).to(content.device)
                if len(index):
                    apply = self._restyle if number < 0 else self.patterns[number]
                    result[index] = apply(content[index], generator)
            return result

    def _restyle(self, content: Tensor, generator: Generator) -> Tensor:
        references = torch.multinomial(self.weights, len(content), replacement=True, generator=generator)
        return self.style.apply(content, references.to(content.device), generator)


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

    def join(self, images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor, int]:
        """The batch with failures drawn for it at its end, their labels, and how many they are."""
        failures, failure_labels = self.draw(len(images), generator)
        return torch.cat((images, failures)), torch.cat((labels, failure_labels)), len(failures)


def make_sampler(data: RepairData, method: MethodConfig, *, by_default: bool = True) -> FailureSampler:
    """The failures that join, in the configured share; `use_failures` auto = what the method does `by_default`."""
    used = by_default if method.use_failures == "auto" else method.use_failures == "on"
    return FailureSampler(data, method.failure_share if used else 0.0)
