from __future__ import annotations

import numpy as np
import pytest
import pywt
import torch
from style_helpers import generator

from repairops.core.styles.haar import analyse, pad_to_multiple, synthesise, unpool


def test_signs_on_one_block() -> None:
    bands = analyse(torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]]))
    assert [round(band.item(), 6) for band in bands] == [7.5, 2.5, 4.5, 1.5]


def test_bands_are_those_of_pywavelets() -> None:
    images = torch.rand(2, 3, 10, 6, generator=generator())
    approximation, (horizontal, vertical, diagonal) = pywt.dwt2(images.numpy(), "haar")
    bands = analyse(images)
    for band, wanted in zip(bands, (approximation, -vertical, -horizontal, diagonal), strict=True):
        np.testing.assert_allclose(band.numpy(), wanted, atol=1e-6)


def test_synthesis_is_exact_and_energy_is_kept() -> None:
    images = torch.rand(4, 2, 16, 8, generator=generator())
    bands = analyse(images)
    torch.testing.assert_close(synthesise(bands), images, atol=1e-6, rtol=0)
    torch.testing.assert_close(sum(b.square().sum() for b in bands), images.square().sum())


def test_unpooled_maps_sum_to_the_image_and_each_holds_one_band() -> None:
    images = torch.rand(1, 1, 6, 4, generator=generator())
    maps = unpool(analyse(images))
    torch.testing.assert_close(sum(maps), images, atol=1e-6, rtol=0)
    for k, single in enumerate(maps):
        energies = [band.abs().max().item() > 1e-5 for band in analyse(single)]
        assert energies == [j == k for j in range(4)]


def test_odd_sides_are_refused_and_padding_mends_them() -> None:
    images = torch.rand(1, 1, 7, 5, generator=generator())
    with pytest.raises(ValueError, match="even sides"):
        analyse(images)
    padded = pad_to_multiple(images, 4)
    assert padded.shape == (1, 1, 8, 8)
    assert torch.equal(padded[..., :7, :5], images)
    assert torch.equal(padded[..., 7, :5], images[..., 5, :])  # reflected


def test_an_image_too_small_to_reflect_is_repeated() -> None:
    padded = pad_to_multiple(torch.tensor([[[[0.25, 0.75]]]]), 4, minimum=8)
    assert padded.shape == (1, 1, 8, 8)
    assert (padded[..., 0] == 0.25).all()
    assert (padded[..., 1:] == 0.75).all()
