"""The components of a degradation, one by one: what each does to an image, and that it does nothing else."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from style_helpers import eight_bits, generator, scenes
from torch import Tensor

from repairops.core.styles.fitted.components import (
    block_inverse,
    block_transform,
    compress,
    spread_points,
    trail_transfer,
)
from repairops.core.styles.fitted.degradation import PARAMETERS, Degradation, degrade, limits, parameter_names
from repairops.core.styles.fitted.measures import flat_patch_covariance, line_variance, measure

GREY = torch.full((64, 3, 32, 32), 0.5)


def with_(images: Tensor, **parameters: float) -> Tensor:
    """Images (N, C, H, W) after one degradation of all of them."""
    values = torch.tensor(list(parameters.values())).expand(len(images), -1)
    return degrade(images, Degradation(tuple(parameters), values, torch.eye(images.shape[1])), generator())


def test_nothing_changes_nothing() -> None:
    images = scenes()[:4]
    none = Degradation((), torch.zeros(4, 0), torch.eye(3))
    assert torch.equal(degrade(images, none, generator()), images)
    zeros = Degradation(tuple(PARAMETERS), torch.zeros(4, len(PARAMETERS)), torch.eye(3))
    assert torch.equal(degrade(images, zeros, generator()), images)


def test_only_the_images_that_have_a_component_are_touched() -> None:
    images = scenes()[:6]
    values = torch.zeros(6, len(PARAMETERS))
    values[2] = limits(PARAMETERS, 32)[1] / 2
    result = degrade(images, Degradation(tuple(PARAMETERS), values, torch.eye(3)), generator())
    assert not torch.equal(result[2], images[2])
    others = [0, 1, 3, 4, 5]
    assert torch.equal(result[others], images[others])


def test_contrast_and_shift_act_about_the_mean() -> None:
    images = 0.3 + 0.4 * scenes()[:4]
    mean = images.mean((2, 3), keepdim=True)
    torch.testing.assert_close(with_(images, contrast=math.log(0.5)), mean + 0.5 * (images - mean))
    offset = torch.tensor([0.15, 0.1, 0.08]).view(3, 1, 1)
    torch.testing.assert_close(with_(images, shift=0.1, tint_red=0.05, tint_blue=-0.02), images + offset)


@pytest.mark.parametrize("fade", [None, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("degrees", [0, 45, 90, 135])
def test_streaks_spread_along_their_angle(degrees: int, fade: float | None) -> None:
    point = torch.zeros(1, 1, 33, 33)
    point[..., 16, 16] = 1
    twice = 2 * math.radians(degrees)
    blurred = spread_points(
        point, torch.tensor([0.5]), torch.tensor([1.5 * math.cos(twice)]), torch.tensor([1.5 * math.sin(twice)]), fade
    )[0, 0]
    place = torch.arange(33.0) - 16
    weights = blurred / blurred.sum()
    column, row = place[None], -place[:, None]  # rows are counted downwards, angles upwards
    along = column * math.cos(twice / 2) + row * math.sin(twice / 2)
    across = row * math.cos(twice / 2) - column * math.sin(twice / 2)
    assert (weights * along.square()).sum().sqrt().item() == pytest.approx(math.hypot(1.5, 0.5), rel=0.1)
    assert (weights * across.square()).sum().sqrt().item() == pytest.approx(0.5, rel=0.15)


def test_trails_are_boxes_half_gaussians_and_exponentials() -> None:
    place = torch.linspace(0, 1.5, 61)
    turned = 2 * math.pi * place
    box = torch.sinc(2 * math.sqrt(3) * place)  # 2 sqrt(3) wide at standard deviation 1
    torch.testing.assert_close(trail_transfer(place[:, None, None], 0.0)[:, 0, 0].real, box, atol=0.005, rtol=0)
    exponential = (1 + turned.square()).rsqrt()
    torch.testing.assert_close(trail_transfer(place[:, None, None], 1.0).abs()[:, 0, 0], exponential, atol=5e-3, rtol=0)
    half = trail_transfer(place[:, None, None], 0.5)[:, 0, 0]
    wide = 1 / math.sqrt(1 - 2 / math.pi)  # of the whole Gaussian
    torch.testing.assert_close(half.abs()[:8], _half_gaussian(wide * turned[:8]), atol=5e-3, rtol=0)
    torch.testing.assert_close(trail_transfer(-place[:, None, None], 0.5)[:, 0, 0], half.conj(), atol=1e-6, rtol=0)


def _half_gaussian(turned: Tensor) -> Tensor:
    """Absolute transfer of half a Gaussian of deviation 1, (N,), by a plain sum."""
    t = torch.arange(0, 6, 0.001, dtype=torch.float64)
    weight = torch.exp(-t.square() / 2)
    return (torch.exp(-1j * turned.double()[:, None] * t) @ (weight / weight.sum()).to(torch.complex128)).abs().float()


def test_blur_keeps_the_mean_and_borders_free_of_the_opposite_ones() -> None:
    image = torch.zeros(1, 1, 32, 32)
    image[..., -1] = 1
    blurred = with_(image, blur=1.0)
    assert blurred[0, 0, 16, 0].abs() < 0.01
    assert 0.1 < blurred[0, 0, 16, -2] < blurred[0, 0, 16, -1]


def test_half_the_resolution_is_blocks_of_four_equal_pixels() -> None:
    images = scenes()[:3]
    means = torch.nn.functional.avg_pool2d(images, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(with_(images, coarseness=0.5), means)


def test_a_veil_is_smooth_grey_and_of_the_given_strength() -> None:
    layer = with_(GREY, veil=0.05) - 0.5
    assert layer.square().mean().sqrt().item() == pytest.approx(0.05, rel=0.02)
    assert layer.mean((2, 3)).abs().max() < 1e-4
    assert (layer - layer.mean(1, keepdim=True)).abs().max() < 1e-6
    assert layer.diff(dim=3).std() < layer.std() / 2


def test_specks_are_bright_and_cover_their_share() -> None:
    layer = (with_(GREY, specks=0.1) - 0.5).mean(1)
    assert layer.min() >= -1e-6
    assert (layer > 0.05).float().mean().item() == pytest.approx(0.1, abs=0.07)


def test_noise_has_its_variance_and_its_covariance() -> None:
    root = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])
    values = torch.tensor([[0.05]]).expand(64, -1)
    noisy = degrade(GREY, Degradation(("noise",), values, root), generator())
    torch.testing.assert_close(noisy.transpose(0, 1).flatten(1).cov(), 0.0025 * root @ root.T, atol=1e-4, rtol=0)


def test_shot_noise_grows_with_brightness() -> None:
    dark, bright = (with_(torch.full((64, 1, 16, 16), level), shot=0.1).std().item() for level in (0.2, 0.8))
    assert dark == pytest.approx(0.1 * math.sqrt(0.2), rel=0.05)
    assert bright == pytest.approx(0.1 * math.sqrt(0.8), rel=0.05)


def test_grain_is_shared_by_neighbours_and_stripes_by_lines() -> None:
    grain = with_(GREY, grain=0.05) - 0.5
    assert grain.std().item() == pytest.approx(0.05, rel=0.03)
    assert (grain[..., 1:] * grain[..., :-1]).mean() > 0.3 * 0.05**2
    rows = with_(GREY, rows=0.05) - 0.5
    assert rows.mean(3).std().item() == pytest.approx(0.05, rel=0.05)
    assert rows.mean(2).std() < 0.012


def test_impulses_replace_their_share_by_black_and_white() -> None:
    hit = with_(GREY, impulses=0.1)
    assert (hit == 0).float().mean().item() == pytest.approx(0.05, abs=0.003)
    assert (hit == 1).float().mean().item() == pytest.approx(0.05, abs=0.003)
    assert set(hit.unique().tolist()) == {0.0, 0.5, 1.0}


def test_block_transform_is_orthonormal() -> None:
    planes = torch.rand(2, 1, 16, 24, generator=generator())
    coefficients = block_transform(planes)
    torch.testing.assert_close(block_inverse(coefficients), planes)
    torch.testing.assert_close(coefficients.square().sum(), planes.square().sum())


@pytest.mark.parametrize("quality", [30, 75])
@pytest.mark.parametrize("channels", [1, 3])
def test_compression_is_that_of_pillow(quality: int, channels: int) -> None:
    images = eight_bits(scenes()[:8, :channels])
    ours = eight_bits(compress(images, torch.full((8,), 1 - quality / 100)))
    for image, result in zip(images, ours, strict=True):
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels).save(file, "JPEG", quality=quality)
        theirs = torch.from_numpy(np.asarray(Image.open(file)).copy()).view(32, 32, channels).permute(2, 0, 1) / 255
        loss = (theirs - image).abs().mean()
        assert (result - theirs).abs().mean() < (0.1 if channels == 1 else 0.35) * loss + 0.5 / 255


@pytest.mark.parametrize(
    "shape", [(3, 1, 1, 1), (3, 3, 2, 3), (3, 1, 8, 8), (3, 3, 9, 13), (3, 3, 3, 40), (3, 3, 17, 33)]
)
def test_any_size_is_taken_at_the_limits_of_all_parameters(shape: tuple[int, ...]) -> None:
    images = torch.cat([torch.rand(shape, generator=generator()), torch.zeros(shape), torch.ones(shape)])
    names = parameter_names(shape[1], min(shape[2:]))
    for bound in limits(names, min(shape[2:])):
        result = degrade(images, Degradation(names, bound.expand(9, -1), torch.eye(shape[1])), generator())
        assert result.shape == images.shape
        assert result.isfinite().all()
        assert 0 <= result.min() <= result.max() <= 1
    assert measure(images).isfinite().all()
    assert len(measure(images)) == 9


def test_noise_and_stripes_are_measured_where_they_are() -> None:
    noisy = GREY + 0.1 * torch.randn(GREY.shape, generator=generator())
    seen = flat_patch_covariance(noisy).mean(0)
    torch.testing.assert_close(seen, 0.01 * torch.eye(3), atol=5e-4, rtol=0)
    offsets = 0.1 * torch.randn(300, 1, 16, 1, generator=generator())
    images = (0.5 + offsets).expand(-1, -1, -1, 24)
    assert line_variance(images.mean(3)).mean().item() == pytest.approx(0.01, rel=0.1)
    assert line_variance(images.mean(2)).max() < 1e-6
    assert flat_patch_covariance(torch.ones(2, 3, 16, 16)).abs().max() == 0
