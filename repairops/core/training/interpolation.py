"""Weights between the champion and the fine-tuned network: often as repaired, and nearer to what was.

Source: Wortsman et al. 2022 (WiSE-FT, CVPR). Differs from it: the point is chosen on validation parts by the training's
own rule, and networks with BatchNorm are interpolated too, with their running means and variances like the weights.
These are then not quite the statistics that the interpolated network would measure; both ends are exact, and a point
that suffers from it is not chosen.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from repairops.config import TrainingConfig
from repairops.core.parts import TrainingParts
from repairops.core.training.distributed import current_ranks
from repairops.core.training.loop import TrainingResult
from repairops.core.training.selection import ValidationCounts, select_epoch, standard_error
from repairops.core.training.state import count_right, load_tensors, state_tensors
from repairops.model.device import resolve_device
from repairops.model.network import Classifier
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
    champion: Classifier, tuned: Classifier, parts: TrainingParts, result: TrainingResult, config: TrainingConfig
) -> list[Point]:
    """Measures `config.interpolation` points between the two networks, which stay as they are, and chooses one.

    The points, with both ends, come in the order of their weights. They are measured on the parts that chose the
    epoch; nothing here sees the images that judge. On unseen images the chosen point repairs most among those that
    lose at most `config.max_clean_drop` points against the champion, by a curve through the losses of all points
    (`smooth_losses`); one that is further from the curve than two standard errors, beyond a barrier or on it, by its
    own loss. On a part of the train set the rule is that of the epochs (`select_epoch`), on a clean accuracy
    that counts at most as high as the best epoch's: a point near the champion remembers images that it was trained on,
    and would raise the bar.

    Empty where there is nothing to choose: no point wanted, the champion's weights chosen, no validation failures, or
    no validation images.
    """
    images, failures = len(parts.choosing), len(parts.validation)
    if config.interpolation < 1 or result.best_epoch == 0 or not failures or not images:
        return []
    ends, device = (state_tensors(champion), state_tensors(tuned)), resolve_device(config.device)
    weights = [step / (config.interpolation + 1) for step in range(config.interpolation + 1, -1, -1)]
    walking = copy.deepcopy(tuned).to(device)

    def measure(weight: float) -> ValidationCounts:
        load_tensors(walking, interpolate(*ends, weight))
        return ValidationCounts(*(count_right(walking, s, device) for s in (parts.choosing, parts.validation.images)))

    counts = current_ranks().of_first(lambda: [measure(weight) for weight in weights])
    chosen = _choose(weights, counts, result, config.max_clean_drop)
    points = [
        Point(weight, count.clean_right / images, count.failures_right / failures, index == chosen)
        for index, (weight, count) in enumerate(zip(weights, counts, strict=True))
    ]
    return points[::-1]


def between(champion: Classifier, tuned: Classifier, points: Sequence[Point]) -> Classifier:
    """A network with the weights of the chosen point; the fine-tuned one where there are no points."""
    network = copy.deepcopy(tuned)
    for point in points:
        if point.chosen:
            load_tensors(network, interpolate(state_tensors(champion), state_tensors(tuned), point.weight))
    return network


def _choose(
    weights: Sequence[float], counts: Sequence[ValidationCounts], result: TrainingResult, max_clean_drop: float
) -> int:
    """Index of the chosen point; `counts` go from the fine-tuned network (index 0) to the champion (the last)."""
    if result.validation_unseen:
        champion, images = counts[-1].clean_right, result.validation_images
        own = [(champion - count.clean_right) / images for count in counts]
        noise = 2 * standard_error(champion, images) / images
        curve = smooth_losses(weights, own)
        lost = [alone if abs(alone - share) > noise else share for alone, share in zip(own, curve, strict=True)]
        allowed = [index for index, share in enumerate(lost) if 100 * share <= max_clean_drop + 1e-9]
        return max(allowed, key=lambda index: (counts[index].failures_right, -lost[index]))
    best = max(int(figures["validation_right"]) for figures in result.history)
    candidates = [ValidationCounts(min(c.clean_right, best), c.failures_right) for c in counts[:-1]]
    selection = select_epoch(
        [counts[-1], *candidates],
        clean_images=result.validation_images,
        failures=result.validation_failures,
        max_clean_drop=max_clean_drop,
    )
    return max(selection.epoch - 1, 0)


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
