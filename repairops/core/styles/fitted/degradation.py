"""A degradation: one table of its parameters' names, units and ranges, one value of all of them, and what it does.

An image's degradation is a row of numbers, one for each parameter, 0 where a component is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from repairops.core.styles.fitted import components


@dataclass(frozen=True)
class Parameter:
    """low, high: what the estimator expects, and the limits of what is applied. least: weaker is left out as unseen.

    scaled: in pixels of a 32-pixel image; ranges grow with the side of larger ones.
    """

    family: str
    low: float
    high: float
    least: float
    scaled: bool = False


# A streak of length s along the angle phi counter-clockwise from horizontal is the pair (s cos 2 phi, s sin 2 phi):
# this is signed and smooth, so that it can be averaged, and has no jump where phi passes 180 degrees.
PARAMETERS: Mapping[str, Parameter] = {
    "shift": Parameter("brightness", -0.4, 0.4, 0.025),  # of the mean, full scale
    "tint_red": Parameter("tint", -0.25, 0.25, 0.02),  # red against green, full scale
    "tint_blue": Parameter("tint", -0.25, 0.25, 0.02),  # blue against green
    "contrast": Parameter("contrast", -2.3, 0.7, 0.12),  # logarithm of the gain about the mean
    "blur": Parameter("blur", 0.0, 2.5, 0.25, scaled=True),  # standard deviation of the point spread, pixels
    "streak_x": Parameter("streak", -2.5, 2.5, 0.4, scaled=True),  # s cos 2 phi, s in pixels of standard deviation
    "streak_y": Parameter("streak", -2.5, 2.5, 0.4, scaled=True),  # s sin 2 phi
    "coarseness": Parameter("resolution", 0.0, 0.7, 0.06),  # 1 - scale: 0.5 is half the resolution
    "veil": Parameter("veil", 0.0, 0.3, 0.025),  # root mean square of a smooth grey layer, full scale
    "specks": Parameter("specks", 0.0, 0.2, 0.012),  # share of the image that bright specks cover
    "noise": Parameter("noise", 0.0, 0.3, 0.01),  # standard deviation, full scale
    "shot": Parameter("noise", 0.0, 0.3, 0.025),  # standard deviation of signal-dependent noise at full brightness
    "grain": Parameter("grain", 0.0, 0.2, 0.02),  # standard deviation of noise that is correlated over pixels
    "rows": Parameter("stripes", 0.0, 0.2, 0.01),  # standard deviation of one offset for each row
    "columns": Parameter("stripes", 0.0, 0.2, 0.01),  # and for each column
    "impulses": Parameter("impulses", 0.0, 0.2, 0.004),  # share of values replaced by 0 or 1
    "blocking": Parameter("blocking", 0.0, 0.95, 0.12),  # 1 - quality / 100 of JPEG
}
COLOUR_ONLY = ("tint_red", "tint_blue")
MIN_SIDE = {"blocking": 16, "coarseness": 8, "rows": 16, "columns": 16, "grain": 16, "veil": 8, "specks": 8,
            "streak_x": 8, "streak_y": 8}  # fmt: skip


def parameter_names(channels: int, side: int) -> tuple[str, ...]:
    """The parameters that images of so many channels and pixels (the shorter side) can have."""
    return tuple(
        name for name in PARAMETERS if (channels == 3 or name not in COLOUR_ONLY) and side >= MIN_SIDE.get(name, 2)
    )


def limits(names: Iterable[str], side: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of each parameter, both (P,), for images whose shorter side is `side`."""
    bounds = []
    for name in names:
        parameter = PARAMETERS[name]
        factor = max(0.4, side / 32) if parameter.scaled else 1.0
        bounds.append((parameter.low * factor, parameter.high * factor))
    low, high = torch.tensor(bounds, device=device).reshape(-1, 2).unbind(1)
    return low, high


@dataclass(frozen=True, eq=False)
class Degradation:
    """Degradations of N images.

    values: float32 (N, P) in the order of `names`; a name that is missing is 0 everywhere.
    noise_shape: (C, C), factor L of the noise's covariance across the channels L L', with mean variance 1.
    fade: how the light of streaks fades along them, see `components.spread_points`.
    """

    names: tuple[str, ...]
    values: Tensor
    noise_shape: Tensor
    fade: float | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, name: str) -> Tensor:
        """One parameter of all images, (N,)."""
        if name not in self.names:
            return self.values.new_zeros(len(self.values))
        return self.values[:, self.names.index(name)]


def degrade(images: Tensor, degradation: Degradation, generator: Generator) -> Tensor:
    """float32 (N, C, H, W) in 0..1 under N degradations, with fresh randomness; the result is in 0..1 too.

    Contrast and brightness first act on the scene, then veil and specks cover it, the lens blurs and the grid
    coarsens, the sensor adds its noise, and the file its blocks. A component touches only the images that have it.
    """
    g, shape = generator, degradation.noise_shape
    spread = partial(components.spread_points, fade=degradation.fade)
    images = _where(images, degradation, ("contrast",), components.change_contrast)
    images = _where(images, degradation, ("shift", "tint_red", "tint_blue"), components.shift_colours)
    images = _where(images, degradation, ("veil",), partial(components.add_veil, generator=g))
    images = _where(images, degradation, ("specks",), partial(components.add_specks, generator=g))
    images = _where(images, degradation, ("blur", "streak_x", "streak_y"), spread)
    images = _where(images, degradation, ("coarseness",), components.coarsen).clamp(0, 1)
    images = _where(images, degradation, ("noise", "shot"), partial(components.add_noise, shape=shape, generator=g))
    images = _where(images, degradation, ("grain",), partial(components.add_grain, shape=shape, generator=g))
    images = _where(images, degradation, ("rows", "columns"), partial(components.add_stripes, shape=shape, generator=g))
    images = _where(images, degradation, ("impulses",), partial(components.add_impulses, generator=g)).clamp(0, 1)
    return _where(images, degradation, ("blocking",), components.compress).clamp(0, 1)


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
