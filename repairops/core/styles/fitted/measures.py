"""What can be seen of a degradation in one image: numbers that noise, blur, veils, blocks and the like move.

None of them estimates a parameter by itself: each is moved by several components and by the scene. `estimation.py`
finds out by trial what they say together.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from repairops.core.styles.fitted.components import BLOCK, block_transform, frequencies
from repairops.core.styles.haar import analyse

QUANTISATION = (1 / 255) ** 2 / 12  # variance of rounding to 8 bits: power below it says nothing
FLAT_SHARE = 0.15  # of the patches of an image; noise is measured in the flattest
RINGS, SECTORS = 7, 4  # of the spectrum
LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
PEAKS = (0.06, 0.15, 0.35)  # of full scale above or below all neighbours
CHUNK = 2**20  # values at once


def measure(images: Tensor) -> Tensor:
    """Measures of each image of float32 (N, C, H, W) in 0..1, as (N, M); M depends on C and the size alone."""
    chunks = torch.split(images, max(1, CHUNK // images[0].numel()))
    return torch.cat([_measure(chunk) for chunk in chunks])


def _measure(images: Tensor) -> Tensor:
    grey = images.mean(1)
    parts = [colours(images, grey), spectrum(grey, RINGS, SECTORS)]
    if images.shape[1] == 3:
        chroma = (images - grey[:, None])[:, ::2]
        parts += [spectrum(chroma.flatten(0, 1), RINGS, 1).view(len(images), 2, -1).mean(1)]
    if min(images.shape[2:]) >= 4:
        parts += [flat_noise(images), noise_by_brightness(images), peaks(images), repeats(images), stripes(images)]
        parts += [specks(grey)]
    if min(images.shape[2:]) >= 2 * BLOCK:
        parts += [blocks(grey)]
    return torch.cat(parts, 1)


def colours(images: Tensor, grey: Tensor) -> Tensor:
    """Means, quantiles, spread, saturation, and the shares of black and white."""
    ordered = grey.flatten(1).sort(1).values
    places = [round(level * (ordered.shape[1] - 1)) for level in LEVELS]
    darkest = local_least(images.amin(1), 3)
    spread = images.var((2, 3), correction=0) if images[0, 0].numel() > 1 else torch.zeros_like(images[:, :, 0, 0])
    coarse = F.adaptive_avg_pool2d(images, 4)
    coarse_grey = coarse.mean(1, keepdim=True)
    return torch.cat(
        [
            images.mean((2, 3)),
            ordered[:, places],
            _log(spread),
            _log(coarse_grey.var((1, 2, 3), correction=0))[:, None],
            _log((coarse - coarse_grey).square().mean((1, 2, 3)))[:, None],
            darkest.mean((1, 2))[:, None],
            (images.amax(1) - images.amin(1)).mean((1, 2))[:, None],
            _log((images < 1.5 / 255).float().mean((1, 2, 3)), 1e-3)[:, None],
            _log((images > 253.5 / 255).float().mean((1, 2, 3)), 1e-3)[:, None],
        ],
        1,
    )


def spectrum(planes: Tensor, rings: int, sectors: int) -> Tensor:
    """Logarithm of the power (N, rings * sectors) of planes (N, H, W), in rings of equal ratio and in directions.

    Under a Hann window, without which the jump from one border to the opposite one hides a blur; white noise of
    variance v has power v everywhere.
    """
    height, width = planes.shape[1:]
    window = hann(height, planes.device)[:, None] * hann(width, planes.device)
    centred = planes - (planes * window).sum((1, 2), keepdim=True) / window.sum()
    transform = torch.fft.rfft2(centred * window)
    power = (transform.real.square() + transform.imag.square()) / window.square().sum()
    vertical, horizontal = frequencies(height, width, planes.device)
    radius = torch.hypot(vertical, horizontal)
    lowest = 1.5 / max(height, width, 4)
    ring = (rings * (radius / lowest).clamp_min(1e-9).log() / math.log(0.6 / lowest)).clamp(0, rings - 1).long()
    angle = torch.atan2(vertical, horizontal.expand_as(radius)) % torch.pi
    sector = (angle / torch.pi * sectors).round().long() % sectors
    index = (ring * sectors + sector).flatten()[1:]  # the mean is left out
    sums = sums_by_index(power.flatten(1)[:, 1:], index, rings * sectors)
    return _log(sums / torch.bincount(index, minlength=rings * sectors).clamp_min(1))


def flat_noise(images: Tensor) -> Tensor:
    """Noise in the flattest patches at two scales, and what its channels share."""
    parts = []
    for _ in range(2 if min(images.shape[2:]) >= 8 else 1):
        covariance = flat_patch_covariance(images)
        variance = covariance.diagonal(dim1=1, dim2=2).mean(1)
        parts.append(_log(variance)[:, None])
        if images.shape[1] == 3:
            shared = covariance.mean((1, 2)) / (variance + QUANTISATION)
            parts.append(shared[:, None])
        images = analyse(images[..., : images.shape[2] // 2 * 2, : images.shape[3] // 2 * 2]).LL / 2
    return torch.cat(parts, 1)


def flat_patch_covariance(images: Tensor) -> Tensor:
    """Covariance (N, C, C) of Haar HH in the flattest patches of float32 (N, C, H, W): pixel noise as it is seen.

    Flatness is judged in the other bands, which are independent of HH for white noise: choosing by HH itself would
    keep the patches whose noise happens to be small. Sides below 4 pixels give 0.
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


def noise_by_brightness(images: Tensor) -> Tensor:
    """Low quartile of |Haar HH| in the darker and the brighter thirds of the image, and their brightness."""
    bands = analyse(images[..., : images.shape[2] // 2 * 2, : images.shape[3] // 2 * 2])
    brightness, order = (bands.LL.mean(1).flatten(1) / 2).sort(1)
    detail = bands.HH.square().mean(1).flatten(1).gather(1, order)
    thirds = torch.tensor_split(detail, 3, 1), torch.tensor_split(brightness, 3, 1)
    quartiles = [_log(part.sort(1).values[:, : max(1, part.shape[1] // 3)].mean(1)) for part in thirds[0]]
    return torch.stack([*quartiles, *(part.mean(1) for part in thirds[1])], 1)


def peaks(images: Tensor) -> Tensor:
    """Shares of values that stand out above or below their four neighbours by PEAKS."""
    padded = F.pad(images, (1,) * 4, mode="replicate")
    around = (padded[..., 1:-1, 2:], padded[..., 1:-1, :-2], padded[..., 2:, 1:-1], padded[..., :-2, 1:-1])
    above = images - torch.stack(around).amax(0)
    below = torch.stack(around).amin(0) - images
    shares = [(x > t).float().mean((1, 2, 3)) for x in (above, below) for t in PEAKS]
    return _log(torch.stack(shares, 1), 3e-4)


def repeats(images: Tensor) -> Tensor:
    """Shares of neighbouring pixels that are equal, along rows and columns."""
    shares = [(images.diff(dim=dim).abs().amax(1) < 0.5 / 255).float().mean((1, 2)) for dim in (2, 3)]
    return _log(torch.stack(shares, 1), 3e-3)


def stripes(images: Tensor) -> Tensor:
    """Offsets of whole rows, and of whole columns, as the logarithm of their variance."""
    return torch.stack([_log(line_variance(images.mean(dim))) for dim in (3, 2)], 1)


def line_variance(profile: Tensor) -> Tensor:
    """Variance (N,) of line-to-line offsets in a profile of line means (N, C, L), at its flattest half.

    Measured in differences within pairs of lines, chosen by the differences between neighbouring pairs' sums.
    """
    lines = profile.shape[2] // 2 * 2
    first, second = profile[..., :lines:2], profile[..., 1:lines:2]
    difference, total = (first - second).square().mean(1) / 2, first + second
    around = F.pad(total, (1, 1), mode="replicate")
    slope = (around[..., 2:] - around[..., :-2]).square().sum(1)
    chosen = slope.topk(max(1, slope.shape[1] // 2), largest=False).indices
    return difference.gather(1, chosen).mean(1)


def specks(grey: Tensor) -> Tensor:
    """Bright, and dark, detail narrower than 3 and 5 pixels: white and black top-hats of (N, H, W)."""
    found = []
    for size in (3, 5):
        for image in (grey, -grey):
            opened = -local_least(-local_least(image, size), size)
            hat = image - opened
            found += [_log(hat.mean((1, 2)), 1e-3), _log((hat > 0.2).float().mean((1, 2)), 1e-3)]
    return torch.stack(found, 1)


def local_least(planes: Tensor, size: int) -> Tensor:
    """Least value of (N, H, W) in a square window of odd `size` around each pixel."""
    reach = size // 2
    for dim in (1, 2):
        padding = (0, 0, reach, reach) if dim == 1 else (reach, reach)
        padded = F.pad(planes, padding, value=float("inf"))
        least = padded.narrow(dim, 0, planes.shape[dim])
        for offset in range(1, size):
            least = torch.minimum(least, padded.narrow(dim, offset, planes.shape[dim]))
        planes = least
    return planes


def blocks(grey: Tensor) -> Tensor:
    """Traces of 8x8 blocks in (N, H, W): steps at their borders, and coefficients that are 0 on their grid alone."""
    found = []
    for dim in (1, 2):
        steps = grey.diff(dim=dim).abs().mean(3 - dim)
        border = torch.arange(steps.shape[1], device=grey.device) % BLOCK == BLOCK - 1
        found.append(_log(steps[:, border].mean(1), 1e-3) - _log(steps[:, ~border].mean(1), 1e-3))
    height, width = (side // BLOCK * BLOCK for side in grey.shape[1:])
    place = torch.arange(BLOCK, device=grey.device)
    band = ((place[:, None] + place).clamp_min(1) - 1) // 4  # 0 to 3
    for start in (0, BLOCK // 2):
        stop = -(BLOCK - start) if start else None
        planes = grey[:, None, :height, :width][..., start:stop, start:stop]
        size = block_transform(planes).abs().flatten(1, 3)
        small = (size < 1 / 255).float().mean(1)
        found += [_log(small[:, band == k].mean(1), 1e-2) for k in range(4)]
    return torch.stack(found, 1)


def sums_by_index(values: Tensor, index: Tensor, count: int) -> Tensor:
    """Of (..., K), what belongs together by index int64 (K,): (..., count).

    The same sums each time: a GPU's index_add_ takes its addends in no fixed order.
    """
    if values.device.type == "cpu":
        return values.new_zeros(*values.shape[:-1], count).index_add_(-1, index, values)
    return values @ F.one_hot(index, count).to(values)


def hann(side: int, device: torch.device) -> Tensor:
    """Hann window (side,) without its two zeros."""
    return torch.hann_window(side + 2, periodic=False, device=device)[1:-1]


def _log(values: Tensor, least: float = QUANTISATION) -> Tensor:
    return torch.log(values.clamp_min(0) + least)
