"""The whole degradation, in the order in which light, sensor and file suffer it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from repairops.core.styles.fitted.colour import change_contrast, shift_colours
from repairops.core.styles.fitted.compression import compress
from repairops.core.styles.fitted.noise import add_grain, add_impulses, add_noise, add_stripes
from repairops.core.styles.fitted.optics import coarsen, spread_points
from repairops.core.styles.fitted.parameters import Degradation
from repairops.core.styles.fitted.weather import add_specks, add_veil


def degrade(images: Tensor, degradation: Degradation, generator: Generator) -> Tensor:
    """float32 (N, C, H, W) in 0..1 under N degradations, with fresh randomness; the result is in 0..1 too.

    Contrast and brightness first act on the scene, then veil and specks cover it, the lens blurs and the grid
    coarsens, the sensor adds its noise, and the file its blocks. A component touches only the images that have it.
    """
    g, shape, fade = generator, degradation.noise_shape, degradation.fade
    images = _where(images, degradation, ("contrast",), change_contrast)
    images = _where(images, degradation, ("shift", "tint_red", "tint_blue"), shift_colours)
    images = _where(images, degradation, ("veil",), lambda x, v: add_veil(x, v, g))
    images = _where(images, degradation, ("specks",), lambda x, c: add_specks(x, c, g))
    images = _where(
        images, degradation, ("blur", "streak_x", "streak_y"), lambda x, b, i, j: spread_points(x, b, i, j, fade)
    )
    images = _where(images, degradation, ("coarseness",), coarsen)
    images = images.clamp(0, 1)
    images = _where(images, degradation, ("noise", "shot"), lambda x, n, s: add_noise(x, n, s, shape, g))
    images = _where(images, degradation, ("grain",), lambda x, n: add_grain(x, n, shape, g))
    images = _where(images, degradation, ("rows", "columns"), lambda x, r, c: add_stripes(x, r, c, shape, g))
    images = _where(images, degradation, ("impulses",), lambda x, r: add_impulses(x, r, g))
    return _where(images.clamp(0, 1), degradation, ("blocking",), compress).clamp(0, 1)


def _where(images: Tensor, degradation: Degradation, names: tuple[str, ...], change: Callable[..., Tensor]) -> Tensor:
    """`change(images, *parameters)` on the images for which one of the parameters is not 0."""
    if not set(names) & set(degradation.names):
        return images  # known without a look at the values, for which a GPU has to be waited for
    parameters = [degradation[name] for name in names]
    touched = torch.stack(parameters).ne(0).any(0)
    count = int(touched.sum())
    if not count:
        return images
    if count == len(images):
        return change(images, *parameters)
    images = images.clone()
    images[touched] = change(images[touched], *(p[touched] for p in parameters))
    return images
