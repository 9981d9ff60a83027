"""The general operations against Pillow, the mixing with fixed draws, the random crop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Generator, Tensor

from repairops.core.augment import operations as ops
from repairops.core.augment.geometry import random_crop_flip, shift_flip
from repairops.core.augment.mixing import DEPTH, STYLE, MixingDraws, draw_mixing, mix_chains


def sample_images(channels: int, height: int, width: int) -> Tensor:
    """Random, dark, two-valued, constant and smooth images, whole numbers 0..255."""
    g = Generator().manual_seed(channels * height + width)
    shape = (channels, height, width)
    noise = torch.randint(0, 256, shape, generator=g)
    dark = torch.randint(3, 60, shape, generator=g)
    two = torch.where(torch.rand(shape, generator=g) < 0.1, 200, 7)
    smooth = torch.linspace(10, 240, height * width).view(1, height, width).expand(shape).round()
    return torch.stack([noise, dark, two, torch.full(shape, 91), smooth]).float()


def with_pillow(images: Tensor, operation) -> Tensor:
    results = []
    for index, image in enumerate(images):
        array = image.permute(1, 2, 0).byte().numpy()
        picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
        result = np.atleast_3d(np.asarray(operation(picture, index)))
        results.append(torch.from_numpy(result.copy()).permute(2, 0, 1).float())
    return torch.stack(results)


SIZES = [(3, 32, 32), (1, 8, 8), (3, 17, 40), (1, 64, 48)]


@pytest.mark.parametrize("size", SIZES)
def test_pointwise_operations_equal_pillow(size):
    images = sample_images(*size)
    bits, threshold = torch.tensor([4, 3, 1, 2, 8]), torch.tensor([256, 180, 100, 0, 128])
    assert torch.equal(ops.autocontrast(images), with_pillow(images, lambda p, i: ImageOps.autocontrast(p)))
    assert torch.equal(ops.equalize(images), with_pillow(images, lambda p, i: ImageOps.equalize(p)))
    pillow = with_pillow(images, lambda p, i: ImageOps.posterize(p, int(bits[i])))
    assert torch.equal(ops.posterize(images, bits), pillow)
    pillow = with_pillow(images, lambda p, i: ImageOps.solarize(p, int(threshold[i])))
    assert torch.equal(ops.solarize(images, threshold), pillow)


def pillow_affine(images: Tensor, rows: list[tuple[float, ...]]) -> Tensor:
    return with_pillow(
        images, lambda p, i: p.transform(p.size, Image.Transform.AFFINE, rows[i], Image.Resampling.BILINEAR)
    )


def moved(images: Tensor, rows: list[tuple[float, ...]]) -> Tensor:
    return ops.affine(images, torch.tensor(rows, dtype=torch.float64))


def turned(images: Tensor, degrees: list[float]) -> Tensor:
    return ops.affine(images, ops.rotation_coefficients(torch.tensor(degrees), *images.shape[2:]))


@pytest.mark.parametrize("size", SIZES)
def test_translations_equal_pillow(size):
    images = sample_images(*size)
    for rows in (
        [(1, 0, p, 0, 1, 0) for p in (3, -2, 0, 7, -1)],
        [(1, 0, 0, 0, 1, p) for p in (3, -2, 0, 7, -1)],
    ):
        assert torch.equal(moved(images, rows), pillow_affine(images, rows))


@pytest.mark.parametrize("size", SIZES)
def test_rotations_and_shears_equal_pillow_up_to_rounding(size):
    images = sample_images(*size)
    degrees, values = [9, -30, 0, 3, 17], [0.07, -0.3, 0.0, 0.011, 0.2]
    shears = [[(1, v, 0, 0, 1, 0) for v in values], [(1, 0, 0, v, 1, 0) for v in values]]
    pairs = [(moved(images, rows), pillow_affine(images, rows)) for rows in shears]
    pillow = with_pillow(images, lambda p, i: p.rotate(degrees[i], Image.Resampling.BILINEAR))
    for found, wanted in [*pairs, (turned(images, degrees), pillow)]:
        assert (found - wanted).abs().max() <= 1
        assert (found == wanted).float().mean() > 0.99


def test_one_operation_for_each_image_at_its_own_strength():
    images = sample_images(3, 32, 32)[[0] * 11]
    chosen = torch.tensor([*range(9), -1, ops.OPERATIONS.index("rotate")])
    levels = torch.full((11,), 3.0)
    signs = torch.ones(11)
    signs[-1] = -1
    found = ops.apply_operations(images, chosen[:, None], levels[:, None], signs[:, None])
    one = images[:1]
    wanted = {
        "autocontrast": ops.autocontrast(one),
        "equalize": ops.equalize(one),
        "posterize": ops.posterize(one, torch.tensor([3])),  # 4 - int(3 * 4 / 10)
        "solarize": ops.solarize(one, torch.tensor([180])),  # 256 - int(3 * 256 / 10)
        "rotate": turned(one, [9]),
        "shear_x": moved(one, [(1, 0.09, 0, 0, 1, 0)]),
        "shear_y": moved(one, [(1, 0, 0, 0.09, 1, 0)]),
        "translate_x": moved(one, [(1, 0, 3, 0, 1, 0)]),  # int(3 * 32 / 3 / 10)
        "translate_y": moved(one, [(1, 0, 0, 0, 1, 3)]),
    }
    for index, name in enumerate(ops.OPERATIONS):
        assert torch.equal(found[index], wanted[name][0]), name
    assert torch.equal(found[9], images[0])
    assert torch.equal(found[10], turned(one, [-9])[0])
    assert torch.equal(images[0], sample_images(3, 32, 32)[0])  # the input is left alone


def test_operations_follow_each_other_in_their_order():
    images = sample_images(3, 24, 32).repeat(9, 1, 1, 1)
    draws = draw_mixing(len(images), Generator().manual_seed(5), chains=1, severity=10)
    drawn = [x[:, 0] for x in (draws.operations, draws.levels, draws.signs)]
    wanted = images.clone()
    for place in range(DEPTH):
        for row in range(len(images)):  # each alone
            here = [x[row : row + 1, place : place + 1] for x in drawn]
            wanted[row : row + 1] = ops.apply_operations(wanted[row : row + 1], *here)
    assert torch.equal(ops.apply_operations(images, *drawn), wanted)
    assert not torch.equal(ops.apply_operations(images, *(x.flip(1) for x in drawn)), wanted)


def draws_of(chains: list[list[int]], weights: list[float], blend: float) -> MixingDraws:
    padded = torch.tensor([[c + [-1] * (DEPTH - len(c)) for c in chains]])
    return MixingDraws(
        padded, torch.full(padded.shape, 3.0), torch.ones(padded.shape), torch.tensor([weights]), torch.tensor([blend])
    )


def test_styleaug_with_fixed_draws_is_the_weighted_sum_of_its_chains():
    image = sample_images(3, 32, 32)[:1] / 255
    solarize, rotate = ops.OPERATIONS.index("solarize"), ops.OPERATIONS.index("rotate")
    draws = draws_of([[solarize, rotate], [STYLE, solarize], [STYLE]], [0.5, 0.2, 0.3], blend=0.25)
    seen = []

    def darken(content: Tensor) -> Tensor:
        seen.append(content)
        return content * 0.5

    found = mix_chains(image, draws, darken)
    levels = image * 255
    dark = (levels * 0.5).round()
    first = turned(ops.solarize(levels, torch.tensor([180])), [9])
    second = ops.solarize(dark, torch.tensor([180]))
    wanted = 0.75 * image + 0.25 * (0.5 * first + 0.2 * second + 0.3 * dark) / 255
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert len(seen) == 1
    assert seen[0].shape == (2, 3, 32, 32)  # both style chains at once


def test_a_blend_of_zero_returns_the_clean_image():
    image = sample_images(1, 8, 8)[:1] / 255
    assert torch.equal(mix_chains(image, draws_of([[1]], [1.0], blend=0.0)), image)


def test_style_operations_without_a_style_are_refused():
    with pytest.raises(ValueError, match="no style was given"):
        mix_chains(torch.zeros(1, 1, 8, 8), draws_of([[STYLE]], [1.0], 1.0))


def test_draws_follow_the_algorithm():
    count = 4000
    draws = draw_mixing(count, Generator().manual_seed(0), chains=3, severity=5, styles=5)
    present = draws.operations >= 0
    assert present[..., 0].all()  # at least one operation
    assert torch.equal(present[..., 1] | ~present[..., 2], torch.ones(count, 3, dtype=torch.bool))  # no gap
    depth_shares = present.sum(2).flatten().bincount(minlength=4)[1:] / (3 * count)
    assert (depth_shares - 1 / 3).abs().max() < 0.02
    styled = draws.operations == STYLE
    assert not styled[..., 1:].any()
    assert abs(styled[..., 0].float().mean() - 5 / 14) < 0.02  # 5 of 9 + 5 operations
    assert draws.levels.min() >= 0.1
    assert 4.9 < draws.levels.max() <= 5
    assert set(draws.signs.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(draws.weights.sum(1), torch.ones(count))
    assert abs(draws.weights.std() - (1 / 18) ** 0.5) < 0.01  # Dirichlet(1, 1, 1)
    assert abs(draws.blend.mean() - 0.5) < 0.02
    assert not (draw_mixing(100, Generator().manual_seed(0)).operations == STYLE).any()


def test_mixtures_stay_images():
    images = sample_images(3, 32, 32).repeat(8, 1, 1, 1) / 255
    draws = draw_mixing(len(images), Generator().manual_seed(3), severity=10)
    mixed = mix_chains(images, draws)
    assert mixed.shape == images.shape
    assert mixed.dtype == torch.float32
    assert mixed.isfinite().all()
    assert mixed.min() >= 0
    assert mixed.max() <= 1 + 1e-6


def test_shift_and_flip_exactly():
    image = torch.arange(1, 7).view(1, 1, 2, 3)  # 1 2 3 / 4 5 6
    down, right, mirrored = torch.tensor([0, 1, 0, 0]), torch.tensor([1, -1, 0, 1]), torch.tensor([0, 0, 1, 1]).bool()
    found = shift_flip(image.repeat(4, 1, 1, 1), down, right, mirrored)[:, 0].tolist()
    assert found == [[[0, 1, 2], [0, 4, 5]], [[0, 0, 0], [2, 3, 0]], [[3, 2, 1], [6, 5, 4]], [[0, 3, 2], [0, 6, 5]]]


def test_random_crop_moves_each_image_on_its_own_and_only_as_far_as_asked():
    images = torch.zeros(300, 1, 9, 9)
    images[:, :, 4, 4] = 1
    moved = random_crop_flip(images, 2, False, Generator().manual_seed(0))
    assert torch.equal(moved.sum((1, 2, 3)), torch.ones(300))  # the point never leaves
    rows, columns = moved.amax(3).argmax(2).flatten(), moved.amax(2).argmax(2).flatten()
    assert set(rows.tolist()) == set(columns.tolist()) == {2, 3, 4, 5, 6}
    assert not torch.equal(rows, columns)


def test_no_padding_and_no_flip_leaves_images_alone_and_uint8_stays_uint8():
    images = torch.randint(0, 256, (6, 3, 5, 7), dtype=torch.uint8, generator=Generator().manual_seed(0))
    assert torch.equal(random_crop_flip(images, 0, False, Generator().manual_seed(0)), images)
    flipped = random_crop_flip(images, 0, True, Generator().manual_seed(0))
    assert flipped.dtype == torch.uint8
    same = [torch.equal(a, b) for a, b in zip(flipped, images, strict=True)]
    turned = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, images, strict=True)]
    assert all(s != t for s, t in zip(same, turned, strict=True))
    assert 0 < sum(turned) < 6
    assert random_crop_flip(images[:0], 2, True, Generator()).shape == (0, 3, 5, 7)
