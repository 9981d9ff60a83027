"""Two-dimensional Haar analysis and synthesis, batched, with the filters of pywavelets.

Sign convention of WCT2 (Yoo et al. 2019, section 3.1): low = [1, 1] / sqrt(2), high = [-1, 1] / sqrt(2), and the
second letter is the horizontal filter. For a 2x2 block [[a, b], [c, d]]:

    LL = (a + b + c + d) / 2        LH = (-a + b - c + d) / 2   (horizontal difference)
    HL = (-a - b + c + d) / 2       HH = (a - b - c + d) / 2

Against `pywt.dwt2(x, 'haar') = cA, (cH, cV, cD)`: LL = cA, LH = -cV, HL = -cH, HH = cD.
The transform is orthonormal: white noise of variance v has variance v in every band.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Bands(NamedTuple):
    """One level of sub-bands, each (B, C, H/2, W/2)."""

    LL: Tensor
    LH: Tensor
    HL: Tensor
    HH: Tensor


@cache
def haar_filters() -> tuple[tuple[float, float], tuple[float, float]]:
    """Haar low-pass and high-pass analysis filters, two taps each."""
    import pywt

    wavelet = pywt.Wavelet("haar")
    low, high = wavelet.dec_lo, wavelet.dec_hi
    return (low[0], low[1]), (high[0], high[1])


def analyse(images: Tensor) -> Bands:
    """float (B, C, H, W) with even H and W to its four sub-bands. Raises ValueError on an odd side."""
    if images.shape[-1] % 2 or images.shape[-2] % 2:
        raise ValueError(f"Haar analysis needs even sides, got {tuple(images.shape[-2:])}; pad with pad_to_multiple")
    low, high = haar_filters()
    left, right = images[..., 0::2], images[..., 1::2]
    smooth, detail = low[0] * left + low[1] * right, high[0] * left + high[1] * right
    bands = [f[0] * x[..., 0::2, :] + f[1] * x[..., 1::2, :] for f in (low, high) for x in (smooth, detail)]
    return Bands(*bands)


def unpool(bands: Bands) -> Bands:
    """Each band upsampled on its own, (B, C, 2h, 2w); their sum is the image ('cat5' unpooling takes them apart)."""
    low, high = haar_filters()
    kernels = [(row, column) for row in (low, high) for column in (low, high)]
    return Bands(*(_spread(band, row, column) for band, (row, column) in zip(bands, kernels, strict=True)))


def synthesise(bands: Bands) -> Tensor:
    """Inverse of `analyse`: four bands (B, C, h, w) to (B, C, 2h, 2w)."""
    low, high = haar_filters()
    smooth = _interleave(low[0] * bands.LL + high[0] * bands.HL, low[1] * bands.LL + high[1] * bands.HL, dim=-2)
    detail = _interleave(low[0] * bands.LH + high[0] * bands.HH, low[1] * bands.LH + high[1] * bands.HH, dim=-2)
    return _interleave(low[0] * smooth + high[0] * detail, low[1] * smooth + high[1] * detail, dim=-1)


def pad_to_multiple(images: Tensor, multiple: int, minimum: int = 1) -> Tensor:
    """Pads (B, C, H, W) below and on the right, so that both sides are multiples and at least `minimum`.

    By reflection where the image is large enough for it, else by repeating the border. Crop back with [..., :H, :W].
    """
    height, width = images.shape[-2:]
    down, right = (max(-(-side // multiple), -(-minimum // multiple)) * multiple - side for side in (height, width))
    if not down and not right:
        return images
    mode = "reflect" if down < height and right < width else "replicate"
    return F.pad(images, (0, right, 0, down), mode=mode)


def _spread(band: Tensor, row: tuple[float, float], column: tuple[float, float]) -> Tensor:
    rows = _interleave(row[0] * band, row[1] * band, dim=-2)
    return _interleave(column[0] * rows, column[1] * rows, dim=-1)


def _interleave(first: Tensor, second: Tensor, dim: int) -> Tensor:
    """first[0], second[0], first[1], second[1], ... along `dim` (-1 or -2)."""
    stacked = torch.stack((first, second), dim=first.ndim + dim + 1)
    return stacked.flatten(first.ndim + dim, first.ndim + dim + 1)
