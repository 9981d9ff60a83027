"""A WCT2 network of one's own: where its training starts, what it learns, and the scale of its features."""

from __future__ import annotations

import copy

import pytest
import torch
from style_helpers import generator, scenes
from torch import Tensor

from repairops.core.styles import wct2_fit
from repairops.core.styles.wct2 import build_wct2
from repairops.core.styles.wct2_fit import (
    WANTED_VARIANCE,
    draw_crops,
    learning_rate,
    new_network,
    poorest_psnr,
    reconstruction_psnr,
    scale_features,
    train_reconstruction,
)
from repairops.core.styles.wct2_network import Unpooling, Wct2Network

PIXELS = (scenes()[:64] * 255).byte()


@pytest.mark.parametrize("unpooling", ["cat5", "sum"])
def test_the_start_without_he_weights_reconstructs_but_for_the_borders(
    unpooling: Unpooling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wct2_fit, "HE_SHARE", 0.0)
    network, images = new_network(unpooling, generator()), scenes()[:2]
    inside = (..., slice(1, -1), slice(1, -1))
    with torch.no_grad():
        for levels in (1, 2, 3, 4):
            torch.testing.assert_close(network(images, levels)[inside], images[inside], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_training_makes_every_number_of_levels_reconstruct() -> None:
    network = new_network("cat5", generator())
    before = poorest_psnr(network, PIXELS[:8])
    losses: list[float] = []
    made = train_reconstruction(network, PIXELS, 18, 4, generator(), lambda step, loss: losses.append(loss))
    assert made == len(losses) == 18
    assert not any(p.requires_grad for p in network.parameters())
    each = [reconstruction_psnr(network, PIXELS[:8], levels) for levels in (1, 2, 3, 4)]
    assert min(each) == poorest_psnr(network, PIXELS[:8]) > before + 5


def test_training_in_bfloat16_is_an_option_and_a_limit_in_time_ends_it() -> None:
    network, exact = new_network("cat5", generator()), new_network("cat5", generator())
    train_reconstruction(network, PIXELS, 1, 2, generator(), quick=True)
    train_reconstruction(exact, PIXELS, 1, 2, generator())
    assert not network.quick
    assert not torch.equal(network.encoder["conv1_1"].weight, exact.encoder["conv1_1"].weight)
    limited = new_network("cat5", generator())
    assert train_reconstruction(limited, PIXELS, 10**9, 1, generator(), minutes=1e-9) <= 1


def test_learning_rate_rises_and_falls_to_zero() -> None:
    rates = [learning_rate(step / 100) for step in range(101)]
    assert max(rates) == rates[10]
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0)


def test_large_images_are_cut_and_small_ones_are_not() -> None:
    wide = torch.arange(50 * 20).view(1, 1, 20, 50).expand(2, 3, -1, -1)
    crops = draw_crops(wide, 4, generator())
    assert crops.shape == (4, 3, 20, 32)
    assert torch.equal(crops[0, 0, :, 1:] - crops[0, 0, :, :-1], torch.ones(20, 31, dtype=torch.long))
    starts = {int(draw_crops(wide, 1, generator(seed))[0, 0, 0, 0]) for seed in range(60)}
    assert min(starts) >= 0
    assert max(starts) <= 50 - 32
    assert len(starts) > 5


def features(network: Wct2Network, images: Tensor) -> list[Tensor]:
    found, x = [], images
    for level in (1, 2, 3, 4):
        x, _ = network.encode(x, level)
        found.append(x)
    return found


@torch.no_grad()
@pytest.mark.parametrize("unpooling", ["cat5", "sum"])
def test_scaling_changes_the_features_alone(unpooling: Unpooling) -> None:
    network, images = new_network(unpooling, generator()), PIXELS[:8].float() / 255
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator()))
    scaled = copy.deepcopy(network)
    factors = scale_features(scaled, PIXELS[:8])
    assert min(factors) > 1
    for levels in (1, 2, 3, 4):
        torch.testing.assert_close(scaled(images, levels), network(images, levels), atol=1e-4, rtol=1e-3)
    for factor, grown, plain in zip(factors, features(scaled, images), features(network, images), strict=True):
        torch.testing.assert_close(grown, factor * plain, atol=1e-3, rtol=1e-3)
        assert grown.flatten(2).var(2).mean() == pytest.approx(WANTED_VARIANCE, rel=1e-2)
    assert scale_features(scaled, PIXELS[:8]) == pytest.approx([1] * 4, abs=1e-3)


@pytest.mark.long
def test_the_fitted_network_carries_contrast_and_noise_and_not_only_a_tint() -> None:
    network = new_network("cat5", generator())
    train_reconstruction(network, PIXELS, 12, 4, generator())
    scale_features(network, PIXELS[:16])
    content, other = scenes()[:6], scenes()[20:26]
    pale = 0.5 + 0.3 * (other - 0.5)
    noisy = (other + 0.15 * torch.randn(other.shape, generator=generator())).clamp(0, 1)
    order = torch.arange(6)
    flat, rough, same = (build_wct2(network, r).apply(content, order, generator()) for r in (pale, noisy, other))
    assert flat.std() < 0.5 * content.std()
    assert detail(rough) > 1.5 * detail(same)


def detail(images: Tensor) -> float:
    """Mean absolute diagonal difference of neighbours."""
    blocks = images[..., :-1, :-1] - images[..., :-1, 1:] - images[..., 1:, :-1] + images[..., 1:, 1:]
    return float(blocks.abs().mean())
