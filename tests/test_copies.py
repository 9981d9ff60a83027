"""Near copies across sets: the same photo encoded anew or a grey level off is found, images that are alike are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor

from repairops.data import copies
from repairops.data.copies import compared, look, near_copies, nearest_within, overlap
from repairops.data.sets import from_arrays


def digits() -> Tensor:
    """All of scikit-learn's, uint8 (1797, 1, 8, 8): different, and alike."""
    return torch.from_numpy((load_digits().images * 255 / 16).round().astype(np.uint8))[:, None]


def photos(side: int = 48) -> Tensor:
    """Pieces of one photo that share no pixel, in no order, uint8 (N, 3, side, side)."""
    whole = torch.from_numpy(load_sample_image("china.jpg")[: 427 // side * side, : 640 // side * side].copy())
    pieces = whole.unfold(0, side, side).unfold(1, side, side).reshape(-1, 3, side, side)
    return pieces[torch.randperm(len(pieces), generator=torch.Generator().manual_seed(0))]


def encoded_anew(images: Tensor, quality: int) -> Tensor:
    """As JPEG of this quality."""
    found = []
    for image in images.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        found.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)


def a_level_brighter(images: Tensor) -> Tensor:
    return (images.int() + 1).clamp(max=255).byte()


def test_different_digits_are_no_copies_and_those_a_level_off_are() -> None:
    known, others = digits()[:1000], digits()[1000:]
    assert not near_copies(others, known).any()
    found = near_copies(torch.cat([others[:50], a_level_brighter(known[:40])]), known)
    assert found.tolist() == [False] * 50 + [True] * 40


def test_a_photo_encoded_anew_is_a_copy_and_the_one_beside_it_is_not() -> None:
    """Nor is a piece of the sky like another one, however near: a smooth image has too little to be known by."""
    every = photos()
    contrast = (every.float() - every.float().mean(dim=(2, 3), keepdim=True)).flatten(1).std(dim=1)
    assert (contrast < 8).sum() > 10
    known, others = every[:60], every[60:]
    rich = known[contrast[:60] > 30]
    found = near_copies(torch.cat([others, encoded_anew(rich, 85)]), known)
    assert not found[: len(others)].any()
    assert found[len(others) :].all()
    assert len(rich) > 20


def test_large_images_too() -> None:
    known = photos(128)
    assert near_copies(encoded_anew(known, 75), known).sum() > len(known) / 2
    assert not near_copies(known[:7], known[7:]).any()


def test_an_image_that_is_much_brighter_is_no_copy() -> None:
    known = photos().clamp(max=200)
    assert near_copies(known[:20] + 3, known).sum() > 10
    assert not near_copies(known[:20] + 20, known).any()


def test_photos_of_one_scene_that_differ_by_noise_alone_are_no_copies() -> None:
    """A part on a belt: all are alike to the eye, each has noise of its own. One that is shifted is a copy of one."""
    generator = torch.Generator().manual_seed(0)
    scene = max(photos(), key=lambda photo: photo.float().std()).float()
    shots = (scene + 3 * torch.randn(300, *scene.shape, generator=generator)).round().clamp(0, 254).byte()
    known, others = shots[:200], shots[200:]
    assert not near_copies(others, known).any()
    assert near_copies(a_level_brighter(known[:20]), known).sum() == 20


def test_an_exact_copy_is_told_apart_from_a_near_one() -> None:
    pixels = digits()
    sets = [from_arrays(part, np.zeros(len(part), int), ("cat", "dog")) for part in (
        torch.cat([pixels[:3], a_level_brighter(pixels[3:5]), pixels[500:520]]), pixels[:400]
    )]  # fmt: skip
    found = overlap(*sets)
    assert found.same.tolist() == [True] * 3 + [False] * 22
    assert found.near.tolist() == [False] * 3 + [True] * 2 + [False] * 20
    assert found.either.sum() == 5


def test_two_images_say_nothing_of_what_is_usual() -> None:
    pixels = digits()
    assert near_copies(pixels[:5], pixels[:2]).tolist() == [False] * 5
    assert near_copies(pixels[:0], pixels).shape == (0,)


def test_of_a_large_set_a_part_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = digits()
    assert len(compared(pixels)) == len(pixels)
    monkeypatch.setattr(copies, "COMPARED", 300)
    rows = compared(pixels)
    assert len(rows) == len(set(rows.tolist())) == 300
    found = near_copies(a_level_brighter(pixels), pixels)
    assert np.flatnonzero(found).tolist() == rows.tolist()
    monkeypatch.setattr(copies, "BYTES", 64 * 100)  # of 8x8 pixels
    assert len(compared(pixels)) == 100


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = digits()
    mine = torch.cat([a_level_brighter(pixels[:30]), pixels[900:960]])
    whole = near_copies(mine, pixels[:200])
    monkeypatch.setattr(copies, "_ROWS", 7)
    assert np.array_equal(near_copies(mine, pixels[:200]), whole)
    assert whole.sum() == 30


def test_the_nearest_within_a_limit_is_that_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the block, and whether the vectors spread along few directions or along all alike."""
    generator = torch.Generator().manual_seed(0)
    even = torch.randn(700, 64, generator=generator)
    for vectors in (even, even * torch.logspace(2, -1, 64), even[:, :9]):
        mine, theirs = vectors[:300], vectors[300:]
        apart = torch.cdist(mine.double(), theirs.double())
        for limit in (float(apart.min(1)[0].median()), float(apart.max()), 0.0):
            wanted = torch.where(apart.min(1)[0] <= limit, apart.argmin(1), -1)
            for rows in (2048, 50):
                monkeypatch.setattr(copies, "_ROWS", rows)
                assert nearest_within(mine, theirs, limit).tolist() == wanted.tolist()


def test_a_set_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    known = from_arrays(digits()[:1000], np.zeros(1000, int), ("cat", "dog"))
    mine = torch.cat([digits()[1000:1100], a_level_brighter(digits()[:20])])
    wanted = near_copies(mine, known.pixels)
    seen: list[int] = []
    real = copies.thumbnails
    monkeypatch.setattr(copies, "thumbnails", lambda pixels, rows: seen.append(len(rows)) or real(pixels, rows))
    failures = look(mine, np.arange(len(mine)))
    for _ in range(3):
        assert np.array_equal(near_copies(failures, known.looked), wanted)
    assert seen == [120, 1000]
    assert wanted.sum() == 20
