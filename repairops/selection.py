"""Which epoch's weights a training keeps. Counts on validation parts in, an epoch out; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ValidationCounts:
    """Right answers after one epoch (epoch 0: the champion) on the validation parts, which nothing trains on."""

    clean_right: int  # of the validation part of the train set
    failures_right: int  # of the validation failures


@dataclass(frozen=True)
class Selection:
    epoch: int  # 0 = the champion's own weights
    note: str  # empty where a trained epoch was chosen by the rule


def select_epoch(
    counts: Sequence[ValidationCounts], *, clean_images: int, failures: int, max_clean_drop: float
) -> Selection:
    """The epoch with most validation failures repaired among those that keep clean accuracy.

    counts: by epoch, the champion first. max_clean_drop: percentage points of the `clean_images` that may be lost,
    at least one image. Ties go to the higher clean accuracy, then to the earlier epoch, so the champion (epoch 0)
    stays where no epoch that keeps clean accuracy repairs more than it.

    Where no trained epoch keeps clean accuracy, those with the smallest drop, counted in whole steps of what is
    allowed, compete in the same way, without the champion: the gate judges the result, and `note` says so. That is
    no rare case: the champion has usually been trained on these images, and forgets some of them when it is trained
    without them.
    """
    champion = counts[0]
    allowed = max(1, int(clean_images * max_clean_drop / 100 + 1e-9))
    trained = range(1, len(counts))

    def steps_lost(epoch: int) -> int:
        return max(0, -((counts[epoch].clean_right - champion.clean_right) // allowed) - 1)

    def order(epoch: int) -> tuple[int, int, int, int]:
        return -steps_lost(epoch), counts[epoch].failures_right, counts[epoch].clean_right, -epoch

    if not trained:
        return Selection(0, "No epoch was trained; the weights are the champion's.")
    keeping = [epoch for epoch in trained if steps_lost(epoch) == 0]
    if not keeping:
        epoch = max(trained, key=order)
        lost = champion.clean_right - counts[epoch].clean_right
        return Selection(
            epoch,
            f"Every epoch lost more than max_clean_drop ({max_clean_drop:g} points) on the validation part of the "
            f"train set; epoch {epoch}, which lost {lost} of {clean_images} images, was taken. Where the champion "
            "was trained on these images, some of that is no loss on new ones: the gate's clean set tells.",
        )
    if not failures:
        return Selection(
            keeping[-1], "There are no validation failures; the last epoch that kept clean accuracy was taken."
        )
    epoch = max([0, *keeping], key=order)
    if epoch == 0:
        return Selection(
            0, "No epoch that kept clean accuracy repaired more validation failures; the weights are the champion's."
        )
    return Selection(epoch, "")
