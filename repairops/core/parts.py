"""What a repair is given, and the parts that its training sees: which images train, which choose; cut once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from repairops.config import TrainingConfig, derive_seed
from repairops.data.records import Clusters, Drawn, FailureBatch, FailureSplit, ImageSet

SAMPLE = 2000  # train images that a style is fitted against, and that a method sees beforehand, at most


@dataclass(frozen=True, eq=False)
class RepairInputs:
    """What a repair starts from, beside the champion; nothing here judges yet.

    unseen: clean images that the champion was not trained on; they choose. None: a part of the train set does.
    split: the failures' parts where earlier repairs have settled them; None: they are split by the repair.
    earlier: of a version that was repaired before, the parts of those failures: what trained is replayed.
    """

    train_set: ImageSet
    failures: FailureBatch
    unseen: ImageSet | None = None
    split: FailureSplit | None = None
    earlier: FailureSplit | None = None


@dataclass(frozen=True, eq=False)
class TrainingParts:
    """What trains and what chooses; no image of `choosing` or `validation` is ever trained on.

    rows: int64, shuffled, of the images of `train_set` that train. choosing: the clean images that choose.
    unseen: whether the champion was not trained on these. failures: the repair failures, with their clusters.
    validation: the failures that choose, the last `settled` of them by earlier repairs. replayed: failures that these
    trained on.
    """

    train_set: ImageSet
    rows: np.ndarray
    choosing: ImageSet
    unseen: bool
    failures: FailureBatch
    validation: FailureBatch
    clusters: Clusters
    replayed: FailureBatch | None = None
    settled: int = 0

    @cached_property
    def sample(self) -> ImageSet:
        """Some of the images that train, drawn at random, in memory."""
        return self.train_set.subset(self.rows[:SAMPLE])


def cut_parts(
    train_set: ImageSet,
    unseen: ImageSet | None,
    failures: FailureBatch,
    validation: FailureBatch,
    clusters: Clusters | None,
    config: TrainingConfig,
    *,
    seed: int,
) -> TrainingParts:
    """The parts of a training; with `unseen` images the whole train set may train, else a part of it chooses.

    The champion probably remembers such a part. clusters: None for one of all failures, until they are clustered.
    """
    rows, held = split_train_set(
        train_set.total,
        fraction=config.validation_fraction if unseen is None else 0.0,
        max_validation=config.max_validation_images,
        max_train=config.max_train_images,
        seed=derive_seed(seed, "training", "split"),
    )
    if train_set.drawn:
        rows, held = train_set.drawn.places(rows), train_set.drawn.places(held)
    choosing = train_set.subset(held) if unseen is None else unseen
    if clusters is None:
        alike = np.zeros(len(failures), np.int64)
        clusters = Clusters(alike, alike.astype(np.float32), np.full(len(failures), 1 / max(len(failures), 1)))
    return TrainingParts(train_set, rows, choosing, unseen is not None, failures, validation, clusters)


def beside_earlier(parts: TrainingParts, earlier: FailureSplit | None, *, seed: int) -> TrainingParts:
    """The parts with failures of earlier repairs: what trained is replayed, what chose chooses again.

    Of the latter at most as many as new ones, drawn at random, so that the new look counts as much as all before it.
    """
    if earlier is None:
        return parts
    order = np.random.default_rng(derive_seed(seed, "earlier")).permutation(len(earlier.validation))
    again = earlier.validation.subset(np.sort(order[: len(parts.validation)]))
    return replace(parts, validation=parts.validation.joined(again), replayed=earlier.repair, settled=len(again))


def draw_train_set(count: int, config: TrainingConfig, *, seed: int) -> Drawn:
    """What `cut_parts` will take of `count` images, whether a part of them chooses or other images do."""
    parts = split_train_set(
        count,
        fraction=config.validation_fraction,
        max_validation=config.max_validation_images,
        max_train=config.max_train_images,
        seed=derive_seed(seed, "training", "split"),
    )
    return Drawn(np.sort(np.concatenate(parts)), count)


def split_train_set(
    count: int, *, fraction: float, max_validation: int, max_train: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training part and of the validation part of a train set: int64, shuffled, disjoint.

    The validation part takes `fraction` of the images, at most `max_validation`, at least one unless the fraction
    is 0; the training part takes the rest, at most `max_train` (0 = all). Shuffled, since sets come sorted by label.
    """
    order = np.random.default_rng(seed).permutation(count)
    held = min(round(fraction * count), max_validation, count - 1)
    held = max(held, 1) if fraction > 0 and count > 1 else 0
    return order[held:][: max_train or None], order[:held]
