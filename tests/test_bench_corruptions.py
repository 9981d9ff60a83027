"""The corruptions against the published formulae, one image at a time in NumPy, SciPy and Pillow."""

from __future__ import annotations

import colorsys
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Generator, Tensor

from repairops.bench.corruptions import CORRUPTIONS, SEVERITIES, corrupt, corrupt_pixels
from repairops.bench.corruptions.blur import directed_blur, zoom_matrix
from repairops.bench.corruptions.digital import sample
from repairops.bench.corruptions.weather import fractal
from repairops.errors import InvalidOption

EVERY_SEVERITY = pytest.mark.parametrize("severity", SEVERITIES)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def pictures(count: int = 4, channels: int = 3, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    """Smooth images with detail, 8-bit values in 0..1."""
    coarse = torch.rand(count, channels, 6, 6, generator=generator(seed))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    detail = 0.1 * torch.randn(count, channels, height, width, generator=generator(seed + 1))
    return ((smooth + detail).clamp(0, 1) * 255).round() / 255


def channel_last(images: Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).double().numpy()


def assert_same(found: Tensor, wanted: np.ndarray, levels: float = 0.01) -> None:
    """Within `levels` of 255."""
    difference = np.abs(channel_last(found) - wanted).max() * 255
    assert difference <= levels, f"{difference} levels of 255"


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_any_size_and_channels_at_every_severity(name: str) -> None:
    for channels, height, width in ((3, 32, 32), (1, 28, 28), (3, 20, 33), (1, 8, 8)):
        images = pictures(5, channels, height, width)
        severities = torch.tensor([5, 1, 3, 2, 4])
        found = corrupt(images, name, severities, generator())
        assert found.shape == images.shape
        assert found.dtype == torch.float32
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1
        assert not torch.equal(found, images)
        assert torch.equal(found, corrupt(images, name, severities, generator()))
    assert corrupt(images[:0], name, severities[:0], generator()).shape == (0, 1, 8, 8)


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "elastic_transform"])
def test_severity_5_changes_more_than_severity_1(name: str) -> None:
    images = pictures(64)
    weak, strong = ((corrupt(images, name, s, generator()) - images).abs().mean() for s in (1, 5))
    assert strong > weak > 0


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "snow", "frost", "fog"])
def test_every_image_gets_draws_of_its_own(name: str) -> None:
    images = pictures(1).expand(2, -1, -1, -1)
    first, second = corrupt(images, name, 3, generator())
    assert not torch.equal(first, second)
    assert not torch.equal(first, corrupt(images, name, 3, generator(1))[0])


@pytest.mark.parametrize(("name", "severity"), [("sepia", 1), ("fog", 0), ("fog", 6)])
def test_unknown_names_and_severities_are_refused(name: str, severity: int) -> None:
    with pytest.raises(InvalidOption):
        corrupt(pictures(), name, severity, generator())


def test_pixels_are_cut_to_8_bits_as_in_the_published_files() -> None:
    pixels = torch.full((2, 1, 4, 4), 100, dtype=torch.uint8)
    pixels[:, :, ::2] = 103
    means = 101.5 + 0.15 * np.array([1.5, -1.5])  # contrast, severity 5
    found = corrupt_pixels(pixels, "contrast", 5, generator())
    assert found.dtype == torch.uint8
    assert found[0, 0, :2, 0].tolist() == np.uint8(means).tolist() == [101, 101]
    assert torch.equal(corrupt_pixels(pixels, "brightness", 1, generator()), pixels + 12)  # 0.05 * 255 = 12.75


# Noise


def test_gaussian_noise_has_the_published_deviations() -> None:
    grey = torch.full((20, 3, 32, 32), 0.5)
    found = [float(corrupt(grey, "gaussian_noise", s, generator()).std()) for s in SEVERITIES]
    assert found == pytest.approx([0.04, 0.06, 0.08, 0.09, 0.10], rel=0.02)


def test_shot_noise_is_poisson_of_the_published_photons() -> None:
    grey = torch.full((20, 3, 32, 32), 0.25)
    for severity, photons in zip(SEVERITIES, (500, 250, 100, 75, 50), strict=True):
        found = corrupt(grey, "shot_noise", severity, generator())
        assert float(found.mean()) == pytest.approx(0.25, rel=0.01)
        assert float(found.var()) == pytest.approx(0.25 / photons, rel=0.03)
        assert torch.allclose(found * photons, (found * photons).round(), atol=1e-4)


def test_impulse_noise_has_the_published_shares_of_salt_and_pepper() -> None:
    grey = torch.full((200, 3, 32, 32), 0.5)
    for severity, share in zip(SEVERITIES, (0.01, 0.02, 0.03, 0.05, 0.07), strict=True):
        found = corrupt(grey, "impulse_noise", severity, generator(1))
        for value in (0.0, 1.0):
            assert float((found == value).float().mean()) == pytest.approx(share / 2, rel=0.05)
        assert float((found == 0.5).float().mean()) == pytest.approx(1 - share, rel=0.01)


# Blur


@EVERY_SEVERITY
def test_defocus_blur_is_the_published_kernel(severity: int) -> None:
    radius, sigma = [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)][severity - 1]
    along = np.arange(-8, 9)
    disk = (along[:, None] ** 2 + along[None] ** 2 <= radius**2).astype(float)
    three = np.exp(-np.array([1.0, 0.0, 1.0]) / (2 * sigma**2))
    kernel = ndimage.convolve(disk / disk.sum(), np.outer(three, three) / three.sum() ** 2, mode="mirror")
    images = pictures()
    wanted = ndimage.correlate(channel_last(images), kernel[None, :, :, None], mode="mirror")
    assert_same(corrupt(images, "defocus_blur", severity, generator()), wanted.clip(0, 1))


@EVERY_SEVERITY
def test_glass_blur_is_the_published_loop(severity: int) -> None:
    """The loop as published, on NumPy views, with the draws that our function makes."""
    sigma, rounds = [(0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2)][severity - 1]
    images = pictures()
    draws = generator(7)
    shifts = [torch.rand(2, 4, 32, 32, generator=draws).mul(2).long().numpy() for _ in range(rounds)]
    wanted = []
    for number, image in enumerate(channel_last(images)):
        x = np.uint8(ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest") * 255 + 1e-3)
        for up, left in shifts:
            for h in range(31, 1, -1):
                for w in range(31, 1, -1):
                    h_other, w_other = h - up[number, h, w], w - left[number, h, w]
                    x[h, w], x[h_other, w_other] = x[h_other, w_other], x[h, w]
        wanted.append(ndimage.gaussian_filter(x / 255, (sigma, sigma, 0), mode="nearest"))
    found = corrupt(images, "glass_blur", severity, generator(7))
    assert_same(found, np.stack(wanted).clip(0, 1), levels=1)  # float32 and float64 cut a few values differently
    assert np.abs(channel_last(found) - np.stack(wanted)).mean() * 255 < 0.01


@pytest.mark.parametrize(("radius", "sigma"), [(6, 1), (9, 2.5), (14, 12)])
@pytest.mark.parametrize("degrees", [0.0, 31.0, -44.0, -90.0, -133.0])
def test_motion_blur_is_half_a_gaussian_along_whole_pixels(radius: int, sigma: float, degrees: float) -> None:
    """ImageMagick's formula, tap by tap, with repeated edges."""
    width = 2 * radius + 1
    taps = np.exp(-(np.arange(width) ** 2) / (2 * sigma**2))
    x, y = width * math.sin(math.radians(degrees)), width * math.cos(math.radians(degrees))
    images = pictures()
    padded = np.pad(channel_last(images), ((0, 0), (width, width), (width, width), (0, 0)), mode="edge")
    wanted = np.zeros((4, 32, 32, 3))
    for i, tap in enumerate(taps / taps.sum()):
        right, down = (math.ceil(i * part / math.hypot(x, y) - 0.5) for part in (y, x))
        wanted += tap * padded[:, width + down : width + down + 32, width + right : width + right + 32]
    assert_same(directed_blur(images, radius, sigma, torch.full((4,), degrees)), wanted, levels=0.05)


def published_clipped_zoom(image: np.ndarray, factor: float) -> np.ndarray:
    size = image.shape[0]
    inner = math.ceil(size / factor)
    top = (size - inner) // 2
    zoomed = ndimage.zoom(image[top : top + inner, top : top + inner], (factor, factor, 1), order=1)
    trim = (zoomed.shape[0] - size) // 2
    return zoomed[trim : trim + size, trim : trim + size]


@EVERY_SEVERITY
def test_zoom_blur_is_the_mean_of_the_published_zooms(severity: int) -> None:
    factors = np.arange(1, [1.06, 1.11, 1.16, 1.21, 1.26][severity - 1], 0.01)
    images = pictures()
    wanted = [
        (image + sum(published_clipped_zoom(image, f) for f in factors)) / (len(factors) + 1)
        for image in channel_last(images)
    ]
    assert_same(corrupt(images, "zoom_blur", severity, generator()), np.stack(wanted).clip(0, 1))


@pytest.mark.parametrize("factor", [1, 1.75, 2.25, 1.25])
def test_zooms_of_the_snow_are_the_published_ones(factor: float) -> None:
    image = pictures(1)[0].double()
    found = zoom_matrix(32, factor).double() @ image @ zoom_matrix(32, factor).double().T
    wanted = published_clipped_zoom(image.permute(1, 2, 0).numpy(), factor)
    np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), wanted, atol=1e-6)


# Weather


def published_plasma(decay: float, draws: list[np.ndarray]) -> np.ndarray:
    """One map of 32 x 32 by diamond and square; draws: uniform in 0..1, in the order in which they are used."""
    maps, step, spread, left = np.zeros((32, 32)), 32, 100.0, iter(draws)

    def noisy(sums: np.ndarray) -> np.ndarray:
        return sums / 4 + spread * (-spread + 2 * spread * next(left))

    while step >= 2:
        half = step // 2
        corners = maps[0:32:step, 0:32:step]
        total = corners + np.roll(corners, -1, axis=0)
        maps[half:32:step, half:32:step] = noisy(total + np.roll(total, -1, axis=1))
        down, up = maps[half:32:step, half:32:step], maps[0:32:step, 0:32:step]
        maps[0:32:step, half:32:step] = noisy(down + np.roll(down, 1, axis=0) + up + np.roll(up, -1, axis=1))
        maps[half:32:step, 0:32:step] = noisy(down + np.roll(down, 1, axis=1) + up + np.roll(up, -1, axis=0))
        step, spread = half, spread / decay
    maps -= maps.min()
    return maps / maps.max()


@EVERY_SEVERITY
def test_fog_is_the_published_fractal(severity: int) -> None:
    amount, decay = [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)][severity - 1]
    images = pictures()
    sides, source = [1, 2, 4, 8, 16], generator(3)
    draws = [torch.rand(4, side, side, generator=source).numpy() for side in sides for _ in range(3)]
    wanted = []
    for number, image in enumerate(channel_last(images)):
        haze = published_plasma(decay, [draw[number] for draw in draws])
        wanted.append((image + amount * haze[..., None]) * image.max() / (image.max() + amount))
    assert_same(corrupt(images, "fog", severity, generator(3)), np.stack(wanted).clip(0, 1), levels=0.1)


def test_fractals_of_other_sizes_are_cut_from_the_next_power_of_two() -> None:
    device = torch.device("cpu")
    assert torch.equal(
        fractal(2, 20, 33, 2, generator(), device), fractal(2, 64, 64, 2, generator(), device)[:, :20, :33]
    )


@EVERY_SEVERITY
def test_brightness_raises_the_value_of_hsv(severity: int) -> None:
    raised = [0.05, 0.1, 0.15, 0.2, 0.3][severity - 1]
    images = pictures(2, height=8, width=8)
    images[0, :, 0, 0] = 0  # black has no hue
    wanted = np.ascontiguousarray(channel_last(images))
    for pixel in wanted.reshape(-1, 3):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        pixel[:] = colorsys.hsv_to_rgb(hue, saturation, min(value + raised, 1))
    assert_same(corrupt(images, "brightness", severity, generator()), wanted)


def test_snow_falls_and_whitens() -> None:
    black = torch.zeros(50, 3, 32, 32)
    flakes = [corrupt(black, "snow", s, generator()) for s in SEVERITIES]
    background = [f.flatten(1).amin(1).mean() for f in flakes]  # (1 - kept) * 0.5 where no flake is
    assert torch.tensor(background).tolist() == pytest.approx([0.025, 0.05, 0.05, 0.075, 0.1], abs=0.02)
    across, along = (flakes[1].diff(dim=d).abs().mean() for d in (3, 2))
    assert across > along  # streaks are steeper than 45 degrees


def test_frost_is_light_blue_and_lifts_black_by_its_weight() -> None:
    black = torch.zeros(50, 3, 32, 32)
    for severity, amount in zip(SEVERITIES, (0.2, 0.3, 0.4, 0.4, 0.45), strict=True):
        red, green, blue = corrupt(black, "frost", severity, generator()).mean((0, 2, 3)).tolist()
        assert red < green < blue
        assert 0.4 * amount < green < 0.8 * amount


# Digital


@EVERY_SEVERITY
def test_contrast_keeps_each_channel_s_mean(severity: int) -> None:
    images = pictures()
    x = channel_last(images)
    means = x.mean((1, 2), keepdims=True)
    wanted = (x - means) * [0.75, 0.5, 0.4, 0.3, 0.15][severity - 1] + means
    assert_same(corrupt(images, "contrast", severity, generator()), wanted)


@EVERY_SEVERITY
def test_pixelate_is_pillow_s_box_filter(severity: int) -> None:
    images = pictures()
    small = int(32 * [0.95, 0.9, 0.85, 0.75, 0.65][severity - 1])
    wanted = [
        np.asarray(
            Image.fromarray(np.uint8(image * 255 + 0.5))
            .resize((small, small), Image.Resampling.BOX)
            .resize((32, 32), Image.Resampling.BOX)
        )
        for image in channel_last(images)
    ]
    assert_same(corrupt(images, "pixelate", severity, generator()), np.stack(wanted) / 255)


@EVERY_SEVERITY
def test_jpeg_compression_is_pillow_s(severity: int) -> None:
    images = pictures()
    wanted = []
    for image in channel_last(images):
        file = io.BytesIO()
        Image.fromarray(np.uint8(image * 255 + 0.5)).save(file, "JPEG", quality=[80, 65, 58, 50, 40][severity - 1])
        wanted.append(np.asarray(Image.open(file)))
    assert_same(corrupt(images, "jpeg_compression", severity, generator()), np.stack(wanted) / 255)


@pytest.mark.parametrize(("about_pixels", "mode"), [(True, "mirror"), (False, "reflect")])
def test_sampling_is_scipy_s_with_both_kinds_of_mirrors(about_pixels: bool, mode: str) -> None:
    images = pictures(1, 1, 12, 9)
    positions = torch.rand(1, 12, 9, 2, generator=generator()) * 14 - 3
    found = sample(images, positions, mirrored_about_pixels=about_pixels)[0, 0]
    rows_columns = positions[0].flip(-1).permute(2, 0, 1).numpy()
    wanted = ndimage.map_coordinates(images[0, 0].numpy(), rows_columns, order=1, mode=mode)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


def test_elastic_transform_at_severity_1_is_affine_alone() -> None:
    """A ramp stays a ramp (away from mirrored edges), and the middle's moves stay within the points' reach."""
    ramp = (torch.arange(32.0) / 31).expand(8, 1, 32, 32)
    found = corrupt(ramp, "elastic_transform", 1, generator())[:, 0, 10:22, 10:22]
    assert found.diff(n=2, dim=1).abs().max() < 1e-4
    assert found.diff(n=2, dim=2).abs().max() < 1e-4
    assert (found[:, 6, 6] - ramp[:, 0, 16, 16]).abs().max() < 3 * 0.08 * 32 / 31
    bent = corrupt(ramp, "elastic_transform", 3, generator())[:, 0, 10:22, 10:22]
    assert bent.diff(n=2, dim=2).abs().max() > 1e-3
