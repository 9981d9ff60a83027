"""The parameters of a degradation: one table of their names, units and ranges, one value of all of them.

An image's degradation is a row of numbers, one for each parameter, 0 where a component is absent. What the numbers do
to an image is in the module of their family: colour.py, optics.py, weather.py, noise.py, compression.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


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
    fade: how the light of streaks fades along them, see `optics.spread_points`.
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

    @property
    def streak(self) -> tuple[Tensor, Tensor]:
        """Length (N,) in pixels of standard deviation and angle (N,) in radians, 0 to pi, of the directional blur."""
        x, y = self["streak_x"], self["streak_y"]
        return torch.hypot(x, y), torch.atan2(y, x) / 2 % torch.pi
