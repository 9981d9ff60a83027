"""Clean images to choose by: none that the champion was trained on, none that judges."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from repairops.data.records import ImageSet
from repairops.data.split import group_images


@dataclass(frozen=True, eq=False)
class Chosen:
    """rows: int64, ascending, of the images that may choose. The counts are of those that may not, each once."""

    rows: np.ndarray
    in_train_set: int
    in_clean_set: int


def cut_rows(
    clean: ImageSet, train_ids: Collection[str], *, fraction: float, most: int, similarity: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a clean set that shall choose, and those of the rest, which judges: int64, ascending, disjoint.

    fraction: of the images, in [0, 1), at most `most` of them; both are upper limits. Images that are the same, or
    near duplicates (`similarity`, see `group_images`), stay on one side, and so does a train image with all that is
    alike to it: it judges as before, since a champion that remembers it has nothing to tell by it. The cut depends on
    the seed and the images, not on their order.
    """
    rows = np.arange(len(clean))
    want = min(round(fraction * len(clean)), most)
    if want < 1:
        return rows[:0], rows
    groups = group_images(clean, np.full(len(clean), ""), similarity)
    sizes = np.bincount(groups)
    remembered = np.zeros(len(sizes), dtype=bool)
    remembered[groups[_known(clean, train_ids)]] = True
    taken, left = np.zeros(len(sizes), dtype=bool), want
    for group in np.random.default_rng(seed).permutation(len(sizes)):
        if not remembered[group] and sizes[group] <= left:
            taken[group] = True
            left -= sizes[group]
    return rows[taken[groups]], rows[~taken[groups]]


def choose_rows(
    images: ImageSet, train_ids: Collection[str], clean_ids: Collection[str], *, most: int, seed: int
) -> Chosen:
    """The rows of a validation set that are in neither of the other sets; a seeded draw of `most` where there are more.

    An image that is in both counts as one of the train set.
    """
    remembered = _known(images, train_ids)
    judges = _known(images, clean_ids) & ~remembered
    rows = np.flatnonzero(~remembered & ~judges)
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    return Chosen(rows, int(remembered.sum()), int(judges.sum()))


def _known(images: ImageSet, ids: Collection[str]) -> np.ndarray:
    """Which images have one of these sample ids: bool (N,)."""
    known = frozenset(ids)
    return np.array([i in known for i in images.sample_ids.tolist()], dtype=bool)
