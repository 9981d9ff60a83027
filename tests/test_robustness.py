"""The gate's general corruptions: mild, reproducible, in the range, and counted on the same images for both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from training_helpers import champion, digits

from repairops.model.corrupted import CORRUPTIONS, corrupted_counts
from repairops.model.evaluation import predict
from repairops.model.network import to_unit


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_corruption_changes_images_a_little(name: str, channels: int) -> None:
    images = F.interpolate(to_unit(digits()[1].pixels[:50]), (32, 32), mode="bilinear").expand(-1, channels, -1, -1)
    found = CORRUPTIONS[name](images, torch.Generator().manual_seed(0))
    assert found.shape == images.shape
    change = (found - images).abs().mean()
    assert 0.003 < change < 0.12


def test_what_each_corruption_does() -> None:
    generator = torch.Generator().manual_seed(0)
    grey = torch.full((4, 1, 8, 8), 0.5)
    assert CORRUPTIONS["noise"](grey, generator).std() == pytest.approx(0.04, rel=0.2)
    for name in ("blur", "contrast", "resampled"):  # nothing to blur, no contrast to lose
        torch.testing.assert_close(CORRUPTIONS[name](grey, generator), grey)
    torch.testing.assert_close(CORRUPTIONS["brightness"](grey, generator), grey + 0.1)
    image = to_unit(digits()[1].pixels[:20])
    spread = image.std(dim=(1, 2, 3))
    torch.testing.assert_close(CORRUPTIONS["contrast"](image, generator).std(dim=(1, 2, 3)), 0.75 * spread)
    dot = torch.zeros(1, 1, 5, 5)
    dot[0, 0, 2, 2] = 1.0
    blurred = CORRUPTIONS["blur"](dot, generator)
    assert blurred.sum() == pytest.approx(1.0)
    assert blurred[0, 0, 2, 2] == pytest.approx(0.25)


def test_one_pixel_high_images_are_corrupted_too() -> None:
    for corruption in CORRUPTIONS.values():
        assert corruption(torch.rand(2, 3, 1, 5), torch.Generator()).shape == (2, 3, 1, 5)


def test_counts_are_of_the_same_images_and_repeat() -> None:
    network, images = champion(), digits()[1]
    counts = corrupted_counts(network, network, images, limit=100, seed=0)
    assert list(counts) == list(CORRUPTIONS)
    for found in counts.values():
        assert (found.n, found.champion_only, found.challenger_only) == (100, 0, 0)
    assert corrupted_counts(network, network, images, limit=100, seed=0) == counts
    whole = corrupted_counts(network, network, images, limit=0, seed=0)
    assert {found.n for found in whole.values()} == {len(images)}
    clean = predict(network, images.pixels, images.labels).accuracy
    assert clean - 0.3 < whole["noise"].champion_right / len(images) <= clean + 0.02


def test_a_network_that_is_worse_under_a_corruption_loses_there() -> None:
    good, bad = champion(), champion()
    with torch.no_grad():
        for parameter in bad.parameters():
            parameter.zero_()
    found = corrupted_counts(good, bad, digits()[1], limit=200, seed=1)
    assert all(counts.champion_only > counts.challenger_only for counts in found.values())
    assert not np.isnan(found["noise"].n)
