"""What is known of the degradations of a group's failures, by a normal random-effects model of the answers for them.

Their mean, their spread between images (what exceeds the scatter of the answers), and for each image what its own
answer adds.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from repairops.core.styles.fitted.parameters import Degradation
from repairops.core.styles.fitted.regression import Answers
from repairops.core.styles.whitening import safe_eigh


@dataclass(frozen=True, eq=False)
class Estimate:
    """What was found in R failures.

    names: the P parameters that are present. values: (R, P), each failure's own most likely values. spread: (P, P),
    factor L of what remains uncertain of them, L L'. mean, deviation, error: (P,), of the parameters over all
    failures: mean, standard deviation between failures, standard error of the mean. noise_shape, fade: see
    `Degradation`. surplus: (R, K), what of each failure's measures is not that of clean images so degraded, in
    independent directions of unit spread between single images; None where nothing was measured.
    """

    names: tuple[str, ...]
    values: Tensor
    spread: Tensor
    mean: Tensor
    deviation: Tensor
    error: Tensor
    noise_shape: Tensor
    fade: float | None = None
    surplus: Tensor | None = None

    def to(self, device: torch.device) -> Estimate:
        """The same on another device."""
        moved: dict[str, Any] = {name: x.to(device) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return dataclasses.replace(self, **moved)

    def unexplained(self, members: Tensor | None = None) -> float:
        """How far the failures `members`, int64 (n,), as a group are from images that are degraded as was found.

        The squared distance of their mean measures, in units of the spread between single images (Mahalanobis 1936),
        less what chance gives; at least 0.
        """
        if self.surplus is None:
            return 0.0
        surplus = self.surplus if members is None else self.surplus[members.to(self.surplus.device)]
        chance = surplus.var(0, correction=0).sum() / len(surplus)
        return max(0.0, float(surplus.mean(0).square().sum() - chance))

    def draw(self, index: Tensor, generator: Generator, low: Tensor, high: Tensor) -> Degradation:
        """Parameters for failures `index` int64 (B,), anew from what is known of each, within low and high, (P,).

        On the device of these limits.
        """
        device = low.device
        values = self.values[index.to(self.values.device)].to(device)
        normal = torch.randn(values.shape, generator=generator).to(device)
        values = (values + normal @ self.spread.T.to(device)).clamp(low, high)
        return Degradation(self.names, values, self.noise_shape.to(device), self.fade)


def random_effects(
    names: tuple[str, ...],
    answers: Answers,
    low: Tensor,
    high: Tensor,
    shape: Tensor,
    fade: float | None = None,
) -> Estimate:
    """The failures' parameters from the answers for them."""
    between = positive(answers.total - answers.scatter)
    gain = between @ torch.linalg.pinv(between + answers.scatter, hermitian=True)
    mean = answers.mean
    values = (mean + (answers.values - mean) @ gain.T).clamp(low, high)
    error = answers.total / len(answers.values)
    remaining = positive(between - gain @ between + error)
    roots, vectors = safe_eigh(remaining)
    spread = vectors * roots.clamp_min(0).sqrt()
    deviation, error = (x.diagonal().clamp_min(0).sqrt() for x in (between, error))
    return Estimate(names, values, spread, mean.clamp(low, high), deviation, error, shape, fade)


def positive(matrix: Tensor) -> Tensor:
    """A symmetric matrix (P, P) without its negative eigenvalues."""
    values, vectors = safe_eigh((matrix + matrix.T) / 2)
    return (vectors * values.clamp_min(0)) @ vectors.T


def nothing(references: Tensor) -> Estimate:
    """No degradation of references (R, C, H, W)."""
    none = references.new_zeros(0)
    shape = torch.eye(references.shape[1], device=references.device)
    return Estimate((), references.new_zeros(len(references), 0), none.view(0, 0), none, none, none, shape)
