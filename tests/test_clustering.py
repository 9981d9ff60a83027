import logging
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from repairops.core.clustering import cluster_failures, cluster_grid, nearest_clusters, reference_probabilities
from repairops.data.decoding import sample_ids
from repairops.data.records import Clusters, FailureBatch, ImageSet
from repairops.data.split import group_images, split_beside, split_failures
from repairops.errors import CannotSplit, InvalidOption

NAMES = tuple("0123456789")
SPLIT = {"heldout_fraction": 0.3, "validation_fraction": 0.2, "near_duplicate_similarity": 0.98, "seed": 0}


def failures(pixels, labels, groups=None):
    pixels = torch.as_tensor(pixels, dtype=torch.uint8)
    labels = np.asarray(labels, dtype=np.int64)
    images = ImageSet(pixels, labels, NAMES, np.array(sample_ids(pixels)))
    empty = np.array([""] * len(labels))
    groups = empty if groups is None else np.array([str(g) for g in groups])
    return FailureBatch(images, (labels + 1) % 10, np.ones(len(labels), np.float32), groups, empty)


def random_failures(rng, rows, groups=None, classes=3, channels=1, side=8):
    pixels = rng.integers(0, 256, (rows, channels, side, side))
    return failures(pixels, rng.integers(0, classes, rows), groups)


def digits(n=400):
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))[:n]
    return failures((data.images[order] * 255 / 16).round()[:, None], data.target[order])


def parts(split):
    return split.repair, split.validation, split.heldout.batch


def groups_of(batch, similarity):
    return group_images(batch.images, batch.groups, similarity)


def ids(batch):
    return set(batch.images.sample_ids.tolist())


# Groups


def test_named_groups_stay_whole_and_others_are_grouped_by_likeness():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 200, (3, 1, 8, 8))
    pixels = np.concatenate([base, base + 20, rng.integers(0, 256, (2, 1, 8, 8))])
    # 3 and 4 are brighter copies of 0 and 1; 5 is one of 2 with another label; 6 and 7 share a name.
    groups = groups_of(failures(pixels, [0, 0, 0, 0, 0, 1, 0, 0], ["", "", "", "", "", "", "cam", "cam"]), 0.98)
    assert groups[0] == groups[3]
    assert groups[1] == groups[4]
    assert groups[2] != groups[5]
    assert groups[6] == groups[7]
    assert len(set(groups.tolist())) == 5


def test_an_unnamed_near_duplicate_joins_the_named_group():
    image = np.random.default_rng(0).integers(0, 200, (1, 1, 8, 8))
    groups = groups_of(failures(np.concatenate([image, image + 9]), [0, 0], ["cam", ""]), 0.98)
    assert groups[0] == groups[1]


def test_one_image_with_two_labels_is_one_group():
    image = np.random.default_rng(0).integers(0, 200, (1, 1, 8, 8))
    assert len(set(groups_of(failures(np.concatenate([image, image]), [0, 1]), 0.98).tolist())) == 1


def test_a_slow_chain_of_frames_does_not_end_in_one_group():
    a, b = np.random.default_rng(1).integers(0, 256, (2, 1, 8, 8))
    frames = np.stack([np.round(a + (b - a) * t) for t in np.linspace(0, 1, 60)])
    batch = failures(frames, [0] * 60)
    neighbours = np.corrcoef(frames.reshape(60, -1)).diagonal(1)
    assert neighbours.min() > 0.98  # single linkage would chain them all
    groups = groups_of(batch, 0.98)
    assert len(set(groups.tolist())) > 3
    vectors = frames.reshape(60, -1)
    for group in np.unique(groups):
        # All are within 0.98 of one leader, so within 0.92 of each other (the angles add).
        assert np.corrcoef(vectors[groups == group]).min() > np.cos(2 * np.arccos(0.98)) - 1e-6


def test_constant_images_are_alike_only_where_equal():
    groups = groups_of(failures(np.stack([np.full((1, 8, 8), v) for v in (0, 0, 90, 255)]), [0] * 4), 0.98)
    assert groups[0] == groups[1]
    assert len(set(groups.tolist())) == 3


def test_noise_on_the_same_digit_is_found_in_several_chunks(monkeypatch):
    monkeypatch.setattr("repairops.data.split.CHUNK", 7)
    rng = np.random.default_rng(0)
    base = rng.integers(40, 216, (30, 3, 16, 16))
    noisy = (base + rng.normal(0, 4, base.shape)).round().clip(0, 255)
    groups = groups_of(failures(np.concatenate([base, noisy]), list(range(10)) * 6), 0.95)
    assert (groups[:30] == groups[30:]).all()
    assert len(set(groups.tolist())) == 30


# Split


def test_no_image_and_no_group_stands_on_two_sides():
    rng = np.random.default_rng(7)
    for _ in range(60):
        rows = int(rng.integers(2, 80))
        named = rng.integers(0, max(2, rows // 3), rows)
        batch = random_failures(
            rng, rows, ["" if rng.random() < 0.3 else f"g{g}" for g in named], int(rng.integers(1, 6))
        )
        fractions = {
            "heldout_fraction": float(rng.uniform(0.05, 0.9)),
            "validation_fraction": float(rng.uniform(0, 0.9)),
        }
        try:
            split = split_failures(batch, **SPLIT | fractions | {"seed": int(rng.integers(100))})
        except CannotSplit:
            assert len(set(batch.groups.tolist())) == 1
            continue
        assert sum(len(p) for p in parts(split)) == rows
        assert len(set.union(*map(ids, parts(split)))) == rows
        names = [set(p.groups.tolist()) - {""} for p in parts(split)]
        assert sum(map(len, names)) == len(set.union(*names))
        assert min(len(split.repair), len(split.heldout.batch)) > 0
        largest = np.bincount(groups_of(batch, 0.98)).max()
        assert abs(len(split.heldout.batch) - fractions["heldout_fraction"] * rows) <= 2 * largest


def test_single_images_are_split_exactly_and_by_label():
    batch = random_failures(np.random.default_rng(0), 1000, classes=4)
    split = split_failures(batch, **SPLIT)
    assert [len(p) for p in parts(split)] == [560, 140, 300]
    for label in range(4):
        n = (batch.images.labels == label).sum()
        assert abs((split.heldout.batch.images.labels == label).sum() - 0.3 * n) <= 1
        assert abs((split.validation.images.labels == label).sum() - 0.14 * n) <= 2


def test_a_giant_group_does_not_take_the_held_out_part():
    groups = ["giant"] * 900 + [f"g{i}" for i in range(100)]
    split = split_failures(random_failures(np.random.default_rng(0), 1000, groups), **SPLIT)
    assert "giant" in split.repair.groups
    assert len(split.heldout.batch) == 100 or len(split.validation) + len(split.heldout.batch) == 100


def test_the_same_seed_gives_the_same_split_whatever_the_order():
    batch = random_failures(np.random.default_rng(0), 90, [f"g{i // 3}" for i in range(90)])
    shuffled = batch.subset(np.random.default_rng(1).permutation(90))
    first, second = split_failures(batch, **SPLIT), split_failures(shuffled, **SPLIT)
    assert [ids(p) for p in parts(first)] == [ids(p) for p in parts(second)]
    other = split_failures(batch, **SPLIT | {"seed": 1})
    assert ids(other.heldout.batch) != ids(first.heldout.batch)


@pytest.mark.parametrize("rows", [2, 3, 4, 5])
def test_tiny_batches_fill_every_part_that_they_can(rows):
    repair, validation, heldout = parts(split_failures(random_failures(np.random.default_rng(0), rows), **SPLIT))
    assert min(len(repair), len(heldout)) > 0
    assert (len(validation) > 0) == (rows >= 3)


def test_one_group_cannot_be_split_and_the_error_says_what_to_do():
    rng = np.random.default_rng(0)
    with pytest.raises(CannotSplit, match=r"All 5 failures belong to the group 'scene-1'.*correct the group column"):
        split_failures(random_failures(rng, 5, ["scene-1"] * 5), **SPLIT)
    frame = rng.integers(0, 200, (1, 1, 8, 8))
    with pytest.raises(CannotSplit, match=r"one group of near duplicates.*split\.near_duplicate_similarity"):
        split_failures(failures(np.concatenate([frame, frame + 5]), [0, 0]), **SPLIT)
    with pytest.raises(CannotSplit, match="There are no failures"):
        split_failures(random_failures(rng, 2).subset(np.arange(0)), **SPLIT)


def test_earlier_failures_keep_their_parts_and_new_ones_that_are_alike_take_them():
    """No group has two parts: neither a name nor a near duplicate, of one batch or of both."""
    rng, seen = np.random.default_rng(3), np.zeros(4, int)
    for _ in range(30):
        names = [["" if rng.random() < 0.5 else f"g{rng.integers(20)}" for _ in range(60)] for _ in range(2)]
        old = random_failures(rng, 60, names[0])
        first = parts(split_failures(old, **SPLIT))
        roles = {
            i: role for role, part in zip(("repair", "validation", "heldout"), first, strict=True) for i in ids(part)
        }
        copies = (old.images.pixels[:20].int() + 9).clamp(max=255)
        fresh = random_failures(rng, 40)
        pixels, labels = torch.cat((copies, fresh.images.pixels)), [old.images.labels[:20], fresh.images.labels]
        new = failures(pixels, np.concatenate(labels), names[1])
        split, earlier = split_beside(new, old, roles, **SPLIT)
        assert [len(part) for part in parts(split)] == [len(ids(part)) for part in parts(split)]
        assert set.union(*map(ids, parts(split))) == ids(new)
        assert all(ids(part) <= ids(had) for part, had in zip(parts(earlier), first, strict=True))
        joined = [one.joined(other) for one, other in zip(parts(split), parts(earlier), strict=True)]
        everything = new.joined(old)
        group_of = dict(zip(everything.images.sample_ids.tolist(), groups_of(everything, 0.98).tolist(), strict=True))
        kept = [{group_of[i] for i in ids(part)} for part in joined]
        assert sum(map(len, kept)) == len(set.union(*kept))
        seen += [*map(len, parts(earlier)), len(old) - sum(map(len, parts(earlier)))]
    assert (
        seen.min() > 0
    )  # some had to be left out: a new failure is alike to one that trained and one that was held out


def test_beside_no_earlier_failure_the_split_is_the_usual_one():
    batch = random_failures(np.random.default_rng(0), 90, [f"g{i // 3}" for i in range(90)])
    split, earlier = split_beside(batch, batch.subset(np.arange(0)), {}, **SPLIT)
    assert [ids(part) for part in parts(split)] == [ids(part) for part in parts(split_failures(batch, **SPLIT))]
    assert [len(part) for part in parts(earlier)] == [0, 0, 0]
    again, _ = split_beside(batch, batch, dict.fromkeys(ids(batch), "heldout"), **SPLIT)
    assert [len(part) for part in parts(again)] == [0, 0, 90]  # the same batch once more


def test_fractions_of_zero_and_fractions_that_make_no_sense():
    batch = random_failures(np.random.default_rng(0), 20)
    none = {"heldout_fraction": 0.0, "validation_fraction": 0.0}
    assert [len(p) for p in parts(split_failures(batch, **SPLIT | none))] == [20, 0, 0]
    for name in none:
        for value in (-0.1, 1.0, float("nan")):
            with pytest.raises(InvalidOption, match=rf"split\.{name}"):
                split_failures(batch, **SPLIT | {name: value})


# Eq. 4


def test_eq_4_by_hand():
    # 1 - d / sum = 0.9, 0.7, 0.4, which sum to 2 = m - 1.
    assert reference_probabilities(np.array([1.0, 3.0, 6.0])) == pytest.approx([0.45, 0.35, 0.2])
    assert reference_probabilities(np.array([2.0, 2.0])) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("distances", [[0.0], [5.0], [0.0, 0.0, 0.0], [1e-16, 3e-17]])
def test_eq_4_is_uniform_where_it_is_undefined(distances):
    assert reference_probabilities(np.array(distances)) == pytest.approx(1 / len(distances))


# Clusters


def test_clusters_of_real_images():
    batch = digits()
    clusters = cluster_failures(batch, clusters=5, per_class=False, restarts=3, seed=2**62 + 1)
    sizes = np.bincount(clusters.assignments)
    assert clusters.count == 5
    assert (np.diff(sizes) <= 0).all()
    assert sizes.min() > 0
    pixels = batch.images.pixels.flatten(1).numpy() / 255
    for cluster in range(5):
        members = clusters.members(cluster)
        own = np.linalg.norm(pixels[members] - pixels[members].mean(0), axis=1)
        assert clusters.distances[members] == pytest.approx(own, rel=1e-4)
        assert (np.diff(clusters.distances[members]) >= 0).all()
        assert clusters.probabilities[members].sum() == pytest.approx(1)
        assert (np.diff(clusters.probabilities[members]) <= 1e-12).all()  # the nearer, the likelier
    again = cluster_failures(batch, clusters=5, per_class=False, restarts=3, seed=2**62 + 1)
    assert (again.assignments == clusters.assignments).all()


def test_clusters_are_the_true_ones_where_they_are_far_apart():
    rng = np.random.default_rng(0)
    levels = np.repeat([20, 120, 220], [5, 9, 7])
    pixels = levels[:, None, None, None] + rng.integers(-9, 10, (21, 3, 8, 8))
    clusters = cluster_failures(failures(pixels, [0] * 21), clusters=3, per_class=False, restarts=3, seed=0)
    assert clusters.assignments.tolist() == [2] * 5 + [0] * 9 + [1] * 7


def test_per_class_clusters_hold_one_class_each():
    batch = digits(200)
    clusters = cluster_failures(batch, clusters=2, per_class=True, restarts=1, seed=0)
    assert clusters.count == 20
    for cluster in range(20):
        assert len(set(batch.images.labels[clusters.assignments == cluster].tolist())) == 1


def test_fewer_different_images_than_clusters_is_said(caplog):
    image = np.random.default_rng(0).integers(0, 256, (2, 1, 8, 8))
    batch = failures(np.concatenate([image, image, image]), [0] * 6)
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, logger="repairops"):
        warnings.simplefilter("error")
        clusters = cluster_failures(batch, clusters=5, per_class=False, restarts=3, seed=0)
    assert clusters.count == 2
    assert "2 clusters instead of 5" in caplog.text
    assert (clusters.distances == 0).all()
    assert clusters.probabilities == pytest.approx(1 / 3)


def test_one_failure_and_none():
    batch = digits(1)
    clusters = cluster_failures(batch, clusters=5, per_class=False, restarts=3, seed=0)
    assert (clusters.count, clusters.probabilities.tolist()) == (1, [1.0])
    assert cluster_failures(batch.subset(np.arange(0)), clusters=5, per_class=False, restarts=1, seed=0).count == 0
    with pytest.raises(InvalidOption, match=r"clustering\.clusters"):
        cluster_failures(batch, clusters=0, per_class=False, restarts=1, seed=0)


def test_large_images_cluster_as_their_reductions():
    small = np.random.default_rng(0).integers(0, 256, (30, 3, 32, 32))
    large = small.repeat(2, axis=2).repeat(2, axis=3)
    one, two = (
        cluster_failures(failures(p, [0] * 30), clusters=3, per_class=False, restarts=2, seed=0) for p in (small, large)
    )
    assert (one.assignments == two.assignments).all()
    assert one.distances == pytest.approx(two.distances, rel=1e-5)


def test_mini_batches_leave_no_cluster_empty(monkeypatch):
    monkeypatch.setattr("repairops.core.clustering.MINI_BATCH_ROWS", 100)
    clusters = cluster_failures(digits(), clusters=5, per_class=False, restarts=2, seed=0)
    assert np.bincount(clusters.assignments).min() > 0
    assert np.isfinite(clusters.probabilities).all()


def test_an_image_belongs_to_the_cluster_with_the_nearest_centre():
    batch = digits()
    clusters = cluster_failures(batch, clusters=5, per_class=False, restarts=2, seed=0)
    again = nearest_clusters(batch, clusters, batch.images.pixels)
    assert (again == clusters.assignments).mean() > 0.99  # k-means may stop an iteration short
    pixels = batch.images.pixels.float()
    centres = torch.stack([pixels[clusters.assignments == c].mean(0).flatten() for c in range(5)])
    others = torch.rand(20, *pixels.shape[1:], generator=torch.Generator().manual_seed(0)).mul(255).byte()
    expected = torch.cdist(others.float().flatten(1), centres).argmin(1)
    assert nearest_clusters(batch, clusters, others).tolist() == expected.tolist()
    assert nearest_clusters(batch, clusters, others[:0]).shape == (0,)


# Grid


def test_grid_shows_the_nearest_members_enlarged_without_smoothing():
    batch = random_failures(np.random.default_rng(0), 5, side=20)
    clusters = Clusters(np.array([0, 0, 0, 1, 1]), np.array([3, 1, 2, 0, 0], np.float32), np.full(5, 0.5))
    grid = cluster_grid(batch.images, clusters, per_cluster=2)
    assert grid.shape == (2 * 62 + 2, 2 * 62 + 2, 3)
    assert grid.dtype == np.uint8
    enlarged = batch.images.pixels[1, 0].numpy().repeat(3, 0).repeat(3, 1)
    for channel in range(3):
        assert (grid[2:62, 2:62, channel] == enlarged).all()
    assert (grid[2:62, 64:124, 0] == batch.images.pixels[2, 0].numpy().repeat(3, 0).repeat(3, 1)).all()
    assert (grid[:2] == 160).all()


def test_grid_reduces_large_images_and_leaves_short_rows_grey():
    batch = failures(np.full((3, 3, 192, 128), 7), [0, 0, 0])
    clusters = Clusters(np.array([0, 0, 1]), np.zeros(3, np.float32), np.ones(3))
    grid = cluster_grid(batch.images, clusters)
    assert grid.shape == (2 * 98 + 2, 2 * 66 + 2, 3)
    assert (grid[2:98, 2:66] == 7).all()
    assert (grid[100:196, 68:132] == 160).all()
