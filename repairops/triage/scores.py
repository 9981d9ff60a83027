"""How much an image is worth a label, by one figure each: the higher, the more.

From the answer alone: confidence, margin, gini. From how far the network's activations are from those on train images:
lsa, dsa, mahalanobis. All in float64. An image on which the network answers no numbers is worth the most, infinity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import logsumexp, softmax
from torch import Tensor

FEATURES = 300  # values of an image that a density is estimated over, at most: those that vary most, as in dnn-tip
FEWEST = 4  # train images with an answer that a density of its own is estimated from
FLAT = 1e-9  # of the largest variance: directions in which train images vary less say nothing
AT_ONCE = 1024  # images whose distances are in memory

Answers = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Reference:
    """What the train set's images do in the network. activations: (M, D). answers, labels: class indices (M,)."""

    activations: np.ndarray
    answers: np.ndarray
    labels: np.ndarray


def confidence(probabilities: np.ndarray) -> np.ndarray:
    """1 minus the largest probability: (N, K) to (N,) in 0..1. The plain rival of all others."""
    found: np.ndarray = 1 - probabilities.max(axis=1)
    return found


def margin(probabilities: np.ndarray) -> np.ndarray:
    """1 minus the lead of the answer over the second class: (N, K) to (N,) in 0..1."""
    second, first = np.partition(probabilities, -2, axis=1)[:, -2:].T
    found: np.ndarray = 1 - (first - second)
    return found


def gini(probabilities: np.ndarray) -> np.ndarray:
    """1 minus the sum of the squared probabilities: (N, K) to (N,) in 0..1.

    Source: DeepGini (Feng et al., ISSTA 2020).
    """
    found: np.ndarray = 1 - np.square(probabilities).sum(axis=1)
    return found


def lsa(activations: np.ndarray, answers: np.ndarray, reference: Reference) -> np.ndarray:
    """Likelihood-based surprise: minus the log density of activations (N, D) among train images of the same answer.

    A Gaussian kernel density by Scott's rule for each answer, over the values that vary most. Source: Kim et al., ICSE
    2019. Differs: the most varying values (`FEATURES`, and at most half as many as images) instead of a least variance;
    the logarithm is taken of the sum before it can vanish; directions in which no train image varies are left out; an
    answer that fewer than `FEWEST` train images have is compared with all of them.
    """
    found = np.empty(len(activations))
    for answer in np.unique(answers):
        own = reference.activations[reference.answers == answer]
        rows = answers == answer
        found[rows] = -_log_density(activations[rows], own if len(own) >= FEWEST else reference.activations)
    return found


def dsa(activations: np.ndarray, answers: np.ndarray, reference: Reference) -> np.ndarray:
    """Distance-based surprise: from activations (N, D) to the nearest train image of the same answer, over the distance
    from that one to the nearest train image of another.

    Source: Kim et al., ICSE 2019. Differs: an answer that no train image has is compared with all of them, and where
    all have one, the second distance is 1.
    """
    near, distance = np.zeros(len(activations), np.int64), np.zeros(len(activations))
    for answer in np.unique(answers):
        own, rows = np.flatnonzero(reference.answers == answer), np.flatnonzero(answers == answer)
        own = own if len(own) else np.arange(len(reference.answers))
        index, distance[rows] = _nearest(activations[rows], reference.activations[own])
        near[rows] = own[index]
    apart = np.ones(len(reference.answers))
    for answer in np.unique(reference.answers[near]):
        inside = reference.answers == answer
        if not inside.all():
            asked = np.intersect1d(near, np.flatnonzero(inside))
            _, apart[asked] = _nearest(reference.activations[asked], reference.activations[~inside])
    return distance / np.maximum(apart[near], np.finfo(float).tiny)


def mahalanobis(activations: np.ndarray, answers: np.ndarray, reference: Reference) -> np.ndarray:
    """Squared Mahalanobis distance of activations (N, D) from the nearest class's mean, by one covariance of all.

    Source: Lee et al., NeurIPS 2018. Differs: no change of the input towards the nearest class, and no weights over
    layers that were fitted to known outliers; directions in which no train image varies are left out.
    """
    classes, place = np.unique(reference.labels, return_inverse=True)
    means = np.stack([reference.activations[place == k].mean(axis=0) for k in range(len(classes))])
    left = reference.activations - means[place]
    white, _ = _whitening(left.T @ left / len(left))
    return _nearest(activations @ white, means @ white)[1] ** 2


ANSWER: Mapping[str, Answers] = {"confidence": confidence, "margin": margin, "gini": gini}
SURPRISE = {"lsa": lsa, "dsa": dsa, "mahalanobis": mahalanobis}
DEFAULT = "gini"
GUARD = "guard"  # the guard's probability that an image has the failures' look


def answer_scores(logits: np.ndarray) -> dict[str, np.ndarray]:
    """Each score of `ANSWER` for logits (N, K)."""
    sound = np.isfinite(logits).all(axis=1)
    probabilities = softmax(np.where(sound[:, None], logits, 0).astype(np.float64), axis=1)
    return {name: np.where(sound, score(probabilities), np.inf) for name, score in ANSWER.items()}


def surprise_scores(activations: np.ndarray, answers: np.ndarray, reference: Reference) -> dict[str, np.ndarray]:
    """Each score of `SURPRISE` for activations (N, D) and answers, class indices (N,).

    Infinite for all where fewer than `FEWEST` images of the reference have finite activations.
    """
    sound = np.isfinite(activations).all(axis=1)
    known = np.isfinite(reference.activations).all(axis=1)
    wide = reference.activations.astype(np.float64)[known]
    reference = Reference(wide, reference.answers[known], reference.labels[known])
    found = {name: np.full(len(activations), np.inf) for name in SURPRISE}
    if sound.any() and known.sum() >= FEWEST:
        for name, score in SURPRISE.items():
            found[name][sound] = score(activations[sound].astype(np.float64), answers[sound], reference)
    return found


def _log_density(points: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Of points (N, D) under a Gaussian kernel density of samples (M, D), its bandwidth by Scott's rule."""
    kept = np.sort(np.argsort(samples.var(axis=0))[-min(FEATURES, max(1, len(samples) // 2)) :])
    points, samples = points[:, kept], samples[:, kept]
    white, log_volume = _whitening(np.atleast_2d(np.cov(samples, rowvar=False)))
    directions = white.shape[1]
    bandwidth = len(samples) ** (-1 / (directions + 4))
    white, log_volume = white / bandwidth, log_volume + directions * np.log(bandwidth)
    centres = torch.from_numpy(samples @ white)
    found = np.empty(len(points))
    for start in range(0, len(points), AT_ONCE):
        squares = torch.cdist(torch.from_numpy(points[start : start + AT_ONCE] @ white), centres).square().numpy()
        found[start : start + AT_ONCE] = logsumexp(-squares / 2, axis=1)
    density: np.ndarray = found - np.log(len(samples)) - directions * np.log(2 * np.pi) / 2 - log_volume
    return density


def _whitening(covariance: np.ndarray) -> tuple[np.ndarray, float]:
    """(D, R) that makes a covariance (D, D) the identity of the R directions with variance, and the log of the volume
    that it takes away.
    """
    variances, directions = np.linalg.eigh(covariance)
    kept = variances > FLAT * max(float(variances[-1]), np.finfo(float).tiny)
    deviations = np.sqrt(variances[kept])
    return directions[:, kept] / deviations, float(np.log(deviations).sum())


def _nearest(points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of points (N, D) the nearest of others (M, D): its index and its distance, (N,) each."""
    index, distance = np.empty(len(points), np.int64), np.empty(len(points))
    theirs: Tensor = torch.from_numpy(others)
    for start in range(0, len(points), AT_ONCE):
        found = torch.cdist(torch.from_numpy(points[start : start + AT_ONCE]), theirs).min(dim=1)
        index[start : start + AT_ONCE], distance[start : start + AT_ONCE] = found.indices, found.values
    return index, distance
