"""Styles that exchange spectra or high bands with one reference; none needs a network or draws anything.

`fourier_amplitude`: the reference's amplitude and the content's phase (Yang & Soatto 2020, FDA, eq. 5; there only
the lowest frequencies, here all, because noise and blur live in the high ones). `radial_spectrum`: only the radial
profile of the amplitude, and the mean colour. `high_band_swap`: sub-band WCT of the low band, and high bands that
mix the content's with the reference's own, so that noise on flat areas comes along.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from repairops.config import StyleConfig
from repairops.core.styles.haar import Bands, analyse, pad_to_multiple, synthesise
from repairops.core.styles.spectrum import radial_bins, radial_mean
from repairops.core.styles.subband import FLOOR, band_statistics
from repairops.core.styles.whitening import matrix_power

Exchange = Callable[[Tensor, Tensor, float], Tensor]  # content, references (both (B, C, H, W)), alpha


@dataclass(frozen=True, eq=False)
class Exchanged:
    """A style that needs nothing but the reference image itself: references float32 (R, C, H, W)."""

    references: Tensor
    exchange: Exchange
    alpha: float

    def apply(self, content: Tensor, reference: Tensor, generator: Generator) -> Tensor:
        """See `Style`; draws nothing. References of another size are resized to the content's."""
        if self.alpha == 0:
            return content.clone()
        images = self.references[reference.to(self.references.device)].to(content.device)
        with torch.no_grad(), torch.autocast(content.device.type, enabled=False):
            if images.shape[2:] != content.shape[2:]:
                images = F.interpolate(images, content.shape[2:], mode="bilinear", antialias=True)
            return self.exchange(content, images, self.alpha).clamp_(0, 1)


def fit_fourier_amplitude(references: Tensor, clean: Tensor, config: StyleConfig, generator: Generator) -> Exchanged:
    return Exchanged(references, exchange_amplitude, config.alpha)


def fit_radial_spectrum(references: Tensor, clean: Tensor, config: StyleConfig, generator: Generator) -> Exchanged:
    return Exchanged(references, exchange_radial_profile, config.alpha)


def fit_high_band_swap(references: Tensor, clean: Tensor, config: StyleConfig, generator: Generator) -> Exchanged:
    return Exchanged(references, exchange_high_bands, config.alpha)


def exchange_amplitude(content: Tensor, references: Tensor, alpha: float) -> Tensor:
    """Amplitude (1 - alpha) |content| + alpha |reference|, phase of the content."""
    spectrum = torch.fft.rfft2(content)
    amplitude = torch.lerp(spectrum.abs(), torch.fft.rfft2(references).abs(), alpha)
    restyled: Tensor = torch.fft.irfft2(torch.polar(amplitude, spectrum.angle()), s=content.shape[-2:])
    return restyled


def exchange_radial_profile(content: Tensor, references: Tensor, alpha: float) -> Tensor:
    """Each ring of the content's spectrum scaled to the reference's mean amplitude there (at most 8 times)."""
    height, width = content.shape[-2:]
    bins = radial_bins(height, width, min(height, width), content.device)
    mean, wanted = content.mean((2, 3), keepdim=True), references.mean((2, 3), keepdim=True)
    spectrum = torch.fft.rfft2(content - mean)
    rings = radial_mean(torch.fft.rfft2(references - wanted).abs(), bins)
    gain = (rings / radial_mean(spectrum.abs(), bins).clamp_min(1e-4)).clamp_max(8)
    scaled: Tensor = torch.fft.irfft2(spectrum * (1 + alpha * (gain - 1))[..., bins], s=(height, width))
    return scaled + torch.lerp(mean, wanted, alpha)


def exchange_high_bands(content: Tensor, references: Tensor, alpha: float) -> Tensor:
    """One Haar level: every band coloured as the reference's, details mixed with the reference's own.

    The sum of both details is scaled to the reference's variance in each channel: by sqrt(1/2) where they are
    unrelated, by 1/2 where they are the same, so that the content in its own style is unchanged.
    """
    height, width = content.shape[-2:]
    own, other = (list(analyse(pad_to_multiple(images, 2))) for images in (content, references))
    own_means, own_covariances = band_statistics(own)
    means, covariances = band_statistics(other)
    transfer = matrix_power(covariances, 0.5, FLOOR) @ matrix_power(own_covariances, -0.5, FLOOR)
    moved = [
        (transfer[:, k] @ (band.flatten(2) - own_means[:, k, :, None]) + means[:, k, :, None]).view_as(band)
        for k, band in enumerate(own)
    ]
    mixed = [moved[0], *(_with_variance(a + b, b) for a, b in zip(moved[1:], other[1:], strict=True))]
    return torch.lerp(content, synthesise(Bands(*mixed))[..., :height, :width], alpha)


def _with_variance(details: Tensor, model: Tensor) -> Tensor:
    """Details (B, C, h, w) scaled to the variance of `model` in each channel, at most to twice their own size."""
    own, wanted = (x.var((2, 3), correction=0, keepdim=True) for x in (details, model))
    scaled: Tensor = details * (wanted / own.clamp_min(1e-12)).sqrt().clamp_max(2)
    return scaled
