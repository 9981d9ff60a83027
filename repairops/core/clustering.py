"""Clusters of a failure batch, by look or by content. The only importer of scikit-learn."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import warnings
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from repairops.config import ClusteringConfig, derive_seed
from repairops.core.look_space import fit_look_space
from repairops.core.parts import TrainingParts
from repairops.data.contact_sheet import image_grid
from repairops.data.records import Clusters, FailureBatch, ImageSet

logger = logging.getLogger("repairops")

CHUNK = 512  # images converted or compared at once
FEATURE_SIDE = 32  # pixels; larger images are clustered on a reduction to this size
MINI_BATCH_ROWS = 20_000  # more failures than this are clustered by mini-batch k-means
# By look. On 15 corruptions of CIFAR-10, severities mixed, one look is cut at a distance of up to 2.1.
APART, FEW = 2.2, 15  # least `distance_of_looks`, and at which number of failures it is twice that
FEWEST, SMALLEST = 10, 0.1  # failures that a look has at least, and of all


def cluster_parts(parts: TrainingParts, config: ClusteringConfig, *, seed: int) -> Clusters:
    """Clusters of the repair failures of a training's parts, see `cluster_failures`; seed: of the job."""
    clean = parts.sample.pixels if config.by == "look" else None
    options = dataclasses.asdict(config)
    return cluster_failures(parts.failures, **options, seed=derive_seed(seed, "clustering"), clean=clean)


def cluster_failures(
    failures: FailureBatch,
    *,
    clusters: int,
    per_class: bool,
    restarts: int,
    seed: int,
    by: Literal["look", "pixels"] = "pixels",
    clean: Tensor | None = None,
) -> Clusters:
    """k-means on the repair failures, the largest cluster first.

    by: `pixels`, the paper's, which puts like scenes together, or `look`, what sets images apart from the `clean` train
    images, uint8 (N, C, H, W), whatever they show (`LookSpace`). By look there are as many clusters as looks that are
    clearly apart (`distance_of_looks`), `clusters` at most.
    clusters: over the whole batch (the paper), or with `per_class` inside each true label by pixels (the authors'
    scripts, which also standardise them; here they stay in 0..1). Images larger than 32x32 are reduced to it first.
    Fewer different images than clusters give fewer clusters, which is logged. More than 20,000 failures are
    clustered by mini-batch k-means.

    Source: DeepRepair, section on style clustering and Eq. 4. Raises InvalidOption for less than one cluster.
    """
    ClusteringConfig.check(clusters=clusters)
    labels = failures.images.labels
    space, features = None, None
    if by == "look" and not per_class and clean is not None and len(labels) and len(clean):
        space, features = fit_look_space(failures.images.pixels, clean)
    if features is None:
        features = _pixels(failures.images.pixels)
    assignments = np.full(len(labels), -1, np.int64)
    parts = [np.flatnonzero(labels == k) for k in np.unique(labels)] if per_class else [np.arange(len(labels))]
    divide = _looks if space else k_means
    for rows in parts:
        if len(rows):
            assignments[rows] = assignments.max() + 1 + divide(features[rows], clusters, restarts, seed)
    assignments = _largest_first(assignments)
    found, wanted = int(assignments.max(initial=-1)) + 1, clusters * len(parts)
    if found < wanted and not space:
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
    return Clusters(assignments, distances.astype(np.float32), probabilities, space)


def nearest_clusters(failures: FailureBatch, clusters: Clusters, pixels: Tensor) -> np.ndarray:
    """The cluster whose centre is nearest to each image: int64 (N,) for pixels uint8 (N, C, H, W).

    failures: the repair failures that the clusters were made of; the images have the same size. Distances are those
    of `cluster_failures`. With clusters inside each class too, an image may be nearest to another class's cluster.
    """
    if clusters.count < 2 or not len(pixels):
        return np.zeros(len(pixels), np.int64)
    space = clusters.space or _pixels
    features = space(failures.images.pixels)
    centres = np.stack([features[clusters.assignments == c].mean(axis=0) for c in range(clusters.count)])
    others = space(pixels)
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


def _pixels(pixels: Tensor) -> np.ndarray:
    """float32 (N, C * h * w) in 0..1, h and w at most 32, reduced by averaging."""
    height, width = min(pixels.shape[2], FEATURE_SIDE), min(pixels.shape[3], FEATURE_SIDE)
    features = np.empty((len(pixels), pixels.shape[1] * height * width), np.float32)
    for start in range(0, len(pixels), CHUNK):
        images = pixels[start : start + CHUNK].float() / 255
        if (height, width) != tuple(pixels.shape[2:]):
            images = F.adaptive_avg_pool2d(images, (height, width))
        features[start : start + CHUNK] = images.flatten(1).numpy()
    return features


def k_means(features: np.ndarray, clusters: int, restarts: int, seed: int) -> np.ndarray:
    """Cluster of each row of float (R, D), int64 (R,), 0..k-1 without gaps, k at most the number of different rows."""
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


def _looks(features: np.ndarray, most: int, restarts: int, seed: int) -> np.ndarray:
    """Look of each row, int64 (R,): the most clusters, `most` at most, that are all large and clearly apart."""
    enough, apart = max(FEWEST, SMALLEST * len(features)), APART * (1 + FEW / len(features))
    for k in range(min(most, int(len(features) / enough)), 1, -1):
        found = k_means(features, k, restarts, seed)
        if np.bincount(found).min() >= enough and distance_of_looks(features, found) > apart:
            return found
    return np.zeros(len(features), np.int64)


def distance_of_looks(features: np.ndarray, assignments: np.ndarray) -> float:
    """Of the two clusters that are the least apart, the squared distance of the centres, float (R, D), over the
    standard deviation of the members along it; infinite for one cluster.

    k-means cuts any cloud in two: a long one, of weak and strong degradations, at up to 2.
    """
    least = float("inf")
    for one, other in itertools.combinations(np.unique(assignments), 2):
        parts = [features[assignments == c] for c in (one, other)]
        line = parts[0].mean(axis=0) - parts[1].mean(axis=0)
        length = max(float(np.linalg.norm(line)), 1e-9)
        spread = np.sqrt(np.mean([(part @ (line / length)).var() for part in parts]))
        least = min(least, float(length**2 / max(spread, 1e-9)))
    return least


def _largest_first(assignments: np.ndarray) -> np.ndarray:
    """The same clusters, numbered by size; of equal sizes the one with the earlier first member comes first."""
    _, first, inverse, sizes = np.unique(assignments, return_index=True, return_inverse=True, return_counts=True)
    rank: np.ndarray = np.argsort(np.lexsort((first, -sizes)))[inverse].astype(np.int64)
    return rank


def cluster_grid(failures: ImageSet, clusters: Clusters, per_cluster: int = 10) -> np.ndarray:
    """A picture of the clusters, uint8 (H, W, 3): a row for each, its members nearest to the centre from the left."""
    members = [clusters.members(cluster)[:per_cluster] for cluster in range(clusters.count)]
    return image_grid([failures.pixels[torch.as_tensor(index)] for index in members])
