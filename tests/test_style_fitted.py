from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from style_helpers import digits, eight_bits, generator, scenes
from torch import Tensor

from repairops.config import StyleConfig
from repairops.style.degradation import flat_patch_noise, measure, stripe_noise, stripe_power
from repairops.style.fitted import FittedDegradation, deviations, filter_radially, fit_fitted_degradation, shrink_mean


def fit(references: Tensor, clean: Tensor, **options: float) -> FittedDegradation:
    return fit_fitted_degradation(references, clean, StyleConfig(**options), generator())  # type: ignore[arg-type]


def sigmas(style: FittedDegradation) -> Tensor:
    """Standard deviations (R, 3) of the fitted pixel, row and column noise."""
    covariance = style.noise @ style.noise.transpose(-1, -2)
    return covariance.diagonal(dim1=-2, dim2=-1).mean(-1).sqrt()


def noisy(images: Tensor, sigma: float, shape: tuple[int, ...] | None = None) -> Tensor:
    noise = torch.randn(shape or images.shape, generator=generator(5))
    return eight_bits(images + sigma * noise)


@pytest.mark.parametrize("sigma", [0.1, 0.2])
def test_noise_on_digits_is_found_though_their_background_is_clipped(sigma: float) -> None:
    style = fit(noisy(digits()[:300], sigma), digits()[300:1300])
    assert sigmas(style)[:, 0].mean().item() == pytest.approx(sigma, rel=0.3)


@pytest.mark.parametrize("sigma", [0.04, 0.1])
def test_noise_on_colour_images_is_found_and_not_taken_for_blur(sigma: float) -> None:
    style = fit(noisy(scenes()[:150], sigma), scenes()[150:])
    assert sigmas(style)[:, 0].mean().item() == pytest.approx(sigma, rel=0.15)
    assert style.gain.mean() > 0.8
    assert sigmas(style)[:, 1:].max() < sigma / 3


def test_two_noise_levels_are_told_apart() -> None:
    references = torch.cat([noisy(scenes()[:80], 0.03), noisy(scenes()[80:160], 0.12)])
    found = sigmas(fit(references, scenes()[160:]))[:, 0]
    assert found[:80].mean().item() == pytest.approx(0.03, rel=0.3)
    assert found[80:].mean().item() == pytest.approx(0.12, rel=0.2)


def test_noise_of_one_channel_stays_in_that_channel() -> None:
    references = scenes()[:150].clone()
    references[:, 1] = noisy(references[:, 1], 0.1)
    style = fit(references, scenes()[150:])
    variances = (style.noise[:, 0] @ style.noise[:, 0].transpose(-1, -2)).diagonal(dim1=-2, dim2=-1).mean(0)
    assert variances[1].sqrt().item() == pytest.approx(0.1, rel=0.15)
    assert variances[[0, 2]].max() < 0.1 * variances[1]


@pytest.mark.parametrize("factor", [0.6, 0.25])
def test_contrast_is_found_without_noise_or_shift(factor: float) -> None:
    images = scenes()[:150]
    mean = images.mean((2, 3), keepdim=True)
    style = fit(eight_bits(mean + factor * (images - mean)), scenes()[150:])
    assert style.gain[:, 0].median().item() == pytest.approx(factor, rel=0.25)
    assert sigmas(style).max() < 0.01
    assert style.shift.abs().mean() < 0.05


def test_blur_lowers_high_rings_only() -> None:
    images = scenes()[:150]
    style = fit(eight_bits(F.avg_pool2d(F.pad(images, (1,) * 4, mode="reflect"), 3, 1)), scenes()[150:])
    assert style.gain[:, 1].mean() > 0.8
    assert style.gain[:, 10].mean() < 0.5
    assert sigmas(style).max() < 0.01


def test_mean_colour_shift_is_found() -> None:
    shift = torch.tensor([0.1, 0.0, -0.08])
    style = fit(eight_bits(0.9 * (scenes()[:150] - 0.5) + 0.5 + shift[:, None, None]), scenes()[150:])
    torch.testing.assert_close(style.shift.mean(0), shift, atol=0.03, rtol=0)


def test_line_noise_is_found_by_its_direction() -> None:
    rows = fit(noisy(scenes()[:150], 0.06, (150, 1, 32, 1)), scenes()[150:])
    found = sigmas(rows).mean(0)
    assert found[1].item() == pytest.approx(0.06, rel=0.25)
    assert found[[0, 2]].max() < 0.02
    styled = rows.apply(torch.full((64, 3, 32, 32), 0.5), torch.zeros(64, dtype=torch.int64), generator())
    assert styled.mean(3).std() > 5 * styled.mean(2).std()


def test_references_like_the_clean_set_leave_content_nearly_unchanged() -> None:
    for images in (digits()[:800], scenes()):
        style = fit(images[:150], images[150:])
        content = images[-50:]
        styled = style.apply(content, torch.arange(50), generator())
        assert (styled - content).abs().mean() < 0.02


def test_applied_noise_has_the_fitted_variance_and_is_fresh() -> None:
    covariance = torch.tensor([[0.01, 0.005, 0.0], [0.005, 0.01, 0.0], [0.0, 0.0, 0.0025]])
    noise = torch.zeros(1, 3, 3, 3)
    noise[0, 0] = torch.linalg.cholesky(covariance)
    style = FittedDegradation(32, torch.ones(1, 24), torch.zeros(1, 3), noise)
    draw, reference = generator(), torch.zeros(20, dtype=torch.int64)
    first, second = (style.apply(torch.full((20, 3, 32, 32), 0.5), reference, draw) for _ in range(2))
    torch.testing.assert_close(first.transpose(0, 1).flatten(1).cov(), covariance, atol=5e-4, rtol=0)
    assert not torch.equal(first, second)
    assert torch.equal(first, style.apply(torch.full((20, 3, 32, 32), 0.5), reference, generator()))


def test_gain_and_shift_act_as_documented_with_alpha() -> None:
    content = scenes()[:4]
    mean = content.mean((2, 3), keepdim=True)
    style = FittedDegradation(32, torch.full((1, 24), 0.2), torch.full((1, 3), 0.1), torch.zeros(1, 3, 3, 3), alpha=0.5)
    styled = style.apply(content, torch.zeros(4, dtype=torch.int64), generator())
    torch.testing.assert_close(styled, (mean + 0.6 * (content - mean) + 0.05).clamp(0, 1), atol=1e-5, rtol=0)


def test_filter_keeps_a_border_free_of_the_opposite_one() -> None:
    image = torch.zeros(1, 1, 32, 32)
    image[..., -1] = 1
    gain = torch.linspace(1, 0, 24)[None]
    blurred = filter_radially(image, gain, 32)
    assert blurred[0, 0, 16, 0].abs() < 0.02
    assert 0.1 < blurred[0, 0, 16, -2] < blurred[0, 0, 16, -1]


@pytest.mark.parametrize("shape", [(5, 1, 8, 8), (5, 3, 9, 13), (5, 1, 16, 16), (5, 1, 1, 1), (5, 3, 3, 40)])
@pytest.mark.parametrize("kind", ["black", "white", "identical", "clean", "one"])
def test_degenerate_sets_give_finite_images(shape: tuple[int, ...], kind: str) -> None:
    clean = torch.rand(shape, generator=generator(2))
    made = {
        "black": torch.zeros(shape),
        "white": torch.ones(shape),
        "identical": clean[:1].expand(shape).contiguous(),
        "clean": clean,
        "one": clean[:1] * 0.5,
    }
    for references, sound in ((made[kind], clean), (clean, made[kind])):
        style = fit(references, sound)
        content = torch.cat([clean, torch.zeros(shape), torch.ones(shape)])
        styled = style.apply(content, torch.arange(15) % len(references), generator())
        assert styled.shape == content.shape
        assert styled.isfinite().all()
        assert styled.min() >= 0
        assert styled.max() <= 1


def test_large_images_are_taken_in_their_own_size() -> None:
    clean = scenes(6, 224)
    style = fit(noisy(clean[:3], 0.08), clean[3:])
    assert sigmas(style)[:, 0].mean().item() == pytest.approx(0.08, rel=0.15)
    assert style.apply(clean[:2], torch.tensor([2, 0]), generator()).shape == (2, 3, 224, 224)


def test_references_are_measured_as_pixels_of_known_noise() -> None:
    flat = torch.full((200, 1, 32, 32), 0.5)
    found = measure(flat + 0.1 * torch.randn(flat.shape, generator=generator()), 32)
    torch.testing.assert_close(found.noise[:, 0].mean(), torch.tensor(0.01), atol=3e-4, rtol=0)
    torch.testing.assert_close(found.power.mean(0)[2:], torch.full((22,), 0.01), atol=1e-3, rtol=0)
    assert found.noise[:, 1:].mean(0).abs().max() < 2e-5


def test_stripes_and_their_power_agree() -> None:
    offsets = 0.1 * torch.randn(300, 1, 16, 1, generator=generator())
    images = (0.5 + offsets).expand(-1, -1, -1, 24).contiguous()
    assert stripe_noise(images.mean(3)).mean().item() == pytest.approx(0.01, rel=0.1)
    assert stripe_noise(images.mean(2)).abs().max() < 1e-6
    expected = 0.01 * stripe_power(16, 24, 16, images.device)[0]
    torch.testing.assert_close(measure(images, 16).power.mean(0)[2:], expected[2:], rtol=0.15, atol=1e-4)


def test_patch_noise_is_blind_to_saturated_images_and_tiny_ones() -> None:
    assert flat_patch_noise(torch.ones(2, 3, 16, 16)).abs().max() == 0
    assert flat_patch_noise(torch.rand(2, 1, 3, 16, generator=generator())).abs().max() == 0


def test_calibration_takes_off_what_clean_images_show_too() -> None:
    null = torch.randn(2000, 1, generator=generator(1))
    same = torch.randn(2000, 1, generator=generator(2))
    assert deviations(same, null).abs().max() < 0.6
    assert deviations(same * 3 + 5, null).std().item() == pytest.approx(math.sqrt(9 - 1), rel=0.05)
    assert shrink_mean(torch.tensor([5.0]), torch.tensor([1.0]), torch.tensor([0.01])).item() == pytest.approx(
        4, abs=0.01
    )
    assert shrink_mean(torch.tensor([1.05]), torch.tensor([1.0]), torch.tensor([0.01])).item() == 0
