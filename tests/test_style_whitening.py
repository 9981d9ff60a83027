from __future__ import annotations

import math

import pytest
import torch
from style_helpers import generator
from torch import Tensor

from repairops.core.styles import whitening
from repairops.core.styles.whitening import (
    inverse_root_by_newton_schulz,
    matrix_power,
    safe_eigh,
    style_statistics,
    whiten_colour,
)


def published(content: Tensor, style: Tensor) -> Tensor:
    """(I + C_s)^(1/2) (I + C_c)^(-1/2) (F - mean_c) + mean_s, clamped, one image (C, H, W) in float64."""

    def parts(features: Tensor, power: float) -> tuple[Tensor, Tensor, Tensor]:
        flat = features.double().flatten(1)
        mean = flat.mean(1, keepdim=True)
        centred = flat - mean
        covariance = centred @ centred.T / (flat.shape[1] - 1) + torch.eye(len(flat), dtype=torch.float64)
        left, values, _ = torch.linalg.svd(covariance)
        return centred, mean, left @ torch.diag(values**power) @ left.T

    centred, _, whitening = parts(content, -0.5)
    _, mean, colouring = parts(style, 0.5)
    moved = colouring @ whitening @ centred + mean
    return moved.clamp(content.min().item(), content.max().item()).view(content.shape)


@pytest.mark.parametrize(("channels", "side"), [(64, 4), (8, 12), (16, 4)])
def test_equals_the_published_formula_in_float64(channels: int, side: int) -> None:
    draw = generator(channels)
    content = torch.relu(3 * torch.randn(3, channels, side, side, generator=draw))
    style = torch.relu(2 * torch.randn(3, channels, side, side + 1, generator=draw)) + 0.5
    moved = whiten_colour(content, style_statistics(style))
    for i in range(3):
        torch.testing.assert_close(moved[i].double(), published(content[i], style[i]), atol=1e-3, rtol=1e-3)


def test_own_statistics_leave_the_features_as_they_are() -> None:
    features = torch.randn(2, 6, 5, 5, generator=generator())
    torch.testing.assert_close(whiten_colour(features, style_statistics(features)), features, atol=1e-4, rtol=0)


def test_colouring_moves_the_variance_towards_the_style() -> None:
    draw = generator(3)
    content, style = torch.randn(1, 4, 16, 16, generator=draw), 20 * torch.randn(1, 4, 16, 16, generator=draw)
    content[0, :, 0, 0] = 100  # a wide range, so that the clamp does not bite
    content[0, :, 0, 1] = -100
    moved = whiten_colour(content, style_statistics(style))
    assert moved.std() > 1.5 * content.std()


def test_alpha_is_linear_in_the_features() -> None:
    draw = generator(1)
    content, style = torch.randn(2, 3, 4, 4, generator=draw), style_statistics(torch.randn(2, 3, 4, 4, generator=draw))
    full = whiten_colour(content, style)
    torch.testing.assert_close(whiten_colour(content, style, 0.25), 0.25 * full + 0.75 * content)


@pytest.mark.parametrize("value", [0.0, 1e-30, 1.0])
def test_constant_features_stay_finite(value: float) -> None:
    content = torch.full((2, 512, 2, 2), value)
    moved = whiten_colour(content, style_statistics(torch.rand(2, 512, 2, 2, generator=generator())))
    assert moved.isfinite().all()


def test_eigenvalues_of_dead_and_tiny_matrices_are_finite() -> None:
    tiny = torch.zeros(3, 64, 64)
    tiny[1, 0, 0] = 1e-38
    tiny[2] = torch.eye(64)
    values, vectors = safe_eigh(tiny)
    assert values.isfinite().all()
    assert vectors.isfinite().all()


def test_matrix_power_inverts_itself() -> None:
    x = torch.randn(5, 3, 10, generator=generator())
    covariance = x @ x.transpose(1, 2)
    product = matrix_power(covariance, 0.5, 1e-4) @ matrix_power(covariance, -0.5, 1e-4)
    torch.testing.assert_close(product, torch.eye(3).expand(5, 3, 3), atol=1e-4, rtol=0)
    assert matrix_power(torch.tensor([[[4.0]]]), 0.5, 0.0).item() == 2


@pytest.mark.parametrize("size", [1, 16, 64])
@pytest.mark.parametrize("condition", [1.0, 30.0, 1e3, 1e5, 1e7])
def test_newton_schulz_finds_the_inverse_root(size: int, condition: float) -> None:
    """As well as eigenvalues do; what does not converge in float32, here 1e7, is solved by them."""
    basis = torch.linalg.qr(torch.randn(5, size, size, generator=generator(size), dtype=torch.float64))[0]
    values = torch.logspace(0, math.log10(condition), size, dtype=torch.float64)
    matrices = (basis * values) @ basis.transpose(1, 2)
    exact = (basis * values.rsqrt()) @ basis.transpose(1, 2)
    found = inverse_root_by_newton_schulz(matrices.float())
    assert found.isfinite().all()
    assert (found - exact).abs().max() < {1.0: 1e-6, 30.0: 1e-5, 1e3: 1e-4, 1e5: 1e-3}.get(condition, 0.1)


def test_one_hopeless_matrix_does_not_spoil_its_neighbours() -> None:
    matrices = torch.eye(6).repeat(3, 1, 1)
    matrices[1] = torch.diag(torch.logspace(0, 12, 6))
    found = inverse_root_by_newton_schulz(matrices)
    torch.testing.assert_close(found[[0, 2]], torch.eye(6).repeat(2, 1, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1].diagonal(), torch.logspace(0, -6, 6), atol=1e-4, rtol=0.01)


@pytest.mark.parametrize("side", [2, 4, 8])
def test_the_gpu_s_way_to_the_root_gives_the_published_transfer_too(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whitening, "inverse_root_by_eigenvalues", inverse_root_by_newton_schulz)
    content, style = (3 * torch.randn(4, 24, side, side, generator=generator(seed)) for seed in (1, 2))
    moved = whiten_colour(content, style_statistics(style))
    for found, one, other in zip(moved, content, style, strict=True):
        torch.testing.assert_close(found.double(), published(one, other), atol=1e-3, rtol=0)
