"""Block compression: JPEG's transform, quantisation and chroma subsampling (ITU-T T.81), without the coding."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8
# ITU-T T.81, tables K.1 and K.2
LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99,
    99, 99, 99, *(99,) * 32,
)  # fmt: skip
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def block_transform(planes: Tensor) -> Tensor:
    """Cosine transform of 8x8 blocks: (B, C, H, W), sides multiples of 8, to (B, C, H/8, W/8, 8, 8)."""
    batch, channels, height, width = planes.shape
    blocks = planes.reshape(batch, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(-2, -3)
    basis = _basis(planes.device)
    return basis @ blocks @ basis.T


def block_inverse(coefficients: Tensor) -> Tensor:
    """Inverse of `block_transform`."""
    basis = _basis(coefficients.device)
    planes: Tensor = (basis.T @ coefficients @ basis).transpose(-2, -3)
    return planes.flatten(-2).flatten(-3, -2)


def compress(images: Tensor, blocking: Tensor) -> Tensor:
    """float (B, C, H, W) in 0..1, C 1 or 3, after JPEG of quality 100 (1 - blocking), (B,), with 4:2:0 chroma.

    Rounds where a file does: pixels, luminance and chroma are whole numbers of 255.
    """
    height, width = images.shape[2:]
    unit = 2 * BLOCK if images.shape[1] == 3 else BLOCK
    padded = F.pad(images, (0, -width % unit, 0, -height % unit), mode="replicate") * 255
    quality = (100 * (1 - blocking)).clamp(1, 100)
    if images.shape[1] == 1:
        return (_quantise(padded.round() - 128, LUMINANCE, quality) + 128)[..., :height, :width] / 255
    matrix = torch.tensor(TO_YCC, device=images.device)
    ycc = torch.einsum("ij,bjhw->bihw", matrix, padded.round()).round()
    luminance = _quantise(ycc[:, :1] - 128, LUMINANCE, quality) + 128
    chroma = _quantise(F.avg_pool2d(ycc[:, 1:], 2).round(), CHROMINANCE, quality)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear").round()
    decoded = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(matrix), torch.cat([luminance, chroma], 1))
    return decoded[..., :height, :width] / 255


def _quantise(planes: Tensor, table: tuple[int, ...], quality: Tensor) -> Tensor:
    scale = (
        torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100
    )  # as in the Independent JPEG Group's code
    steps = (torch.tensor(table, device=planes.device) * scale[:, None]).round().clamp(1, 255)
    steps = steps.view(-1, 1, 1, 1, BLOCK, BLOCK)
    return block_inverse((block_transform(planes) / steps).round() * steps).round()


def _basis(device: torch.device) -> Tensor:
    """Orthonormal cosine transform, (8, 8)."""
    place = torch.arange(BLOCK, device=device)
    basis = torch.cos(math.pi / BLOCK * (place + 0.5) * place[:, None]) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return basis
