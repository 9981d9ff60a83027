"""Presets: named values for several options at once; whatever is given beside one wins over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repairops.errors import InvalidOption

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # A first look in a few minutes, on a CPU too.
    "quick": {"training": {"epochs": 2, "epoch_images": 5000, "max_validation_images": 1000}},
    "default": {},
    # DeepRepair's Algorithm 1 and its training setting; see decision 3 for why it is not the default.
    "paper": {
        "method": {"recipe": "paper"},
        "training": {"epochs": 500, "batch_size": 128, "learning_rate": 0.1, "weight_decay": 5e-4, "patience": 10},
    },
}


def with_preset(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options, over those of the preset that they name (`preset`). Raises InvalidOption for an unknown one."""
    name = str(values.get("preset", "default"))
    if name not in PRESETS:
        raise InvalidOption("preset", name, f"one of {', '.join(PRESETS)}")
    merged = dict(values)
    for stage, options in PRESETS[name].items():
        given = values.get(stage, {})
        if isinstance(given, Mapping):  # anything else is refused where it is read
            merged[stage] = {**options, **given}
    return merged


def with_margin(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with `training.max_clean_drop` as large as `gate.margin_points` where only the latter is given.

    What chooses and what judges then allow the same loss: else a team with a wide margin would get timid repairs.
    """
    gate, training = values.get("gate", {}), values.get("training", {})
    if not isinstance(gate, Mapping) or not isinstance(training, Mapping) or "margin_points" not in gate:
        return dict(values)
    # The gate comes first, so that a number that is none is refused by the name that was given.
    return {"gate": gate, **values, "training": {"max_clean_drop": gate["margin_points"], **training}}
