"""What each component of a degradation does to images, float (B, C, H, W) in 0..1; see `degradation.PARAMETERS`.

In the order of light, lens, sensor and file: colours, an affine map about the image's mean; weather, what lies between
the scene and the lens (a smooth veil of fog or glare, bright specks of snow or rain); optics, a point spread, isotropic
and directional, and the grid's resolution; noise; and compression: JPEG's transform, quantisation and chroma
subsampling (ITU-T T.81), without the coding.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from repairops.model.device import device_generator

VEIL_FALL = 2.2  # the veil's amplitude falls with this power of the frequency, between those of CIFAR-10-C's fogs
SPECK_OPACITY = (0.3, 0.9)  # drawn for each image, as is the length
SPECK_LENGTH = (0.3, 4.0)  # pixels of standard deviation, along the fall
SPECK_WIDTH = 0.4
HALF_GAUSSIAN = 0.5
STEPS, MOST_PLACE = 64, 4  # of a trail's table: places for each unit of frequency times standard deviation, and its end
GRAIN_WIDTH = 0.8  # pixels of standard deviation over which grain is correlated
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


def shift_colours(images: Tensor, shift: Tensor, tint_red: Tensor, tint_blue: Tensor) -> Tensor:
    """Adds to float (B, C, H, W): `shift` (B,) to all channels, the tints (B,) to the first and the last of three."""
    offset = shift[:, None].expand(-1, images.shape[1]).clone()
    if images.shape[1] == 3:
        offset += torch.stack([tint_red, torch.zeros_like(shift), tint_blue], 1)
    return images + offset[:, :, None, None]


def change_contrast(images: Tensor, log_gain: Tensor) -> Tensor:
    """Scales (B, C, H, W) about each channel's mean by exp(log_gain), (B,)."""
    mean = images.mean((2, 3), keepdim=True)
    return mean + log_gain.exp()[:, None, None, None] * (images - mean)


def add_veil(images: Tensor, strength: Tensor, generator: Generator) -> Tensor:
    """Adds a smooth random grey layer of mean 0 and root mean square `strength` (B,) to (B, C, H, W)."""
    batch, _, height, width = images.shape
    vertical, horizontal = frequencies(height, width, images.device)
    squared = vertical.square() + horizontal.square()
    amplitude = torch.where(squared > 0, squared.clamp_min(1e-12).pow(-VEIL_FALL / 2), 0.0)
    drawn = torch.fft.rfft2(standard_normal((batch, 1, height, width), generator, images.device))
    layer = torch.fft.irfft2(drawn * amplitude, s=(height, width))
    layer = layer / layer.square().mean((2, 3), keepdim=True).sqrt().clamp_min(1e-9)
    veiled: Tensor = images + strength[:, None, None, None] * layer
    return veiled


def add_specks(images: Tensor, coverage: Tensor, generator: Generator) -> Tensor:
    """Covers a share `coverage` (B,) of (B, C, H, W) by white specks, of one length, angle and opacity each."""
    batch, _, height, width = images.shape
    drawn = torch.rand(3, batch, generator=generator).to(images.device)
    angle = 2 * torch.pi * drawn[0]  # twice the specks' angle
    length, density = (
        low + (high - low) * u for (low, high), u in zip((SPECK_LENGTH, SPECK_OPACITY), drawn[1:], strict=True)
    )
    layer = standard_normal((batch, 1, height, width), generator, images.device)
    layer = spread_points(layer, torch.full_like(length, SPECK_WIDTH), length * angle.cos(), length * angle.sin())[:, 0]
    ranked = layer.flatten(1).sort(1, descending=True).values
    place = (coverage * height * width).long().clamp(0, height * width - 1)
    threshold = ranked.gather(1, place[:, None])[:, :, None]
    softness = layer.std((1, 2), keepdim=True).clamp_min(1e-9)
    opacity = density[:, None, None] * ((layer - threshold) / softness + 0.5).clamp(0, 1)
    covered: Tensor = images + opacity[:, None] * (1 - images).clamp_min(0)
    return covered


def spread_points(
    images: Tensor, blur: Tensor, streak_x: Tensor, streak_y: Tensor, fade: float | None = None
) -> Tensor:
    """Blurs float (B, C, H, W) with a Gaussian point spread and a streak; borders are reflected.

    blur: (B,), standard deviation of the Gaussian in pixels. streak_x, streak_y: (B,), s cos 2 phi and s sin 2 phi of
    a streak along the angle phi, from motion of the camera or the scene: a trail of standard deviation s about its
    centroid. fade: how the light of all streaks fades along them, see `trail_table`; None where nothing is known of it:
    to both sides, as an exponential.
    """
    height, width = images.shape[2:]
    pad = min(8, min(height, width) // 4)
    padded = F.pad(images, (pad,) * 4, mode="reflect") if pad else images
    vertical, horizontal = frequencies(padded.shape[2], padded.shape[3], images.device)
    squared = vertical.square() + horizontal.square()
    gaussian = torch.exp(-2 * math.pi**2 * blur.square()[:, None, None] * squared)
    length, angle = torch.hypot(streak_x, streak_y), torch.atan2(streak_y, streak_x) / 2
    # With rows counted downwards, f = (cos phi, -sin phi) along the trail.
    right, down = ((length * part)[:, None, None] for part in (angle.cos(), -angle.sin()))
    transfer = gaussian * trail_transfer(horizontal * right + vertical * down, fade)
    blurred: Tensor = torch.fft.irfft2(torch.fft.rfft2(padded) * transfer[:, None], s=padded.shape[2:])
    return blurred[..., pad : pad + height, pad : pad + width]


def trail_transfer(place: Tensor, fade: float | None) -> Tensor:
    """Transfer function of a trail at `place` float (B, H, W), frequency times standard deviation; complex64, or
    float32 where the trail has two equal sides.
    """
    if fade is None:
        return 1 / (1 + 2 * math.pi**2 * place.square())
    table = trail_table(fade).to(place.device)
    step = (place.abs() * STEPS).clamp_max(len(table) - 1.001)
    left = step.long()
    value = torch.lerp(table[left], table[left + 1], (step - left)[..., None])
    return torch.complex(value[..., 0], value[..., 1] * place.sign())


@functools.cache
def trail_table(fade: float) -> Tensor:
    """Transfer function of a trail of standard deviation 1 about its centroid, (places, 2): real and imaginary.

    The light along a trail is exp(-t^p), t >= 0, with 1 / p = fade from 0 to 1: steady and then gone (0, a shutter's),
    half a Gaussian (0.5), or an exponential (1). At STEPS places for each unit.
    """
    place = torch.arange(MOST_PLACE * STEPS + 1, dtype=torch.float64) / STEPS
    t = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000 * 12**fade
    weight = torch.exp(-(t ** (1 / fade))) if fade else torch.ones_like(t)
    weight = weight / weight.sum()
    t = t - (weight * t).sum()
    t = t / (weight * t.square()).sum().sqrt()
    phase = 2 * math.pi * place[:, None] * t
    return torch.stack([phase.cos() @ weight, -phase.sin() @ weight], 1).float()


def coarsen(images: Tensor, coarseness: Tensor) -> Tensor:
    """Reduces (B, C, H, W) to a share 1 - coarseness (B,) of its sides by area, and enlarges it again in blocks."""
    rows, columns = (_resampling(side, coarseness) for side in images.shape[2:])
    return rows[:, None] @ images @ columns[:, None].transpose(-1, -2)


def _resampling(side: int, coarseness: Tensor) -> Tensor:
    """Matrices (B, side, side): the mean over each coarse pixel, repeated over its extent."""
    sizes = (side * (1 - coarseness)).round().clamp(1, side).long()
    different = sorted(set(sizes.tolist()))
    index = torch.tensor([different.index(n) for n in sizes.tolist()], device=coarseness.device)
    return torch.stack([_reduce_and_repeat(side, n) for n in different]).to(coarseness.device)[index]


def _reduce_and_repeat(side: int, size: int) -> Tensor:
    edges = torch.arange(size + 1) * side / size
    pixel = torch.arange(side)
    overlap = torch.minimum(edges[1:, None], pixel + 1.0) - torch.maximum(edges[:-1, None], pixel.float())
    mean = overlap.clamp_min(0) * size / side
    nearest = ((pixel + 0.5) * size / side).floor().long().clamp_max(size - 1)
    return mean[nearest]


def frequencies(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Vertical (H, 1) and horizontal (1, W // 2 + 1) frequencies of rfft2, cycles per pixel."""
    vertical: Tensor = torch.fft.fftfreq(height, device=device)[:, None]
    horizontal: Tensor = torch.fft.rfftfreq(width, device=device)[None]
    return vertical, horizontal


def standard_normal(shape: tuple[int, ...], generator: Generator, device: torch.device) -> Tensor:
    """Drawn on the device itself."""
    return torch.randn(shape, generator=device_generator(generator, device), device=device)


def add_noise(images: Tensor, noise: Tensor, shot: Tensor, shape: Tensor, generator: Generator) -> Tensor:
    """Adds noise of variance noise^2 + shot^2 * brightness, both (B,), to (B, C, H, W); shape: see `Degradation`."""
    variance = noise.square()[:, None, None, None] + shot.square()[:, None, None, None] * images.clamp(0, 1)
    return images + variance.sqrt() * coloured(tuple(images.shape), shape, generator)


def add_grain(images: Tensor, grain: Tensor, shape: Tensor, generator: Generator) -> Tensor:
    """Adds noise of standard deviation `grain` (B,) that neighbouring pixels share."""
    drawn = coloured(tuple(images.shape), shape, generator)
    drawn = spread_points(drawn, torch.full_like(grain, GRAIN_WIDTH), *torch.zeros(2, len(grain), device=grain.device))
    drawn = drawn / drawn.std((1, 2, 3), keepdim=True, correction=0).clamp_min(1e-9)
    return images + grain[:, None, None, None] * drawn


def add_stripes(images: Tensor, rows: Tensor, columns: Tensor, shape: Tensor, generator: Generator) -> Tensor:
    """Adds one offset for each row, and one for each column, of standard deviations `rows` and `columns`, (B,)."""
    batch, channels, height, width = images.shape
    for strength, size in ((rows, (height, 1)), (columns, (1, width))):
        if strength.any():
            offsets = coloured((batch, channels, *size), shape, generator)
            images = images + strength[:, None, None, None] * offsets
    return images


def add_impulses(images: Tensor, rate: Tensor, generator: Generator) -> Tensor:
    """Replaces a share `rate` (B,) of the values of (B, C, H, W) by 0 or 1, channel by channel."""
    drawn_on = device_generator(generator, images.device)
    chance = torch.rand(images.shape, generator=drawn_on, device=images.device)
    half = rate[:, None, None, None] / 2
    images = torch.where(chance < half, torch.zeros((), device=images.device), images)
    return torch.where(chance > 1 - half, torch.ones((), device=images.device), images)


def coloured(size: tuple[int, ...], shape: Tensor, generator: Generator) -> Tensor:
    """Standard normal noise (B, C, H, W) with covariance L L' across the channels."""
    drawn = standard_normal(size, generator, shape.device)
    return torch.einsum("ij,bjhw->bihw", shape, drawn)


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
