"""When a training ends, and which epoch's weights it keeps. Counts on validation parts in, an epoch out; no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from repairops.config import TrainingConfig

FORGOTTEN = 10.0  # points; what a repair may forget at most of images that the champion was trained on


def is_over(history: Sequence[dict[str, float]], selected: int, config: TrainingConfig) -> bool:
    """Whether a training ends here: by its epochs, by those without a better choice (patience), or by its time."""
    trained = len(history) - 1
    waited = trained - selected
    return trained >= config.epochs or 0 < config.patience <= waited or seconds_left(history, config) <= 0


def seconds_left(history: Sequence[dict[str, float]], config: TrainingConfig) -> float:
    """Of `config.max_minutes`, where 0 is no limit, after these epochs; the first entry is the champion's."""
    return 60 * config.max_minutes - sum(h["seconds"] for h in history[1:]) if config.max_minutes else math.inf


@dataclass(frozen=True)
class ValidationCounts:
    """Right answers after one epoch (epoch 0: the champion) on the validation parts, which nothing trains on."""

    clean_right: int  # of the clean validation images
    failures_right: int  # of the validation failures


@dataclass(frozen=True)
class Selection:
    epoch: int  # 0 = the champion's own weights
    note: str  # empty where a trained epoch was chosen by the rule


def select_epoch(
    counts: Sequence[ValidationCounts],
    *,
    clean_images: int,
    failures: int,
    max_clean_drop: float,
    strict: bool = False,
    remembered: bool = True,
    annealed: bool = False,
    max_forgotten: float = 100.0,
) -> Selection:
    """The epoch with most validation failures repaired among those that keep clean accuracy.

    counts: by epoch, the champion first. Kept is what lies at most `max_clean_drop` percentage points, or one
    standard error of an accuracy on `clean_images` where that is more, below the reference: the champion or the best
    trained epoch, whichever is lower. The champion has usually been trained on these images and forgets some when it
    is trained without them; measured against the champion alone, that would pass for a loss on new images. The one
    standard error is Breiman's rule (CART, 1984): differences below it are noise. The gate's clean set judges.
    strict: kept is what lies at most `max_clean_drop` points below the champion, without allowance: for images that the
    champion was not trained on, whose loss is a real one.
    remembered: whether the champion was trained on the clean images, so that a loss of all epochs wants a word.
    annealed: the learning rate falls from epoch to epoch. Then epochs that repair as many as the best one, but for one
    standard error of its repair rate, are alike, and the latest of them is taken: its weights hold least of the noise
    of large steps, which a few validation failures cannot tell from a repair.

    max_forgotten: what is further below the champion than these percentage points is not kept, whatever the reference.

    Ties go to the higher clean accuracy, then to the earlier epoch, so the champion (epoch 0) stays where no epoch
    that keeps clean accuracy repairs more than it. Epochs are taken in turn, and each either replaces the choice so
    far or not: a training needs to keep one set of best weights only.
    """
    trained = range(1, len(counts))
    if not trained:
        return Selection(0, "No epoch was trained; the weights are the champion's.")
    chosen, best, most = 0, 0, counts[0].failures_right
    for epoch in trained:
        best = max(best, counts[epoch].clean_right)
        if strict:
            floor = counts[0].clean_right - clean_images * max_clean_drop / 100
        else:
            reference = min(counts[0].clean_right, best)
            floor = reference - _allowed(reference, clean_images, max_clean_drop)
            floor = max(floor, counts[0].clean_right - clean_images * max_forgotten / 100)
        if counts[epoch].clean_right < floor:
            continue
        most = max(most, counts[epoch].failures_right)
        alike = annealed and counts[epoch].failures_right >= most - standard_error(most, failures)
        repairs = counts[epoch].failures_right > counts[0].failures_right
        better = not failures or (alike and repairs) or _order(counts[epoch]) > _order(counts[chosen])
        if better or (chosen and counts[chosen].clean_right < floor):
            chosen = epoch
    if chosen == 0:
        return Selection(
            0, "No epoch that kept clean accuracy repaired more validation failures; the weights are the champion's."
        )
    note = _forgotten(counts[0].clean_right - best, clean_images, max_clean_drop) if remembered and not strict else ""
    if not failures:
        note = f"There are no validation failures; the last epoch that kept clean accuracy was taken. {note}".strip()
    return Selection(chosen, note)


def _order(counts: ValidationCounts) -> tuple[int, int]:
    return counts.failures_right, counts.clean_right


def _allowed(reference: int, clean_images: int, max_clean_drop: float) -> float:
    """Images that may be lost: the configured points, one standard error, and one image, whichever is most."""
    if not clean_images:
        return 0
    return max(1.0, clean_images * max_clean_drop / 100, standard_error(reference, clean_images))


def standard_error(right: int, images: int) -> float:
    """Of a number of right answers among `images`."""
    return math.sqrt(right * (1 - right / images)) if images else 0.0


def _forgotten(lost: int, clean_images: int, max_clean_drop: float) -> str:
    """What a reviewer must know where every epoch lost more than what is allowed against the champion."""
    if lost <= max(1, clean_images * max_clean_drop / 100):
        return ""
    return (
        f"On the validation part of the train set every epoch lost at least {lost} of {clean_images} images against "
        "the champion, which was probably trained on them; the gate's clean set tells what that means for new images."
    )
