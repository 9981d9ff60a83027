"""Groups, split and clusters of a failure batch. The only importer of scikit-learn."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from repairops.errors import CannotSplit
from repairops.grid import image_grid
from repairops.ranges import check_number
from repairops.records import Clusters, FailureBatch, FailureSplit, HeldOutFailures, ImageSet

logger = logging.getLogger("repairops")

CHUNK = 512  # images converted or compared at once
THUMBNAIL = 8  # pixels a side
FEATURE_SIDE = 32  # pixels; larger images are clustered on a reduction to this size
MINI_BATCH_ROWS = 20_000  # more failures than this are clustered by mini-batch k-means


def split_failures(
    batch: FailureBatch,
    *,
    heldout_fraction: float,
    validation_fraction: float,
    near_duplicate_similarity: float,
    seed: int,
) -> FailureSplit:
    """Repair, validation and held-out failures; images of one group (see `group_failures`) stay together.

    heldout_fraction: of all failures, in [0, 1). validation_fraction: of those not held out. Both are met within
    the size of the largest group, for each label as well. While there are enough groups, each part whose fraction is
    above 0 gets at least one: of two groups, one repairs and one is held out. The split depends on the seed and the
    images, not on their order.

    Raises CannotSplit where all failures are one group, InvalidOption for fractions outside [0, 1).
    """
    check_number("split", "heldout_fraction", heldout_fraction)
    check_number("split", "validation_fraction", validation_fraction)
    groups = group_failures(batch, near_duplicate_similarity)
    count = int(groups.max()) + 1 if len(groups) else 0
    if count < 2 and heldout_fraction > 0:
        raise CannotSplit(len(batch), str(batch.groups[0]) if len(batch) else "")
    order = np.random.default_rng(seed).permutation(count)
    keep = 2 if validation_fraction > 0 and count > 2 else 1
    heldout = _pick_groups(order, groups, batch.images.labels, heldout_fraction, keep)
    left = order[~np.isin(order, heldout)]
    validation = _pick_groups(left, groups, batch.images.labels, validation_fraction, 1)
    is_heldout, is_validation = np.isin(groups, heldout), np.isin(groups, validation)
    return FailureSplit(
        repair=batch.subset(np.flatnonzero(~is_heldout & ~is_validation)),
        validation=batch.subset(np.flatnonzero(is_validation)),
        heldout=HeldOutFailures(batch.subset(np.flatnonzero(is_heldout))),
    )


def group_failures(batch: FailureBatch, similarity: float) -> np.ndarray:
    """The group of each failure, as `group_images`."""
    return group_images(batch.images, batch.groups, similarity)


def group_images(images: ImageSet, names: np.ndarray, similarity: float) -> np.ndarray:
    """The group of each image, int64 (N,), 0..groups-1 by the smallest sample id. names: (N,) strings, '' = none.

    One group: the same non-empty name; the same sample id; near duplicates of one leader image. Leaders
    are found in the order of sample ids: an image without a group name joins the most similar leader of its label
    whose thumbnail correlates above `similarity` (images with a name are leaders all), else it becomes one. So
    every near duplicate is alike to its leader, and chains of slowly changing frames do not end in one group.
    """
    n = len(images)
    order = np.argsort(images.sample_ids, kind="stable")
    parent = np.arange(n)

    def join(same: np.ndarray) -> None:
        first: dict[str, int] = {}
        for i in order.tolist():
            if name := str(same[i]):
                _union(parent, i, first.setdefault(name, i))

    join(names)
    join(images.sample_ids)
    for label in np.unique(images.labels):
        rows = order[images.labels[order] == label]
        for row, leader in _leaders(_thumbnails(images.pixels, rows), rows, names[rows] != "", similarity):
            _union(parent, row, leader)
    roots = np.array([_root(parent, i) for i in order], dtype=np.int64)
    _, first, inverse = np.unique(roots, return_index=True, return_inverse=True)
    groups = np.empty(n, np.int64)
    groups[order] = np.argsort(np.argsort(first))[inverse]
    return groups


def _root(parent: np.ndarray, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = int(parent[i])
    return i


def _union(parent: np.ndarray, a: int, b: int) -> None:
    parent[_root(parent, a)] = _root(parent, b)


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


def cluster_failures(failures: FailureBatch, *, clusters: int, per_class: bool, restarts: int, seed: int) -> Clusters:
    """k-means on the pixels of the repair failures, the largest cluster first.

    clusters: over the whole batch (the paper), or with `per_class` inside each true label (the authors' scripts,
    which also standardise the pixels; here they stay in 0..1). Images larger than 32x32 are reduced to it first.
    Fewer different images than clusters give fewer clusters, which is logged. More than 20,000 failures are
    clustered by mini-batch k-means.

    Source: DeepRepair, section on style clustering and Eq. 4. Raises InvalidOption for less than one cluster.
    """
    check_number("clustering", "clusters", clusters)
    labels = failures.images.labels
    features = _features(failures.images.pixels)
    assignments = np.full(len(labels), -1, np.int64)
    parts = [np.flatnonzero(labels == k) for k in np.unique(labels)] if per_class else [np.arange(len(labels))]
    for rows in parts:
        if len(rows):
            assignments[rows] = assignments.max() + 1 + _k_means(features[rows], clusters, restarts, seed)
    assignments = _largest_first(assignments)
    found, wanted = int(assignments.max(initial=-1)) + 1, clusters * len(parts)
    if found < wanted:
        logger.warning(
            "%d clusters instead of %d: the %d repair failures hold too few different images.",
            found,
            wanted,
            len(labels),
        )
    distances = np.zeros(len(labels))
    probabilities = np.zeros(len(labels))
    for cluster in range(found):
        members = np.flatnonzero(assignments == cluster)
        own = features[members]
        centre = own.mean(axis=0, dtype=np.float64).astype(np.float32)  # exact for identical members
        distances[members] = np.linalg.norm(own - centre, axis=1)
        probabilities[members] = reference_probabilities(distances[members])
    return Clusters(assignments, distances.astype(np.float32), probabilities)


def nearest_clusters(failures: FailureBatch, clusters: Clusters, pixels: Tensor) -> np.ndarray:
    """The cluster whose centre is nearest to each image: int64 (N,) for pixels uint8 (N, C, H, W).

    failures: the repair failures that the clusters were made of; the images have the same size. Distances are those
    of `cluster_failures`. With clusters inside each class too, an image may be nearest to another class's cluster.
    """
    features = _features(failures.images.pixels)
    centres = np.stack([features[clusters.assignments == c].mean(axis=0) for c in range(clusters.count)])
    others = _features(pixels)
    squares = (centres**2).sum(axis=1) - 2 * others @ centres.T  # without the images' own squares: the same order
    nearest: np.ndarray = squares.argmin(axis=1).astype(np.int64)
    return nearest


def reference_probabilities(distances: np.ndarray) -> np.ndarray:
    """The chance of each of a cluster's members (m,) to be drawn as reference, float64 (m,), sums to 1.

    Eq. 4 of DeepRepair, 1 - d_j / sum of d, normalised: as printed its terms sum to m - 1. Uniform for one member
    or where all distances are zero.
    """
    m, total = len(distances), float(np.sum(distances, dtype=np.float64))
    if m == 1 or distances.max() <= 1e-6:  # rounding; images that differ are farther apart, in units of 0..1
        return np.full(m, 1 / m)
    weights: np.ndarray = 1 - distances.astype(np.float64) / total
    normalised: np.ndarray = weights / weights.sum()
    return normalised


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Normal distributions with diagonal covariances: weights (K,), means (K, D), variances (K, D), float64."""

    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray


def fit_gaussian_mixture(features: np.ndarray, components: int, *, seed: int) -> GaussianMixture:
    """A mixture of at most `components` for features float64 (N, D), N >= 1; fewer where fewer rows differ."""
    from sklearn.mixture import GaussianMixture as Estimator

    if len(features) < 2:
        features = np.repeat(features, 2, axis=0)
    different = len(np.unique(features, axis=0))
    estimator = Estimator(min(components, different), covariance_type="diag", reg_covar=1e-4, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stopping at max_iter is good enough
        estimator.fit(features)
    return GaussianMixture(estimator.weights_, estimator.means_, estimator.covariances_)


def _features(pixels: Tensor) -> np.ndarray:
    """float32 (N, C * h * w) in 0..1, h and w at most 32, reduced by averaging."""
    height, width = min(pixels.shape[2], FEATURE_SIDE), min(pixels.shape[3], FEATURE_SIDE)
    features = np.empty((len(pixels), pixels.shape[1] * height * width), np.float32)
    for start in range(0, len(pixels), CHUNK):
        images = pixels[start : start + CHUNK].float() / 255
        if (height, width) != tuple(pixels.shape[2:]):
            images = F.adaptive_avg_pool2d(images, (height, width))
        features[start : start + CHUNK] = images.flatten(1).numpy()
    return features


def _k_means(features: np.ndarray, clusters: int, restarts: int, seed: int) -> np.ndarray:
    """Cluster of each row, int64 (R,), 0..k-1 without gaps, k at most the number of different rows."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    different = len({row.tobytes() for row in features})
    k = min(clusters, different)
    if k == 1:
        return np.zeros(len(features), np.int64)
    kind = MiniBatchKMeans if len(features) > MINI_BATCH_ROWS else KMeans
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rows that differ only by rounding may still merge
        fitted = kind(k, n_init=max(1, restarts), random_state=seed % 2**32).fit(features)
    labels: np.ndarray = np.unique(fitted.labels_, return_inverse=True)[1].astype(np.int64)
    return labels


def _largest_first(assignments: np.ndarray) -> np.ndarray:
    """The same clusters, numbered by size; of equal sizes the one with the earlier first member comes first."""
    _, first, inverse, sizes = np.unique(assignments, return_index=True, return_inverse=True, return_counts=True)
    rank: np.ndarray = np.argsort(np.lexsort((first, -sizes)))[inverse].astype(np.int64)
    return rank


def cluster_grid(failures: ImageSet, clusters: Clusters, per_cluster: int = 10) -> np.ndarray:
    """A picture of the clusters, uint8 (H, W, 3): a row for each, its members nearest to the centre from the left."""
    members = [clusters.members(cluster)[:per_cluster] for cluster in range(clusters.count)]
    return image_grid([failures.pixels[torch.as_tensor(index)] for index in members])
