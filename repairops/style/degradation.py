"""What can be measured of a degradation in images alone: noise, stripes, radial power, mean colour.

Every measure is made the same way on failures and on clean images, so that their difference is the degradation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from repairops.style.haar import analyse

FLAT_SHARE = 0.15  # of the patches of an image; noise is measured in the flattest
TRIAL_SIGMAS = (0.0, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.14, 0.2, 0.3, 0.5)  # of full scale
WHITE, ROWS, COLUMNS = range(3)  # order of the noise components


@dataclass(frozen=True, eq=False)
class Measures:
    """Of N images or groups: noise (N, 3, C, C), power (N, K) in K rings, mean (N, C).

    noise: covariance across the channels of pixel noise, of one offset for each row, and for each column; in
    squared units of full scale. power: mean over channels and ring of |FFT|^2 under a Hann window, scaled so that
    white noise of variance v has power v in every ring. Without the window the jump from one border to the
    opposite one hides a blur.
    """

    noise: Tensor
    power: Tensor
    mean: Tensor

    def pooled(self, groups: Tensor) -> Measures:
        """Mean over each group; groups (G, size) int64."""
        fields = (self.noise, self.power, self.mean)
        return Measures(*(x[groups].mean(1) for x in fields))


def measure(images: Tensor, rings: int) -> Measures:
    """Measures of each image of float32 (N, C, H, W) in 0..1, `rings` to the sampling frequency."""
    bins = radial_bins(images.shape[2], images.shape[3], rings, images.device)
    rows, columns = (hann(side, images.device) for side in images.shape[2:])
    window = rows[:, None] * columns
    parts = []
    for chunk in torch.split(images, max(1, 2**20 // images[0].numel())):
        white = flat_patch_noise(chunk)
        stripes = [stripe_noise(chunk.mean(dim)) for dim in (3, 2)]
        centred = chunk - (chunk * window).sum((2, 3), keepdim=True) / window.sum()
        spectrum = torch.fft.rfft2(centred * window)
        power = (spectrum.real.square() + spectrum.imag.square()).mean(1) / window.square().sum()
        for stripe, length in zip(stripes, (chunk.shape[3], chunk.shape[2]), strict=True):
            stripe -= white / length  # what pixel noise leaves in a mean over `length` pixels
        parts.append((torch.stack([white, *stripes], 1), radial_mean(power, bins), chunk.mean((2, 3))))
    return Measures(*(torch.cat(column) for column in zip(*parts, strict=True)))


def radial_bins(height: int, width: int, rings: int, device: torch.device) -> Tensor:
    """Ring of each rfft2 coefficient, int64 (H, W // 2 + 1): round(rings * frequency in cycles per pixel)."""
    vertical = torch.fft.fftfreq(height, device=device)[:, None]
    horizontal = torch.fft.rfftfreq(width, device=device)[None]
    frequency: Tensor = (vertical.square() + horizontal.square()).sqrt()
    return (rings * frequency).round().long()


def radial_mean(values: Tensor, bins: Tensor) -> Tensor:
    """Mean over each ring: (..., H, W // 2 + 1) to (..., max bin + 1); a ring without coefficients is 0."""
    flat = bins.flatten()
    count = torch.bincount(flat).clamp_min(1)
    sums = values.new_zeros(*values.shape[:-2], len(count)).index_add_(-1, flat, values.flatten(-2))
    return sums / count


def flat_patch_noise(images: Tensor) -> Tensor:
    """Covariance (N, C, C) of Haar HH in the flattest patches of float32 (N, C, H, W): pixel noise as it is seen.

    Flatness is judged in the other bands, which are independent of HH for white noise: choosing by HH itself would
    keep the patches whose noise happens to be small. What clipping and texture do to it is left to
    `noise_response`. Sides below 4 pixels give 0.
    """
    n, channels, height, width = images.shape
    if min(height, width) < 4:
        return images.new_zeros(n, channels, channels)
    bands = analyse(images[..., : height // 2 * 2, : width // 2 * 2])
    size = 4 if min(height, width) >= 16 else 1  # in HH coefficients, i.e. 8 or 2 pixels
    step = max(size // 2, 1)

    def local(x: Tensor) -> Tensor:
        pooled: Tensor = F.avg_pool2d(x, size, step)
        return pooled.flatten(2)

    detail = bands.LL.square() + bands.LH.square() + bands.HL.square()
    unevenness = (local(detail) - local(bands.LL).square()).sum(1)
    products = local((bands.HH[:, :, None] * bands.HH[:, None]).flatten(1, 2))
    count = max(1, math.ceil(FLAT_SHARE * unevenness.shape[1]))
    chosen = unevenness.topk(count, largest=False).indices
    noise = products.gather(2, chosen[:, None].expand(-1, channels**2, -1)).mean(2)
    return noise.view(n, channels, channels)


def stripe_noise(profile: Tensor) -> Tensor:
    """Covariance (N, C, C) of line-to-line offsets in a profile of line means (N, C, L), at its flattest half.

    Measured in differences within pairs of lines, chosen by the differences between neighbouring pairs' sums.
    """
    n, channels, lines = profile.shape
    if lines < 4:
        return profile.new_zeros(n, channels, channels)
    first, second = profile[..., : lines // 2 * 2 : 2], profile[..., 1 : lines // 2 * 2 : 2]
    difference, total = (first - second) / math.sqrt(2), first + second
    around = F.pad(total, (1, 1), mode="replicate")
    slope = (around[..., 2:] - around[..., :-2]).square().sum(1)
    chosen = slope.topk(max(1, slope.shape[1] // 2), largest=False).indices
    picked = difference.gather(2, chosen[:, None].expand(-1, channels, -1))
    return picked @ picked.transpose(1, 2) / picked.shape[2]


def stripe_power(height: int, width: int, rings: int, device: torch.device) -> Tensor:
    """Power in each ring (2, K) of row offsets, and of column offsets, of variance 1."""
    bins = radial_bins(height, width, rings, device)
    rows, columns = hann(height, device), hann(width, device)
    share = torch.zeros(2, *bins.shape, device=device)
    share[0] = torch.fft.rfft(columns).abs().square() / columns.square().sum()
    share[1] = (torch.fft.fft(rows).abs().square() / rows.square().sum())[:, None]
    return radial_mean(share, bins)


def hann(side: int, device: torch.device) -> Tensor:
    """Hann window (side,) without its two zeros."""
    return torch.hann_window(side + 2, periodic=False, device=device)[1:-1]


def low_band(power: Tensor, low: int) -> Tensor:
    """Mean power (N, 1) of the rings 1 to `low` of (N, K); ring 0 holds what is left of the image's own mean."""
    return power[:, min(1, power.shape[1] - 1) : low + 1].mean(1, keepdim=True)


def merge_low(power: Tensor, low: int) -> Tensor:
    """Power (N, K) with the low band's mean in the rings 0 to `low`."""
    return torch.cat([low_band(power, low).expand(-1, min(low + 1, power.shape[1])), power[:, low + 1 :]], 1)


def alike(measures: Measures, size: int, low: int) -> Tensor:
    """For each image the `size` nearest of all, itself among them, int64 (N, size): noise, bands, mean colour.

    low: last ring of the low band.
    """
    traces = mean_variance(measures.noise)
    high = min(2 * low, measures.power.shape[1] - 1)
    powers = torch.cat([low_band(measures.power, low), measures.power[:, high:].mean(1, keepdim=True)], 1)
    levels = torch.log(torch.cat([traces.clamp_min(0), powers], 1) + 1e-5)
    features = torch.cat([levels, measures.mean], 1)
    features = (features - features.mean(0)) / features.std(0, correction=0).clamp_min(1e-6)
    nearest = [torch.cdist(part, features).topk(size, largest=False).indices for part in torch.split(features, 1024)]
    return torch.cat(nearest)


@dataclass(frozen=True, eq=False)
class NoiseResponse:
    """What added pixel noise changes in the measures of clean images, for L variances in ascending order.

    variance: (L,), added before clipping to 0..1. seen: (L,), rise of the mean of `Measures.noise`. power: (L, K),
    rise of the power in each ring. All start with 0.
    """

    variance: Tensor
    seen: Tensor
    power: Tensor

    def added(self, seen: Tensor) -> Tensor:
        """The variance that was added where `seen` is measured, any shape; negative values stay as they are."""
        place, share = self._place(seen, self.seen)
        return torch.where(seen > 0, torch.lerp(self.variance[place], self.variance[place + 1], share), seen)

    def ring_power(self, variance: Tensor) -> Tensor:
        """Power (..., K) that noise of `variance` (...) adds to each ring."""
        place, share = self._place(variance, self.variance)
        return torch.lerp(self.power[place], self.power[place + 1], share[..., None])

    def _place(self, values: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        place = (torch.searchsorted(grid, values.contiguous(), right=True) - 1).clamp(0, len(grid) - 2)
        step = (grid[place + 1] - grid[place]).clamp_min(1e-12)
        return place, ((values - grid[place]) / step).clamp(0, 1)


def noise_response(clean: Tensor, rings: int, generator: Generator) -> NoiseResponse:
    """Measures noise of known variance on some of the clean images (M, C, H, W).

    A background at 0 or 1 hides half of the noise, texture hides or feigns it: both depend on the images, so they
    are found by trial instead of by formula (indirect inference).
    """
    clean = clean[: max(16, min(256, 2**20 // clean[0].numel()))]
    sigma = torch.tensor(TRIAL_SIGMAS, device=clean.device)
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    trials = [measure((clean + s * noise).clamp_(0, 1), rings) for s in sigma]
    seen = torch.stack([mean_variance(t.noise[:, WHITE]).mean() for t in trials])
    power = torch.stack([t.power.mean(0) for t in trials])
    return NoiseResponse(sigma.square(), (seen - seen[0]).cummax(0).values, power - power[0])


def mean_variance(covariances: Tensor) -> Tensor:
    """Mean variance over the channels: (..., C, C) to (...)."""
    return covariances.diagonal(dim1=-2, dim2=-1).mean(-1)
