"""Which clean images train, and which of them choose."""

from __future__ import annotations

import numpy as np

from repairops.config import TrainingConfig, derive_seed
from repairops.data.records import ImageSet


def training_parts(
    train_set: ImageSet, unseen: ImageSet | None, config: TrainingConfig, seed: int
) -> tuple[np.ndarray, ImageSet]:
    """Indices int64 of the train images that train, and the clean validation images, which never do.

    unseen: clean images that the champion was not trained on; they validate, and the whole train set may train.
    None: a part of the train set validates, which the champion probably remembers.
    """
    train_part, validation_part = split_train_set(
        len(train_set),
        fraction=0.0 if unseen is not None else config.validation_fraction,
        max_validation=config.max_validation_images,
        max_train=config.max_train_images,
        seed=derive_seed(seed, "training", "split"),
    )
    return train_part, train_set.subset(validation_part) if unseen is None else unseen


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
