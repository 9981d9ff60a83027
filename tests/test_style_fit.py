"""The seam: every style of the table, and the styles that need no network."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from style_helpers import digits, eight_bits, generator, scenes
from torch import Tensor

from repairops.config import StyleConfig
from repairops.core.styles import STYLES, fit_style
from repairops.errors import InvalidOption, StyleNotFittable

NETWORK_FREE = sorted(set(STYLES) - {"wct2"})
pytestmark = pytest.mark.usefixtures("few_trials")
CONFIG = StyleConfig()


def apply(name: str, content: Tensor, references: Tensor, config: StyleConfig = CONFIG, seed: int = 0) -> Tensor:
    clean = scenes(400, references.shape[-1]) if references.shape[1] == 3 else references
    style = fit_style(name, references, clean, config, generator())
    return style.apply(content, torch.arange(len(content)) % len(references), generator(seed))


@pytest.mark.parametrize("name", NETWORK_FREE)
def test_same_seed_same_image_and_alpha_zero_is_the_content(name: str) -> None:
    content, references = scenes(400, 16)[:6], eight_bits(scenes(400, 16)[20:40] * 0.5)
    first = apply(name, content, references)
    assert torch.equal(first, apply(name, content, references))
    assert not torch.equal(first, content)
    assert torch.equal(apply(name, content, references, StyleConfig(alpha=0)), content)
    assert not first.requires_grad
    assert not first.is_inference()  # may be saved for a backward pass


@pytest.mark.parametrize("name", NETWORK_FREE)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 13), (1, 1, 1), (3, 2, 3), (3, 33, 20)])
def test_extreme_images_give_finite_images_in_range(
    name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repairops.core.styles.fitted.estimation.TRIALS", (200, 200))
    draw = generator(4)
    ordinary = torch.rand(3, *shape, generator=draw)
    odd = torch.stack([torch.zeros(shape), torch.ones(shape), torch.full(shape, 0.3)])
    images = torch.cat([ordinary, odd])
    style = fit_style(name, images, ordinary, StyleConfig(levels=3), generator())
    content = images.repeat_interleave(6, 0)
    styled = style.apply(content, torch.arange(36) % 6, generator())
    assert styled.shape == content.shape
    assert styled.dtype == torch.float32
    assert styled.isfinite().all()
    assert 0 <= styled.min() <= styled.max() <= 1


@pytest.mark.parametrize("name", ["subband_wct", "fourier_amplitude", "radial_spectrum"])
def test_the_style_of_the_content_itself_changes_nothing(name: str) -> None:
    images = scenes()[:8]
    assert (apply(name, images, images) - images).abs().max() < 2e-3


@pytest.mark.parametrize("name", ["subband_wct", "radial_spectrum"])
def test_mean_colour_and_contrast_follow_the_reference(name: str) -> None:
    content, pale = scenes()[:8], 0.6 + 0.2 * (scenes()[30:38] - 0.5)
    styled = apply(name, content, pale)
    torch.testing.assert_close(styled.mean((2, 3)), pale.mean((2, 3)), atol=0.01, rtol=0)
    assert styled.std() < 0.6 * content.std()


def test_fourier_amplitude_is_that_of_the_reference() -> None:
    content, references = 0.3 + 0.4 * scenes()[:4], 0.3 + 0.4 * scenes()[50:54]
    styled = apply("fourier_amplitude", content, references)
    inside = (styled > 0).all() & (styled < 1).all()
    amplitude, wanted = torch.fft.rfft2(styled).abs(), torch.fft.rfft2(references).abs()
    assert inside
    torch.testing.assert_close(amplitude, wanted, atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("name", ["subband_wct", "fourier_amplitude", "radial_spectrum"])
def test_references_of_a_batch_do_not_mix(name: str) -> None:
    style = fit_style(name, scenes()[:5], scenes(), StyleConfig(), generator())
    content, order = scenes()[10:14], torch.tensor([4, 0, 0, 2])
    together = style.apply(content, order, generator())
    for i in range(4):
        alone = style.apply(content[i : i + 1], order[i : i + 1], generator())
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=0)


def test_other_content_sizes_than_the_references_are_taken() -> None:
    for name in NETWORK_FREE:
        style = fit_style(name, scenes()[:5], scenes(), StyleConfig(), generator())
        assert style.apply(torch.rand(2, 3, 20, 27), torch.tensor([1, 4]), generator()).shape == (2, 3, 20, 27)


@pytest.mark.parametrize("name", sorted(set(NETWORK_FREE) - {"fitted_degradation"}))
@pytest.mark.parametrize("scale", [1e-6, 1.0])
def test_large_images_and_one_reference_are_taken(name: str, scale: float) -> None:
    """fitted_degradation takes large images too; see test_style_fitted.py."""
    reference, content = scale * torch.rand(1, 3, 500, 333, generator=generator()), scenes()[:2]
    style = fit_style(name, reference, torch.rand(2, 3, 500, 333), StyleConfig(), generator())
    for images in (content, torch.rand(1, 3, 700, 500, generator=generator(1))):
        styled = style.apply(images, torch.zeros(len(images), dtype=torch.int64), generator())
        assert styled.shape == images.shape
        assert styled.isfinite().all()
        assert 0 <= styled.min() <= styled.max() <= 1


def test_wrong_options_and_images_are_refused_by_name() -> None:
    images = digits()[:10]
    for name in ("blur", "high_band_swap"):  # the latter was a style once
        with pytest.raises(InvalidOption, match=rf"style\.name.*'{name}'.*fitted_degradation.*wct2.*auto"):
            fit_style(name, images, images, CONFIG, generator())
    for option, value in (("alpha", 1.5), ("alpha", float("nan")), ("levels", 0), ("levels", 5)):
        with pytest.raises(InvalidOption, match=rf"style\.{option}"):
            fit_style("subband_wct", images, images, dataclasses.replace(CONFIG, **{option: value}), generator())
    with pytest.raises(StyleNotFittable, match=r"references.*NaN"):
        fit_style("subband_wct", images * torch.nan, images, CONFIG, generator())
    with pytest.raises(StyleNotFittable, match=r"clean images.*\(0, 1, 8, 8\)"):
        fit_style("subband_wct", images, images[:0], CONFIG, generator())
    with pytest.raises(StyleNotFittable, match=r"\(1, 8, 8\) against \(3, 32, 32\)"):
        fit_style("subband_wct", images, scenes(), CONFIG, generator())
