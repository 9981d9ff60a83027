"""Fitted degradation: what the field did to the images, estimated from the failures and applied with fresh noise.

The model of one failure is y = m + shift + h * (x - m) + noise, with m the mean of the clean image x and h an
isotropic filter: contrast is its gain at low frequencies, blur its fall towards high ones. Noise has one covariance
across the channels for pixels, one for rows and one for columns. No label and no clean twin of a failure is needed.

Each parameter is estimated for groups of alike failures, as the difference of their measures (degradation.py) from
the clean set's. A group of alike images also shares content (dark, smooth, ...), so the same estimator runs on clean
images with the failures' mean noise, where all groups are known to be alike; what it reports there is taken off
(`shrink_mean`, `deviations`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from repairops.config import StyleConfig
from repairops.style.degradation import (
    COLUMNS,
    ROWS,
    WHITE,
    NoiseResponse,
    alike,
    mean_variance,
    measure,
    merge_low,
    noise_response,
    radial_bins,
    stripe_power,
)
from repairops.style.whitening import safe_eigh

MAX_RINGS = 64
MAX_CLEAN = 2048  # images; more do not sharpen the clean statistics
GAIN_RANGE = (0.02, 1.25)
MEASURABLE = 0.5  # a ring's gain is read where the expected content has this share of the noise's power
QUANTISATION = (1 / 255) ** 2 / 12  # variance of rounding to 8 bits: power below it says nothing


@dataclass(frozen=True, eq=False)
class FittedDegradation:
    """Parameters for R references.

    gain: (R, K), for ring k at frequency k / rings cycles per pixel. shift: (R, C), of the mean colour.
    noise: (R, 3, C, C), factors L with covariance L L' of pixel, row and column noise. alpha: 0 = content
    unchanged, 1 = full strength; gain - 1, shift and noise amplitude scale with it.
    """

    rings: int
    gain: Tensor
    shift: Tensor
    noise: Tensor
    alpha: float = 1.0

    def apply(self, content: Tensor, reference: Tensor, generator: Generator) -> Tensor:
        """See `Style`. The same reference gives fresh noise each time; any image size."""
        if self.alpha == 0:
            return content.clone()
        index = reference.to(self.gain.device)
        gain, shift, noise = (t[index].to(content.device) for t in (self.gain, self.shift, self.noise))
        with torch.no_grad(), torch.autocast(content.device.type, enabled=False):
            mean = content.mean((2, 3), keepdim=True)
            degraded = filter_radially(content - mean, 1 + self.alpha * (gain - 1), self.rings)
            degraded += mean + self.alpha * shift[:, :, None, None]
            add_noise(degraded, self.alpha * noise, generator)
            return degraded.clamp_(0, 1)


def fit_fitted_degradation(
    references: Tensor, clean: Tensor, config: StyleConfig, generator: Generator
) -> FittedDegradation:
    """Fits to references float32 (R, C, H, W) against clean images (M, C, H, W), both in 0..1.

    `generator` draws the clean images on which the estimator is calibrated, and their noise. Failures that look like
    clean images give (nearly) no degradation.
    """
    height, width = references.shape[2:]
    rings = min(height, width, MAX_RINGS)
    low = max(1, round(rings / 8))
    clean = clean[torch.randperm(len(clean), generator=generator)[:MAX_CLEAN].to(clean.device)]
    failed, sound = measure(references, rings), measure(clean, rings)
    size = max(1, min(config.group_size, len(references), len(clean)))
    groups = failed.pooled(alike(failed, size, low))
    own_log_power = torch.log(merge_low(sound.power, low).clamp_min(QUANTISATION)) / 2
    own = (mean_variance(sound.noise), own_log_power, sound.mean)
    errors = [x.var(0, correction=0) / len(references) for x in own]

    response = noise_response(clean, rings, generator)
    rise = shrink_mean(failed.noise.mean(0), sound.noise.mean(0), errors[0])
    typical = unclipped(rise[None], response)
    twins = clean[: len(references)].clone()
    add_noise(twins, _factor(typical).expand(len(twins), -1, -1, -1), generator)
    null = measure(twins.clamp_(0, 1), rings)
    null = null.pooled(alike(null, size, low))

    noise = unclipped(rise + deviations(groups.noise, null.noise), response)
    hidden, null_hidden = (hidden_power(n, response, height, width, rings) for n in (noise, typical))
    read, null_read = (ring_log_gain(m.power, sound.power, h, low) for m, h in ((groups, hidden), (null, null_hidden)))
    log_gain = shrink_mean(read.mean(0), null_read.mean(0), errors[1]) + deviations(read, null_read)
    shift = shrink_mean(groups.mean.mean(0), null.mean.mean(0), errors[2]) + deviations(groups.mean, null.mean)

    gain = torch.minimum(log_gain, log_gain[:, :1]).exp()  # ring 0 has the low band's
    return FittedDegradation(rings, gain.clamp(*GAIN_RANGE), shift, _factor(noise), config.alpha)


def unclipped(excess: Tensor, response: NoiseResponse) -> Tensor:
    """Noise covariances (G, 3, C, C) as measured to those added before clipping; pixel noise alone is rescaled."""
    seen = mean_variance(excess[:, WHITE])
    scale = torch.where(seen > 0, response.added(seen) / seen.clamp_min(1e-12), 1.0)
    return torch.cat([scale[:, None, None, None] * excess[:, :1], excess[:, 1:]], 1)


def hidden_power(noise: Tensor, response: NoiseResponse, height: int, width: int, rings: int) -> Tensor:
    """Power (G, K) that noise of covariances (G, 3, C, C) adds to each ring."""
    variance = mean_variance(noise).clamp_min(0)
    return response.ring_power(variance[:, WHITE]) + variance[:, ROWS:] @ stripe_power(
        height, width, rings, noise.device
    )


def ring_log_gain(power: Tensor, clean_power: Tensor, noise: Tensor, low: int) -> Tensor:
    """Logarithm of each group's gain in each ring, (G, K): noise-free power over the clean set's, square root.

    power: (G, K), as measured. clean_power: (M, K). noise: (G, K) or (1, K), the part of it that is noise. Rings up
    to `low` share one gain; a ring that drowns in noise takes that of the ring before.
    """
    power = merge_low(power - noise, low).clamp_min(QUANTISATION)
    clean = merge_low(clean_power.mean(0, keepdim=True), low).clamp_min(QUANTISATION)
    gain = power / clean
    measurable = gain[:, :1] * clean > MEASURABLE * noise
    for ring in range(low + 1, gain.shape[1]):
        gain[:, ring] = torch.where(measurable[:, ring], gain[:, ring], gain[:, ring - 1])
    return gain.log() / 2


def shrink_mean(mean: Tensor, null: Tensor, error: Tensor) -> Tensor:
    """The failures' mean relative to the clean set's, shrunk by its error (positive-part James-Stein).

    error: variance of a mean over as many clean images as there are failures. Covariances (3, C, C) are judged by
    their traces, with error (3,).
    """
    difference = mean - null
    score = mean_variance(difference) if difference.ndim == 3 else difference
    trust = (1 - error / score.square().clamp_min(1e-12)).clamp_min(0)
    return difference * (trust[:, None, None] if difference.ndim == 3 else trust)


def deviations(values: Tensor, null: Tensor) -> Tensor:
    """Each group's deviation from the mean (G, ...), without the spread that content alone causes.

    null: the same estimates on images of one degradation (G', ...). Deviations are scaled so that the variance left
    is what exceeds the null's by more than two standard errors (constrained empirical Bayes, Ghosh 1992).
    Covariances (G, 3, C, C) are judged by their traces.
    """
    score, null_score = (mean_variance(x) if x.ndim == 4 else x for x in (values, null))
    tolerance = 1 + 2 * math.sqrt(2 / len(values))
    explained = tolerance * null_score.var(0, correction=0) / score.var(0, correction=0).clamp_min(1e-12)
    spread = (1 - explained).clamp_min(0).sqrt()
    return (values - values.mean(0)) * (spread[:, None, None] if values.ndim == 4 else spread)


def _factor(covariances: Tensor) -> Tensor:
    """L with L L' = covariance (R, 3, C, C), negative eigenvalues taken as zero."""
    values, vectors = safe_eigh(covariances.flatten(0, 1))
    return (vectors * values.clamp_min(0).sqrt()[:, None, :]).view_as(covariances)


def add_noise(images: Tensor, factors: Tensor, generator: Generator) -> None:
    """Adds pixel, row and column noise with factors (B, 3, C, C) to (B, C, H, W), in place."""
    batch, channels, height, width = images.shape
    for component, shape in ((WHITE, (height, width)), (ROWS, (height, 1)), (COLUMNS, (1, width))):
        factor = factors[:, component]
        if component == WHITE or factor.any():
            drawn = standard_normal((batch, channels, shape[0] * shape[1]), generator, images.device)
            images += (factor @ drawn).view(batch, channels, *shape)


def standard_normal(shape: tuple[int, ...], generator: Generator, device: torch.device) -> Tensor:
    """Draws on the device itself; off the CPU by a generator that the CPU's seeds (other values, same law)."""
    if device.type != "cpu":
        seed = int(torch.randint(2**62, (), generator=generator))
        generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device)


def filter_radially(images: Tensor, gain: Tensor, rings: int) -> Tensor:
    """Scales each ring of the spectrum of (B, C, H, W) by gain (B, K); borders reflected against wrapping round."""
    height, width = images.shape[2:]
    pad = min(min(height, width) // 8, 8)
    padded = F.pad(images, (pad,) * 4, mode="reflect")
    bins = radial_bins(padded.shape[2], padded.shape[3], rings, images.device).clamp_max(gain.shape[1] - 1)
    spectrum = torch.fft.rfft2(padded) * gain[:, bins][:, None]
    filtered: Tensor = torch.fft.irfft2(spectrum, s=padded.shape[2:])
    return filtered[..., pad : pad + height, pad : pad + width].contiguous()
