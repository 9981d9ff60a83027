"""Styles: ways to carry the look of failures (references) onto clean train images (content)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from repairops.config import StyleConfig
from repairops.core.styles.auto import choose
from repairops.core.styles.base import Style, Witness
from repairops.core.styles.fitted import fit_each_look, fit_fitted_degradation
from repairops.core.styles.one_reference import fit_fourier_amplitude, fit_radial_spectrum, fit_subband_wct
from repairops.core.styles.wct2 import check_wct2, fit_wct2
from repairops.errors import InvalidOption, StyleNotFittable, one_of

__all__ = ["AUTO", "CANDIDATES", "STYLES", "Style", "StyleFactory", "Witness", "check_style", "fit_style"]

AUTO = "auto"  # not a style: a mix of them, chosen for each cluster by the champion's answers

StyleFactory = Callable[[Tensor, Tensor, StyleConfig, Generator], Style]

STYLES: dict[str, StyleFactory] = {
    "fitted_degradation": fit_fitted_degradation,
    "subband_wct": fit_subband_wct,
    "wct2": fit_wct2,
    "fourier_amplitude": fit_fourier_amplitude,
    "radial_spectrum": fit_radial_spectrum,
}
# Of `auto`; wct2 where it has weights. A style that is registered is none by that.
CANDIDATES = ("fitted_degradation", "subband_wct", "wct2", "fourier_amplitude", "radial_spectrum")


def check_style(config: StyleConfig) -> None:
    """Raises InvalidOption for an unknown style or site of wct2, StyleWeightsMissing for wct2 without weights."""
    _check_name(config.name)
    if config.name == "wct2":
        check_wct2(config)


def _check_name(name: str) -> None:
    if name not in STYLES and name != AUTO:
        raise InvalidOption("style.name", name, one_of(name, [*STYLES, AUTO]))


def fit_style(
    name: str,
    references: Tensor,
    clean: Tensor,
    config: StyleConfig,
    generator: Generator,
    witness: Witness | None = None,
    looks: Tensor | None = None,
) -> Style:
    """Fits the style `name`, or the mix `auto`, to the repair failures.

    references: float32 (R, C, H, W) in 0..1, the repair failures. clean: float32 (M, C, H, W) in 0..1, a sample of
    train images (2,000 are plenty). generator: on the CPU. witness: only for `auto`, which needs it. looks: int64 (R,)
    on the CPU, the look of each reference, 0 and up; the fitted degradation is fitted to each. Raises
    InvalidOption for an unknown name, StyleNotFittable for sets that cannot be fitted to, StyleWeightsMissing (wct2).
    """
    _check_name(name)
    for role, images in (("references", references), ("clean images", clean)):
        if images.ndim != 4 or images.numel() == 0:
            raise StyleNotFittable(role, f"their shape is {tuple(images.shape)}", "Give at least one image of each")
        if not images.isfinite().all():
            raise StyleNotFittable(role, "some values are NaN or infinite", "Check how the images were decoded")
    if references.shape[1:] != clean.shape[1:]:
        shapes = f"{tuple(references.shape[1:])} against {tuple(clean.shape[1:])} of the clean images"
        raise StyleNotFittable("references", f"their size is {shapes}", "Resize both to the model's input")
    with torch.no_grad(), torch.autocast(references.device.type, enabled=False):
        references, clean = references.float(), clean.float()

        def fitted(style: str) -> Style:
            if style == "fitted_degradation" and looks is not None and looks.any():
                return fit_each_look(references, clean, looks, config, generator)
            return STYLES[style](references, clean, config, generator)

        if name != AUTO:
            return fitted(name)
        if witness is None:
            raise StyleNotFittable("references", "auto compares styles by a champion and there is none", "Name a style")
        names = [other for other in CANDIDATES if other != "wct2" or config.weights]
        return choose({other: fitted(other) for other in names}, references, clean, witness, generator)
