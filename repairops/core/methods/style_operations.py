"""Which look each train image takes: a cluster's, by a reference drawn from it, or a known pattern's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from repairops.core.augment.patterns import Pattern
from repairops.core.styles.base import Style
from repairops.data.records import Clusters


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
