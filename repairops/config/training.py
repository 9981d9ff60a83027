"""The options of the fine-tuning: how long, how fast, on what, and what chooses among its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from repairops.config.fields import (
    ALL_OR_MORE,
    COUNT,
    NONE_OR_MORE,
    NOT_NEGATIVE,
    OWN_OR_MORE,
    PART,
    POINTS,
    Range,
    Stage,
    option,
)


@dataclass(frozen=True)
class TrainingConfig(Stage):
    epochs: int = option(5, "At most.", COUNT)
    batch_size: int = option(100, "Train images in a batch; styled and failure images come on top.", COUNT)
    optimizer: Literal["auto", "sgd", "adamw"] = option("auto", "`auto` is `adamw` for a transformer, else `sgd`.")
    learning_rate: float = option(
        0.0, "At the first step; 0 = found, see [Training](../how-it-works/repair.md#training).", NOT_NEGATIVE
    )
    momentum: float = option(0.9, "Of SGD, in the form of Nesterov; the first beta of AdamW.", PART)
    weight_decay: float = option(5e-4, "Of all parameters.", NOT_NEGATIVE)
    patience: int = option(10, "Epochs without a better choice that end the training.", Range("0 (never) or more", 0))
    validation_fraction: float = option(
        0.1, "Of the train set, kept for choosing where no clean images do that are new to the champion.", PART
    )
    max_validation_images: int = option(
        2000, "Upper limit of the clean images that choose, wherever they come from.", NONE_OR_MORE
    )
    max_train_images: int = option(0, "Train images used.", ALL_OR_MORE)
    epoch_images: int = option(
        0, "Train images of an epoch, drawn anew for each: a short training sees many different ones.", ALL_OR_MORE
    )
    least_steps: int = option(
        500, "Of all epochs together: a small train set is gone through several times in one.", NONE_OR_MORE
    )
    crop_padding: int = option(-1, "Pixels of random translation; -1 = an eighth of the shorter side.", OWN_OR_MORE)
    horizontal_flip: bool = option(False, "Mirror at random; wrong for digits, text and signs.")
    max_clean_drop: float = option(
        0.5,
        "Percentage points on the clean validation images that the choice may lose; default: `gate.margin_points`, "
        "where that is given. See [Training](../how-it-works/repair.md#training).",
        POINTS,
    )
    max_minutes: float = option(0.0, "Time limit of the training, in minutes.", Range("0 (no limit) or more", 0))
    device: str = option("auto", "`auto`, `cpu`, `cuda` or `cuda:N`.", affects_result=False)
    amp: Literal["auto", "on", "off"] = option("auto", "bfloat16 autocast; `auto` = on a GPU that computes in it.")
    interpolation: int = option(
        9, "Points tried between champion and fine-tuned weights; 0 takes the fine-tuned ones.", NONE_OR_MORE
    )
    ema: float = option(
        0.99,
        "Decay of a moving average of the weights, which is then measured and kept.",
        Range("at least 0 (none) and below 1", 0, PART.high),
    )
    workers: int = option(
        -1,
        "Threads that fetch batches ahead; -1 = where the pixels lie elsewhere than they are needed, 0 = none.",
        OWN_OR_MORE,
        affects_result=False,
    )
    compile: bool = option(False, "Whether torch.compile is used; it needs a C++ compiler.")
