"""Where images of one look lie together, whatever they show: what their measures have beyond clean images'."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from repairops.core.styles.fitted.estimation import tiles
from repairops.core.styles.fitted.explanations import over_tiles
from repairops.core.styles.fitted.measures import measure
from repairops.model.network import to_unit

CLEAN = 800  # clean images that are measured, at most
CHUNK = 250  # images measured at once
CLIP = 6.0  # standard deviations; rare things such as a single black pixel are far out else
RIDGE = 0.2  # of a measure's variance: clean images hardly vary in some directions, where little says much
NEAR = 0.5  # of the usual length: a shift shorter than this has hardly a direction
AXES = 8  # of the failures' spread


@dataclass(frozen=True, eq=False)
class LookSpace:
    """Maps uint8 images (N, C, H, W) to features float32 (N, AXES at most), about as long as 1 where a look is strong.

    The measures that the fitted degradation is found by (`measure`), against those of clean images and in units in
    which scenes spread alike in all directions. Then the direction: a weak and a strong degradation of one kind move an
    image along one ray.

    centre, scale: (M,), of the measures. white: (M, M). middle: (M,) and axes: (M, A), of the failures' directions.
    """

    centre: Tensor
    scale: Tensor
    white: Tensor
    middle: Tensor
    axes: Tensor

    def __call__(self, images: Tensor) -> np.ndarray:
        return self.features(self.directions(measures_of(images)))

    def features(self, directions: Tensor) -> np.ndarray:
        found: np.ndarray = ((directions - self.middle) @ self.axes).float().numpy()
        return found

    def directions(self, measures: Tensor) -> Tensor:
        """Of measures (N, M): how far they are from clean images' in each direction, in length at most 1."""
        moved = ((measures - self.centre) / self.scale).clamp(-CLIP, CLIP) @ self.white
        directions: Tensor = moved / (moved.norm(dim=1, keepdim=True) + NEAR * moved.shape[1] ** 0.5)
        return directions


def fit_look_space(failures: Tensor, clean: Tensor) -> tuple[LookSpace, np.ndarray]:
    """The space, and the failures' features in it, for which they are measured once.

    failures, clean: uint8 (N, C, H, W), at least one of each; some hundred clean images are plenty.
    """
    seen, sound = measures_of(failures), measures_of(clean[:CLEAN])
    centre = sound.mean(0)
    both = sound.var(0, correction=0) + seen.var(0, correction=0) + (seen.mean(0) - centre).square() / 2
    scale = (both / 2).sqrt().clamp_min(1e-6)
    standard = ((sound - centre) / scale).clamp(-CLIP, CLIP)
    roots, vectors = torch.linalg.eigh(standard.T @ standard / len(standard))
    unsure = RIDGE + len(roots) / len(sound)  # few clean images say little of how scenes spread
    white = vectors / (roots.clamp_min(0) + unsure).sqrt()
    space = LookSpace(centre, scale, white, torch.zeros_like(centre), torch.empty(0))
    directions = space.directions(seen)
    middle = directions.mean(0)
    spread = torch.linalg.eigh((directions - middle).T @ (directions - middle))
    space = LookSpace(centre, scale, white, middle, spread.eigenvectors[:, -AXES:])
    return space, space.features(directions)


def measures_of(images: Tensor) -> Tensor:
    """`measure` of uint8 images (N, C, H, W), the mean over the tiles of large ones; float64 (N, M)."""
    chunks = [over_tiles(measure, tiles(to_unit(chunk.cpu()))) for chunk in torch.split(images, CHUNK)]
    return torch.cat(chunks).double()
