"""Groups of alike images, the split of a failure batch that keeps them together, and clean images to choose by.

What chooses among the clean images is none that the champion was trained on, and none that judges.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional as F

from repairops.config import SplitConfig
from repairops.data.records import FailureBatch, FailureSplit, FieldRows, HeldOutFailures, ImageSet
from repairops.errors import CannotSplit

CHUNK = 512  # images converted or compared at once
THUMBNAIL = 8  # pixels a side
ROLES = ("repair", "validation", "heldout")  # of a failure; the first are the stronger: what has trained never judges
FREE = len(ROLES)  # no role yet


def split_failures(
    batch: FailureBatch,
    *,
    heldout_fraction: float,
    validation_fraction: float,
    near_duplicate_similarity: float,
    seed: int,
) -> FailureSplit:
    """Repair, validation and held-out failures; images of one group (see `group_images`) stay together.

    heldout_fraction: of all failures, in [0, 1). validation_fraction: of those not held out. Both are met within
    the size of the largest group, for each label as well. While there are enough groups, each part whose fraction is
    above 0 gets at least one: of two groups, one repairs and one is held out. The split depends on the seed and the
    images, not on their order.

    Raises CannotSplit where all failures are one group, InvalidOption for fractions outside [0, 1).
    """
    SplitConfig.check(heldout_fraction=heldout_fraction, validation_fraction=validation_fraction)
    groups = group_images(batch.images, batch.groups, near_duplicate_similarity)
    settled = np.full(int(groups.max(initial=-1)) + 1, FREE)
    return _split(batch, groups, settled, heldout_fraction, validation_fraction, seed)


def split_beside(
    batch: FailureBatch,
    earlier: FailureBatch,
    roles: Mapping[str, str],
    *,
    heldout_fraction: float,
    validation_fraction: float,
    near_duplicate_similarity: float,
    seed: int,
) -> tuple[FailureSplit, FailureSplit]:
    """The parts of new failures, and those of `earlier` ones, which had their `roles` (by sample id) before.

    Groups are found among all of them, and a group takes the strongest role that an earlier failure of it had: what
    has trained, or chosen, never judges. New failures of such a group take it; an earlier failure whose own role is a
    weaker one takes part in nothing. The other new failures are split as by `split_failures`.
    """
    SplitConfig.check(heldout_fraction=heldout_fraction, validation_fraction=validation_fraction)
    names = np.concatenate((batch.groups, earlier.groups))
    groups = group_images(batch.images.joined(earlier.images), names, near_duplicate_similarity)
    own = np.array([ROLES.index(roles[sample_id]) for sample_id in earlier.images.sample_ids.tolist()], np.int64)
    settled = np.full(int(groups.max(initial=-1)) + 1, FREE)
    np.minimum.at(settled, groups[len(batch) :], own)
    kept = np.where(settled[groups[len(batch) :]] == own, own, FREE)
    present, groups = np.unique(groups[: len(batch)], return_inverse=True)
    split = _split(batch, groups, settled[present], heldout_fraction, validation_fraction, seed)
    return split, _parts(earlier, kept)


def _split(
    batch: FailureBatch, groups: np.ndarray, settled: np.ndarray, heldout: float, validation: float, seed: int
) -> FailureSplit:
    """groups: of each failure, 0 and up. settled: the role of each group, an index into ROLES; FREE: it is drawn."""
    count, labels = len(settled), batch.images.labels
    if count < 2 and heldout > 0:
        raise CannotSplit(len(batch), str(batch.groups[0]) if len(batch) else "")
    order, role_of = np.random.default_rng(seed).permutation(count), settled.copy()
    order = order[settled[order] == FREE]
    role_of[order] = 0
    keep = 2 if validation > 0 and len(order) > 2 else 1
    picked = _pick_groups(order, groups, labels, heldout, keep)
    role_of[picked] = 2
    left = order[~np.isin(order, picked)]
    role_of[_pick_groups(left, groups, labels, validation, 1)] = 1
    return _parts(batch, role_of[groups])


def _parts(batch: FailureBatch, roles: np.ndarray) -> FailureSplit:
    """roles: of each failure, an index into ROLES, or FREE: it is in no part."""
    repair, validation, heldout = (batch.subset(np.flatnonzero(roles == role)) for role in range(len(ROLES)))
    return FailureSplit(repair, validation, HeldOutFailures(heldout))


def split_by_roles(batch: FailureBatch, roles: Mapping[str, str]) -> FailureSplit:
    """The parts that the failures had before; roles: 'repair', 'validation' or 'heldout' by each one's sample id."""
    return _parts(batch, np.array([ROLES.index(roles[sample_id]) for sample_id in batch.images.sample_ids.tolist()]))


def apart_from(field: FieldRows, split: FailureSplit, similarity: float) -> np.ndarray:
    """The field rows of no scene (see `group_images`) of which a failure repairs or chooses: int64, ascending."""
    parts = [split.repair, split.validation]
    everything = field.images.joined(*(part.images for part in parts))
    names = np.concatenate([field.groups, *(part.groups for part in parts)])
    groups, count = group_images(everything, names, similarity), len(field.images)
    return np.flatnonzero(~np.isin(groups[:count], groups[count:]))


def cut_rows(
    clean: ImageSet, *, fraction: float, most: int, similarity: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a clean set that shall choose, and those of the rest, which judges: int64, ascending, disjoint.

    fraction: of the images, in [0, 1), at most `most` of them; both are upper limits. Images that are the same, or
    near duplicates (`similarity`, see `group_images`), stay on one side. The cut depends on the seed and the images,
    not on their order.
    """
    rows = np.arange(len(clean))
    want = min(round(fraction * len(clean)), most)
    if want < 1:
        return rows[:0], rows
    groups = group_images(clean, np.full(len(clean), ""), similarity)
    sizes = np.bincount(groups)
    taken, left = np.zeros(len(sizes), dtype=bool), want
    for group in np.random.default_rng(seed).permutation(len(sizes)):
        if sizes[group] <= left:
            taken[group] = True
            left -= sizes[group]
    return rows[taken[groups]], rows[~taken[groups]]


def choose_rows(free: np.ndarray, *, most: int, seed: int) -> np.ndarray:
    """The rows of a validation set that are `free` to choose, bool (N,); a seeded draw of `most` where there are more.

    int64, ascending.
    """
    rows = np.flatnonzero(free)
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    return rows


def group_images(images: ImageSet, names: np.ndarray, similarity: float) -> np.ndarray:
    """The group of each image, int64 (N,), 0..groups-1 by the smallest sample id. names: (N,) strings, '' = none.

    One group: the same non-empty name; the same sample id; near duplicates of one leader image. Leaders
    are found in the order of sample ids: an image without a group name joins the most similar leader of its label
    whose thumbnail correlates above `similarity` (images with a name are leaders all), else it becomes one. So
    every near duplicate is alike to its leader, and chains of slowly changing frames do not end in one group.
    """
    n = len(images)
    order = np.argsort(images.sample_ids, kind="stable")
    links: list[tuple[int, int]] = []
    for same in (names, images.sample_ids):
        first: dict[str, int] = {}
        links += [(i, first.setdefault(name, i)) for i in order.tolist() if (name := str(same[i]))]
    for label in np.unique(images.labels):
        rows = order[images.labels[order] == label]
        links += _leaders(_thumbnails(images.pixels, rows), rows, names[rows] != "", similarity)
    graph = coo_array((np.ones(len(links)), np.array(links, np.int64).reshape(-1, 2).T), shape=(n, n))
    component = connected_components(graph, directed=False)[1]
    _, place, inverse = np.unique(component[order], return_index=True, return_inverse=True)
    groups = np.empty(n, np.int64)
    groups[order] = np.argsort(np.argsort(place))[inverse]
    return groups


def _thumbnails(pixels: Tensor, rows: np.ndarray) -> Tensor:
    """8x8 thumbnails without each channel's mean, at unit length, float32 (R, C * 64); constant images are zeros."""
    parts = [torch.empty(0, pixels.shape[1] * THUMBNAIL**2)]
    for start in range(0, len(rows), CHUNK):
        images = pixels[torch.as_tensor(rows[start : start + CHUNK])].float()
        small = F.adaptive_avg_pool2d(images, THUMBNAIL)
        parts.append((small - small.mean(dim=(2, 3), keepdim=True)).flatten(1))
    vectors = torch.cat(parts)
    length = vectors.norm(dim=1, keepdim=True)
    return torch.where(length > 1e-2, vectors / length.clamp_min(1e-2), 0.0)


def _leaders(vectors: Tensor, rows: np.ndarray, named: np.ndarray, similarity: float) -> list[tuple[int, int]]:
    """Pairs (row, its leader's row). Compares one chunk with the leaders at a time: memory stays CHUNK x rows."""
    leaders = np.flatnonzero(named).tolist()
    joined: list[tuple[int, int]] = []
    waiting = np.flatnonzero(~named)
    for start in range(0, len(waiting), CHUNK):
        chunk = waiting[start : start + CHUNK]
        known = len(leaders)
        if known:
            best, which = (vectors[chunk] @ vectors[leaders].T).max(dim=1)
        within = (vectors[chunk] @ vectors[chunk].T).numpy()
        fresh: list[int] = []  # positions in this chunk that became leaders
        for position, row in enumerate(chunk.tolist()):
            likeness, leader = (float(best[position]), leaders[int(which[position])]) if known else (-1.0, -1)
            if fresh and (new := within[position, fresh]).max() > likeness:
                likeness, leader = float(new.max()), int(chunk[fresh[int(new.argmax())]])
            if likeness > similarity:
                joined.append((int(rows[row]), int(rows[leader])))
            else:
                fresh.append(position)
        leaders += chunk[fresh].tolist()
    return joined


def _pick_groups(order: np.ndarray, groups: np.ndarray, labels: np.ndarray, fraction: float, keep: int) -> np.ndarray:
    """The groups of `order` that make up `fraction` of its rows, at least `keep` groups left out.

    Error diffusion over the groups label by label, groups of more than 5% of the rows first: each is picked where
    that brings the picked share nearer to the fraction of what was seen.
    """
    if fraction <= 0 or len(order) <= keep:
        return np.empty(0, np.int64)
    sizes = np.bincount(groups)
    label_of = np.full(len(sizes), labels.max(), np.int64)
    np.minimum.at(label_of, groups, labels)  # the lowest, where a group has several
    total = sizes[order].sum()
    large = np.where(sizes[order] > total / 20, sizes[order], 0)
    owed, picked = 0.0, []
    for group in order[np.lexsort((label_of[order], -large))]:
        owed += fraction * sizes[group]
        if owed >= sizes[group] / 2:
            picked.append(group)
            owed -= sizes[group]
    if not picked:
        picked = [min(order, key=lambda g: abs(sizes[g] - fraction * total))]
    while len(order) - len(picked) < keep:
        picked.remove(min(picked, key=lambda g: sizes[g]))
    return np.array(picked, dtype=np.int64)
