"""Which images are labelled first: those that are most worth it, and not one scene again and again."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from repairops.core.clustering import k_means

POOL = 2  # times as many images as are chosen are spread over clusters: the best by score
RESTARTS = 3  # of k-means


@dataclass(frozen=True, eq=False)
class Choice:
    """rows: of the images, int64 (n,), the first to be labelled first. clusters: of each, int64 (n,), from 0."""

    rows: np.ndarray
    clusters: np.ndarray


def ranking(scores: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Rows by score (N,), the highest first; after the first of the same pixels, by ids (N,), others come last."""
    again = np.ones(len(ids), bool)
    again[np.unique(ids, return_index=True)[1]] = False
    order: np.ndarray = np.lexsort((np.arange(len(ids)), -scores, again))
    return order


def choose(
    scores: np.ndarray, features: np.ndarray, ids: np.ndarray, count: int, *, clusters: int, seed: int
) -> Choice:
    """`count` images at most, by their scores (N,), spread over clusters of their features, float (N, D).

    The `POOL` times `count` images with the highest scores are put into clusters by k-means, each feature in units of
    its deviation. Then the clusters take turns, each with its best image that is left; the cluster of the highest score
    begins. So a scene that was taken a hundred times fills one part in `clusters`, as long as there is something else.
    One cluster leaves the order of the scores. Images with the same pixels are no two choices.
    """
    order = ranking(scores, ids)[: len(np.unique(ids))][: POOL * count]
    found = _clusters(features[order], clusters, seed)
    best_first = np.unique(found, return_index=True)[1].argsort()
    turns = zip_longest(*(order[found == cluster].tolist() for cluster in best_first))
    rows = [row for turn in turns for row in turn if row is not None][:count]
    place = dict(zip(order.tolist(), best_first.argsort()[found].tolist(), strict=True))
    return Choice(np.array(rows, np.int64), np.array([place[row] for row in rows], np.int64))


def _clusters(features: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """int64 (N,), 0..k-1 without gaps."""
    finite = np.nan_to_num(features.astype(np.float64), posinf=0, neginf=0)
    deviation = finite.std(axis=0)
    standard = (finite - finite.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return k_means(standard.astype(np.float32), clusters, RESTARTS, seed)
