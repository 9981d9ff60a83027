"""What the configuration's numbers can mean: checked where a configuration is made, before any work is done."""

from __future__ import annotations

import math
import sys
from typing import NamedTuple

from repairops.errors import InvalidOption


class Range(NamedTuple):
    """Lowest and highest value, both allowed, and how a message says so."""

    low: float
    high: float
    wanted: str


_LARGEST = sys.float_info.max
_COUNT = Range(1, _LARGEST, "1 or more")
_NOT_NEGATIVE = Range(0, _LARGEST, "0 or more")
_NONE_OR_MORE = Range(0, _LARGEST, "0 (none) or more")
_ALL_OR_MORE = Range(0, _LARGEST, "0 (all) or more")
_OWN_OR_MORE = Range(-1, _LARGEST, "-1 (chosen for you), 0 or more")
_POSITIVE = Range(sys.float_info.min, _LARGEST, "positive")
_SHARE = Range(0, 1, "from 0 to 1")
_PART = Range(0, math.nextafter(1, 0), "at least 0 and below 1")
_SOME_PART = Range(sys.float_info.min, math.nextafter(1, 0), "above 0 and below 1")
_POINTS = Range(0, 100, "from 0 to 100 percentage points")

RANGES: dict[str, dict[str, Range]] = {
    "images": {"memory_limit_mb": _NOT_NEGATIVE, "max_image_pixels": _COUNT, "max_image_bytes": _COUNT},
    "validation": {
        "min_rows": _NOT_NEGATIVE,
        "min_classes": _NOT_NEGATIVE,
        "max_quarantined_share": _SHARE,
        "max_class_share": _SHARE,
        "max_source_share": _SHARE,
    },
    "split": {
        "heldout_fraction": _PART,
        "validation_fraction": _PART,
        "clean_validation_fraction": _PART,
        "min_clean_images": _NOT_NEGATIVE,
    },
    "clustering": {"clusters": _COUNT, "restarts": _COUNT},
    "style": {
        "levels": Range(1, 4, "from 1 to 4"),
        "alpha": Range(0, 1, "from 0 (content unchanged) to 1 (full strength)"),
    },
    "method": {
        "failure_share": _NOT_NEGATIVE,
        "style_share": _SHARE,
        "style_weight": _NOT_NEGATIVE,
        "distillation": _SHARE,
        "jsd_lambda": _NOT_NEGATIVE,
        "severity": Range(1, 10, "from 1 to 10"),
        "chains": _COUNT,
        "mix_alpha": _POSITIVE,
        "cutout_side": Range(sys.float_info.min, 1, "above 0 and at most 1"),
        "population": _COUNT,
        "generations": _NOT_NEGATIVE,
        "components": _COUNT,
        "trial_share": _SOME_PART,
    },
    "training": {
        "epochs": _COUNT,
        "batch_size": _COUNT,
        "learning_rate": _POSITIVE,
        "momentum": _PART,
        "weight_decay": _NOT_NEGATIVE,
        "patience": Range(0, _LARGEST, "0 (never) or more"),
        "validation_fraction": _PART,
        "max_validation_images": _NONE_OR_MORE,
        "max_train_images": _ALL_OR_MORE,
        "epoch_images": _ALL_OR_MORE,
        "crop_padding": _OWN_OR_MORE,
        "max_clean_drop": _POINTS,
        "max_minutes": Range(0, _LARGEST, "0 (no limit) or more"),
        "interpolation": _NONE_OR_MORE,
        "ema": Range(0, math.nextafter(1, 0), "at least 0 (none) and below 1"),
        "workers": _OWN_OR_MORE,
    },
    # At more confidence than 0.9999 the exact tests have no risk left to give, and no number of images passes.
    "gate": {
        "confidence": Range(0.5, 0.9999, "from 0.5 to 0.9999, one-sided"),
        "margin_points": _POINTS,
        "min_repair_rate": Range(0, 0.9999, "from 0 to 0.9999; that every failure is repaired cannot be shown"),
        "class_margin_points": _POINTS,
        "max_negative_flips": _SHARE,
        "parity_tolerance": _NOT_NEGATIVE,
        "max_latency_ratio": Range(1e-9, _LARGEST, "positive; 1 is the champion's own time"),
        "min_part_repair_rate": _SHARE,
        "corruption_margin_points": _POINTS,
        "corruption_images": Range(0, _LARGEST, "0 (all clean images) or more"),
        "max_ece_rise": _SHARE,
    },
}


def check_number(stage: str, name: str, value: float) -> None:
    """Raises InvalidOption for a number out of the range of the option STAGE.NAME; NaN always is."""
    low, high, wanted = RANGES[stage][name]
    if not low <= value <= high:
        raise InvalidOption(f"{stage}.{name}", value, wanted)


def check_ranges(stage: str, values: object) -> None:
    """`check_number` for all of a stage's options that have a range."""
    for name in RANGES[stage]:
        check_number(stage, name, getattr(values, name))
