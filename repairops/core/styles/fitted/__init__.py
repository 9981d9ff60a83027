"""Fitted degradation: what the field did to the images, estimated from the failures and applied with fresh randomness.

No label and no clean twin of a failure is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from repairops.config import StyleConfig
from repairops.core.styles.fitted.degradation import degrade, limits
from repairops.core.styles.fitted.estimation import estimate
from repairops.core.styles.fitted.look import FittedLook, nothing

MAX_CLEAN = 2000  # images; more do not sharpen the estimate


@dataclass(frozen=True, eq=False)
class FittedDegradation:
    """The estimate for R references. alpha: 0 = content unchanged, 1 = full strength; all parameters scale with it."""

    found: FittedLook
    alpha: float = 1.0

    def apply(self, content: Tensor, reference: Tensor, generator: Generator) -> Tensor:
        """See `Style`. The same reference gives other draws each time; any image size.

        A reference's parameters are drawn anew from what is known of them, so that what is uncertain varies.
        """
        if self.alpha == 0 or not self.found.names:
            return content.clone()
        with torch.no_grad(), torch.autocast(content.device.type, enabled=False):
            low, high = limits(self.found.names, min(content.shape[2:]), content.device)
            drawn = self.found.draw(reference, generator, low, high)
            return degrade(content, replace(drawn, values=self.alpha * drawn.values), generator)


@dataclass(frozen=True, eq=False)
class FittedLooks:
    """One estimate for each look of the references. looks: int64 (R,), of each; place: its number within its look."""

    parts: tuple[FittedDegradation, ...]
    looks: Tensor
    place: Tensor

    @property
    def found(self) -> tuple[FittedLook, ...]:
        return tuple(part.found for part in self.parts)

    def apply(self, content: Tensor, reference: Tensor, generator: Generator) -> Tensor:
        """See `Style`; each image by the estimate of its reference's look."""
        styled, which, place = torch.empty_like(content), self.looks[reference.cpu()], self.place[reference.cpu()]
        for number, part in enumerate(self.parts):
            index = (which == number).nonzero()[:, 0]
            if len(index):
                here = index.to(content.device)
                styled[here] = part.apply(content[here], place[index].to(reference.device), generator)
        return styled


def fit_each_look(
    references: Tensor, clean: Tensor, looks: Tensor, config: StyleConfig, generator: Generator
) -> FittedLooks:
    """An estimate for each look, int64 (R,) of the references: one for two would see a bit of both in all images."""
    members = [(looks == number).nonzero()[:, 0] for number in range(int(looks.max()) + 1)]
    place = torch.empty_like(looks)
    for index in members:
        place[index] = torch.arange(len(index))
    parts = [fit_fitted_degradation(references[m.to(references.device)], clean, config, generator) for m in members]
    return FittedLooks(tuple(parts), looks, place)


def fit_fitted_degradation(
    references: Tensor, clean: Tensor, config: StyleConfig, generator: Generator
) -> FittedDegradation:
    """Fits to references float32 (R, C, H, W) against clean images (M, C, H, W), both in 0..1.

    `generator` draws the trials. Failures that look like clean images give (nearly) no degradation. Fitted on the CPU
    whatever device the images are on, so that a resumed training, and each process of one, finds the same.
    """
    if config.alpha == 0:
        return FittedDegradation(nothing(references), 0.0)
    device, references, clean = references.device, references.cpu(), clean.cpu()
    clean = clean[torch.randperm(len(clean), generator=generator)[:MAX_CLEAN]]
    return FittedDegradation(estimate(references, clean, generator).to(device), config.alpha)
