"""Digital: images float (N, C, H, W) in 0..1 to the same."""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from repairops.bench.corruptions.blur import along_axes, box_matrix, gaussian_blur
from repairops.bench.corruptions.noise import uniform

CONTRAST = (0.75, 0.5, 0.4, 0.3, 0.15)  # of the difference to each channel's mean
# in shares of the shorter side: amplitude and sigma of the displacements, reach of the affine map's points
ELASTIC = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
PIXELATE = (0.95, 0.9, 0.85, 0.75, 0.65)  # size in between
JPEG = (80, 65, 58, 50, 40)  # quality


def contrast(images: Tensor, severity: int, generator: Generator) -> Tensor:
    means = images.mean((2, 3), keepdim=True)
    return means + CONTRAST[severity - 1] * (images - means)


def elastic_transform(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """A random affine map, then smooth random displacements, each with linear interpolation.

    Differs: positions are not rounded to 1/32 of a pixel, as OpenCV does for the affine map.
    """
    count, _, height, width = images.shape
    side, device = min(height, width), images.device
    amplitude, sigma, reach = (share * side for share in ELASTIC[severity - 1])
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    inverse = _affine_back(count, height, width, reach, generator, device)
    here = torch.stack((columns, rows, torch.ones_like(rows)), -1).float().flatten(0, 1)  # (H * W, 3) as x, y, 1
    there = (here @ inverse).view(count, height, width, 2)
    images = sample(images, there, mirrored_about_pixels=True)
    if amplitude == 0:
        return images
    moves = uniform((2, count, height, width), -1, 1, generator, device)
    moves = amplitude * gaussian_blur(moves, sigma, mode="reflect", truncate=3.0)
    return sample(images, torch.stack((columns + moves[0], rows + moves[1]), -1), mirrored_about_pixels=False)


def _affine_back(
    count: int, height: int, width: int, reach: float, generator: Generator, device: torch.device
) -> Tensor:
    """Where each pixel of the result comes from: (N, 3, 2), which (x, y, 1) is multiplied by.

    Three points of a square in the middle are moved by up to `reach` pixels each way.
    """
    centre, side = torch.tensor([float(height // 2), float(width // 2)]), float(min(height, width) // 3)
    corners = torch.stack((centre + side, centre + torch.tensor([side, -side]), centre - side)).to(device)
    moved = corners + uniform((count, 3, 2), -reach, reach, generator, device)
    homogeneous = torch.cat((moved, torch.ones(count, 3, 1, device=device)), 2)
    inverse: Tensor = torch.linalg.solve(homogeneous, corners.expand(count, 3, 2))
    return inverse


def sample(images: Tensor, positions: Tensor, *, mirrored_about_pixels: bool) -> Tensor:
    """Linear interpolation at positions (N, H, W, 2) as (x, y) in pixels, 0 = the first pixel's centre.

    Outside, the image is mirrored about the centres of its edge pixels (OpenCV's REFLECT_101), or about the edges
    themselves (SciPy's 'reflect').
    """
    height, width = images.shape[2:]
    size = torch.tensor([width, height], device=images.device)
    grid = 2 * (positions / (size - 1) if mirrored_about_pixels else (positions + 0.5) / size) - 1
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=mirrored_about_pixels)


def pixelate(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Reduced and enlarged again with Pillow's BOX filter, which rounds to 8 bits after each direction."""
    height, width = images.shape[2:]
    sides = [(size, max(1, int(size * PIXELATE[severity - 1]))) for size in (height, width)]
    rows, columns = (box_matrix(size, small).to(images.device) for size, small in sides)
    rows_back, columns_back = (box_matrix(small, size).to(images.device) for size, small in sides)
    narrow = _to_8_bits(images @ columns.T)
    small = _to_8_bits(rows @ narrow)
    return along_axes(small, rows_back, columns_back)


def jpeg_compression(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Through Pillow, as published; on the CPU, one image after another."""
    pixels = (_to_8_bits(images) * 255).round().to(torch.uint8).cpu()
    decoded = [_through_jpeg(image, JPEG[severity - 1]) for image in pixels.permute(0, 2, 3, 1).numpy()]
    stacked = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2) if decoded else pixels
    return (stacked.float() / 255).to(images.device).contiguous()


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """uint8 (H, W, C), C = 1 or 3, to the same."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(image.shape)


def _to_8_bits(images: Tensor) -> Tensor:
    return (images * 255 + 0.5).floor() / 255
