"""Weights between the champion and the fine-tuned network: often as repaired, and nearer to what was.

Source: Wortsman et al. 2022 (WiSE-FT, CVPR). Differs from it: the point is chosen on validation parts by the training's
own rule, and networks with BatchNorm are interpolated too, with their running means and variances like the weights.
These are then not quite the statistics that the interpolated network would measure; both ends are exact, and a point
that suffers from it is not chosen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from repairops.config import TrainingConfig
from repairops.core.parts import TrainingParts
from repairops.core.training.checkpoint import load_tensors, state_tensors
from repairops.core.training.distributed import current_ranks
from repairops.core.training.loop import TrainingResult
from repairops.core.training.selection import FORGOTTEN, ValidationCounts, select_epoch, standard_error
from repairops.core.training.state import right_answers
from repairops.model.device import resolve_device
from repairops.model.network import Classifier, own_copy
from repairops.outcome.sections import Point


def interpolate(champion: Mapping[str, Tensor], tuned: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
    """(1 - weight) * champion + weight * tuned, for every floating tensor of a state, buffers too.

    The other tensors (counters) are the fine-tuned network's. At 0 and 1 the floating tensors are exact copies.
    """
    mixed = {}
    for name, end in tuned.items():
        start = champion[name]
        if weight == 1 or not end.is_floating_point():
            mixed[name] = end.clone()
        elif weight == 0:
            mixed[name] = start.clone()
        else:
            mixed[name] = torch.lerp(start.double(), end.double(), weight).to(end.dtype)
    return mixed


def trade_off(
    champion: Classifier,
    tuned: Classifier,
    parts: TrainingParts,
    result: TrainingResult,
    config: TrainingConfig,
    confidence: float = 0.95,
) -> list[Point]:
    """Measures `config.interpolation` points between the two networks, which stay as they are, and chooses one.

    The points, with both ends, come in the order of their weights. They are measured on the parts that chose the
    epoch; nothing here sees the images that judge. On unseen images the chosen point repairs most among those whose
    loss against the champion is at most `config.max_clean_drop` points, with the gate's confidence (`bound_losses`). On
    a part of the train set the rule is that of the epochs (`select_epoch`), on a clean accuracy that counts at most as
    high as the best epoch's: a point near the champion remembers images that it was trained on, and would raise the
    bar. One that has forgotten more of them than memory explains (FORGOTTEN) is not chosen.

    confidence: of the bound, 0.5..1; at 0.5 it is the loss itself.

    Empty where there is nothing to choose: no point wanted, the champion's weights chosen, no validation failures, or
    no validation images.
    """
    images, failures = len(parts.choosing), len(parts.validation)
    if config.interpolation < 1 or result.best_epoch == 0 or not failures or not images:
        return []
    ends, device = (state_tensors(champion), state_tensors(tuned)), resolve_device(config.device)
    weights = [step / (config.interpolation + 1) for step in range(config.interpolation + 1, -1, -1)]
    walking = own_copy(tuned).to(device)

    def measure(weight: float) -> tuple[np.ndarray, np.ndarray]:
        load_tensors(walking, interpolate(*ends, weight))
        clean, failed = (right_answers(walking, s, device) for s in (parts.choosing, parts.validation.images))
        return clean, failed

    measured = current_ranks().of_first(lambda: [measure(weight) for weight in weights])
    clean = np.stack([right for right, _ in measured])
    repaired = [int(right.sum()) for _, right in measured]
    if result.validation_unseen:
        chosen = choose_point(weights, clean, repaired, config.max_clean_drop, confidence)
    else:
        chosen = choose_remembered(clean.sum(1).tolist(), repaired, result, config.max_clean_drop)
    points = [
        Point(weight, float(clean[index].mean()), repaired[index] / failures, index == chosen)
        for index, weight in enumerate(weights)
    ]
    return points[::-1]


def between(champion: Classifier, tuned: Classifier, points: Sequence[Point]) -> Classifier:
    """A network with the weights of the chosen point; the fine-tuned one where there are no points."""
    network = own_copy(tuned)
    for point in points:
        if point.chosen:
            load_tensors(network, interpolate(state_tensors(champion), state_tensors(tuned), point.weight))
    return network


def choose_point(
    weights: Sequence[float], clean: np.ndarray, repaired: Sequence[int], max_clean_drop: float, confidence: float
) -> int:
    """Index of the point that repairs most among those whose loss is at most this, in percentage points.

    weights: falling from 1 to 0. clean: bool (P, N), by point whether an unseen clean image is right; the last is the
    champion, which is always allowed. repaired: failures right, by point.
    """
    bounds = bound_losses(weights, clean, confidence)
    allowed = [index for index, share in enumerate(bounds) if 100 * share <= max_clean_drop + 1e-9]
    return max(allowed, key=lambda index: (repaired[index], -bounds[index]))


def choose_remembered(
    clean: Sequence[int], repaired: Sequence[int], result: TrainingResult, max_clean_drop: float
) -> int:
    """Index of the chosen point, by right answers on clean images that the champion was trained on, and on failures.

    They go from the fine-tuned network (index 0) to the champion (the last).
    """
    best = max(int(figures["validation_right"]) for figures in result.history)
    candidates = [ValidationCounts(min(right, best), count) for right, count in zip(clean, repaired, strict=True)][:-1]
    selection = select_epoch(
        [ValidationCounts(clean[-1], repaired[-1]), *candidates],
        clean_images=result.validation_images,
        failures=result.validation_failures,
        max_clean_drop=max_clean_drop,
        max_forgotten=FORGOTTEN,
    )
    return (selection.epoch - 1) % len(clean)  # epoch 0, the champion, is the last


def bound_losses(weights: Sequence[float], clean: np.ndarray, confidence: float) -> list[float]:
    """What each point may lose of clean accuracy, as a share: with this confidence it is no more.

    By the curve through the losses of all points (`smooth_losses`), plus what the end's loss is uncertain by in the
    point's share of the way: a curve that only falls rests on its far points. A point that is further from the curve
    than two standard errors, beyond a barrier or on it, is bound by its own loss alone. The error is that of the paired
    difference: the root of the answers that became right or wrong.
    """
    from scipy.stats import norm

    champion, images = clean[-1], clean.shape[1]
    own = [float(champion.mean() - right.mean()) for right in clean]
    errors = [math.sqrt(int((right != champion).sum())) / images for right in clean]
    noise = 2 * standard_error(int(champion.sum()), images) / images
    sure = float(norm.ppf(confidence))
    curve = smooth_losses(weights, own)
    return [
        alone + sure * error if abs(alone - share) > noise else share + sure * weight * errors[0]
        for weight, alone, share, error in zip(weights, own, curve, errors, strict=True)
    ]


def smooth_losses(weights: Sequence[float], losses: Sequence[float]) -> list[float]:
    """What the points lose by a curve a w + b w^2 through the champion, a and b at least 0, fitted to all of them.

    losses: shares of the validation images, negative for a gain. Near the champion a loss grows linearly, or, where it
    sits in a minimum, with the square of the distance. The losses of single points have a noise that is as large as
    what is allowed; the curve rests on the far points, whose losses stand out of it.
    """
    from scipy.optimize import nnls

    powers = np.stack([np.asarray(weights), np.square(weights)], axis=1)
    factors, _ = nnls(powers, np.asarray(losses))
    smooth: list[float] = (powers @ factors).tolist()
    return smooth
