"""Styles that take statistics from one reference each; none needs a network or draws anything.

`subband_wct`: WCT2's idea without a network. Every band of a Haar pyramid is whitened and coloured on its own across
the C colour channels. Unlike the '+I' form of the network (whitening.py), which assumes features of large variance, a
small floor is added to the covariances: pixels are in 0..1. `fourier_amplitude`: the reference's amplitude and the
content's phase (Yang & Soatto 2020, FDA, eq. 5; there only the lowest frequencies, here all, because noise and blur
live in the high ones). `radial_spectrum`: only the radial profile of the amplitude, and the mean colour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from repairops.config import StyleConfig
from repairops.core.styles.fitted.components import frequencies
from repairops.core.styles.fitted.measures import sums_by_index
from repairops.core.styles.haar import Bands, analyse, pad_to_multiple, synthesise
from repairops.core.styles.whitening import matrix_power

FLOOR = 1e-4  # variance of 0.01 of full scale: weaker detail is not blown up


@dataclass(frozen=True, eq=False)
class SubbandWct:
    """Band statistics of R references: means (R, K, C) and roots (R, K, C, C) of K = 3 * levels + 1 bands."""

    levels: int
    means: Tensor
    roots: Tensor
    alpha: float

    def apply(self, content: Tensor, reference: Tensor, generator: Generator) -> Tensor:
        """See `Style`; draws nothing."""
        if self.alpha == 0:
            return content.clone()
        index = reference.to(self.means.device)
        means, roots = self.means[index].to(content.device), self.roots[index].to(content.device)
        with torch.no_grad(), torch.autocast(content.device.type, enabled=False):
            pyramid = decompose(pad_to_multiple(content, 2**self.levels), self.levels)
            band_means, covariances = band_statistics(pyramid)
            transfer = roots @ matrix_power(covariances, -0.5, FLOOR)
            moved = [
                (transfer[:, k] @ (band.flatten(2) - band_means[:, k, :, None]) + means[:, k, :, None]).view_as(band)
                for k, band in enumerate(pyramid)
            ]
            styled = recompose(moved)[..., : content.shape[2], : content.shape[3]]
            return torch.lerp(content, styled, self.alpha).clamp_(0, 1)


def fit_subband_wct(references: Tensor, clean: Tensor, config: StyleConfig, generator: Generator) -> SubbandWct:
    """Band statistics of references float32 (R, C, H, W) in 0..1; `config.levels` Haar levels."""
    chunks = torch.split(references, max(1, 2**20 // references[0].numel()))
    parts = [band_statistics(decompose(pad_to_multiple(c, 2**config.levels), config.levels)) for c in chunks]
    covariances = torch.cat([covariance for _, covariance in parts])
    means = torch.cat([mean for mean, _ in parts])
    return SubbandWct(config.levels, means, matrix_power(covariances, 0.5, FLOOR), config.alpha)


def decompose(images: Tensor, levels: int) -> list[Tensor]:
    """The last LL, then LH, HL, HH from the coarsest level to the finest; sides multiples of 2**levels."""
    details: list[Tensor] = []
    for _ in range(levels):
        bands = analyse(images)
        images = bands.LL
        details = [bands.LH, bands.HL, bands.HH, *details]
    return [images, *details]


def recompose(pyramid: list[Tensor]) -> Tensor:
    """Inverse of `decompose`."""
    images = pyramid[0]
    for k in range(1, len(pyramid), 3):
        images = synthesise(Bands(images, *pyramid[k : k + 3]))
    return images


def band_statistics(pyramid: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Means (B, K, C) and covariances (B, K, C, C) of K bands."""
    flat = [band.flatten(2) for band in pyramid]
    means = torch.stack([band.mean(2) for band in flat], 1)
    covariances = []
    for k, band in enumerate(flat):
        centred = band - means[:, k, :, None]
        covariances.append(centred @ centred.transpose(1, 2) / max(band.shape[2] - 1, 1))
    return means, torch.stack(covariances, 1)


@dataclass(frozen=True, eq=False)
class Exchanged:
    """A style that needs nothing but the reference image itself: references float32 (R, C, H, W) in 0..1.

    exchange: content, references (both (B, C, H, W)) and alpha to the restyled content.
    """

    references: Tensor
    exchange: Callable[[Tensor, Tensor, float], Tensor]
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


def exchange_amplitude(content: Tensor, references: Tensor, alpha: float) -> Tensor:
    """Amplitude (1 - alpha) |content| + alpha |reference|, phase of the content."""
    spectrum = torch.fft.rfft2(content)
    amplitude = torch.lerp(spectrum.abs(), torch.fft.rfft2(references).abs(), alpha)
    restyled: Tensor = torch.fft.irfft2(torch.polar(amplitude, spectrum.angle()), s=content.shape[-2:])
    return restyled


def exchange_radial_profile(content: Tensor, references: Tensor, alpha: float) -> Tensor:
    """Each ring of the content's spectrum scaled to the reference's mean amplitude there (at most 8 times)."""
    height, width = content.shape[-2:]
    vertical, horizontal = frequencies(height, width, content.device)
    frequency: Tensor = (vertical.square() + horizontal.square()).sqrt()
    bins = (min(height, width) * frequency).round().long()
    mean, wanted = content.mean((2, 3), keepdim=True), references.mean((2, 3), keepdim=True)
    spectrum = torch.fft.rfft2(content - mean)
    rings = radial_mean(torch.fft.rfft2(references - wanted).abs(), bins)
    gain = (rings / radial_mean(spectrum.abs(), bins).clamp_min(1e-4)).clamp_max(8)
    scaled: Tensor = torch.fft.irfft2(spectrum * (1 + alpha * (gain - 1))[..., bins], s=(height, width))
    return scaled + torch.lerp(mean, wanted, alpha)


def radial_mean(values: Tensor, bins: Tensor) -> Tensor:
    """Mean over each ring: (..., H, W // 2 + 1) to (..., max bin + 1); a ring without coefficients is 0."""
    flat = bins.flatten()
    count = torch.bincount(flat).clamp_min(1)
    return sums_by_index(values.flatten(-2), flat, len(count)) / count
