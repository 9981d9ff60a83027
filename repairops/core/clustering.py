"""Clusters of a failure batch. The only importer of scikit-learn."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from repairops.config import ClusteringConfig
from repairops.data.contact_sheet import image_grid
from repairops.data.records import Clusters, FailureBatch, ImageSet

logger = logging.getLogger("repairops")

CHUNK = 512  # images converted or compared at once
FEATURE_SIDE = 32  # pixels; larger images are clustered on a reduction to this size
MINI_BATCH_ROWS = 20_000  # more failures than this are clustered by mini-batch k-means


def cluster_failures(failures: FailureBatch, *, clusters: int, per_class: bool, restarts: int, seed: int) -> Clusters:
    """k-means on the pixels of the repair failures, the largest cluster first.

    clusters: over the whole batch (the paper), or with `per_class` inside each true label (the authors' scripts,
    which also standardise the pixels; here they stay in 0..1). Images larger than 32x32 are reduced to it first.
    Fewer different images than clusters give fewer clusters, which is logged. More than 20,000 failures are
    clustered by mini-batch k-means.

    Source: DeepRepair, section on style clustering and Eq. 4. Raises InvalidOption for less than one cluster.
    """
    ClusteringConfig.check(clusters=clusters)
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


def fit_gaussian_mixture(features: np.ndarray, components: int, *, seed: int) -> Any:
    """scikit-learn's GaussianMixture of at most `components` for features float64 (N, D), N >= 1.

    With diagonal covariances; fewer components where fewer rows differ.
    """
    from sklearn.mixture import GaussianMixture

    if len(features) < 2:
        features = np.repeat(features, 2, axis=0)
    different = len(np.unique(features, axis=0))
    mixture = GaussianMixture(min(components, different), covariance_type="diag", reg_covar=1e-4, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stopping at max_iter is good enough
        return mixture.fit(features)


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
