"""The looks of the clusters: the style fitted before training, and each cluster's degradation in one sentence."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from repairops.config import Config, derive_seed
from repairops.core.styles import Style
from repairops.core.styles.auto import Auto
from repairops.core.styles.failures import fit_to_failures
from repairops.core.styles.fitted.estimation import estimate
from repairops.core.styles.fitted.look import FittedLook, findings, sentence
from repairops.core.training.loop import METHOD_IMAGES
from repairops.core.training.parts import training_parts
from repairops.data.records import Clusters, FailureBatch, ImageSet
from repairops.model.network import Classifier, to_unit


def fit_look(
    failures: FailureBatch,
    clusters: Clusters,
    train_set: ImageSet,
    champion: Classifier,
    config: Config,
    device: torch.device,
) -> Style:
    """The style of a job: of its pictures and sentences, and of its training. The same arguments give the same one.

    Raises what `style.fit_style` raises, so a style that cannot be fitted is known before training starts.
    """
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "method"))
    train = _train_sample(train_set, config)
    return fit_to_failures(failures, clusters, train, lambda: copy.deepcopy(champion), config.style, device, generator)


def find_degradation(style: Style, failures: FailureBatch, train_set: ImageSet, config: Config) -> FittedLook:
    """What degradation shows in the failures: the style's own estimate where it has one, else a new one."""
    found: FittedLook | None = getattr(style, "found", None)
    if found is not None:
        return found
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "look", "style"))
    clean = to_unit(_train_sample(train_set, config).pixels)
    with torch.no_grad():
        return estimate(to_unit(failures.images.pixels), clean, generator)


def _train_sample(train_set: ImageSet, config: Config) -> ImageSet:
    """Images of the part that trains, never of the one that validates where the train set has to.

    Clean validation images from elsewhere would only free that part for training too.
    """
    train_part, _ = training_parts(train_set, None, config.training, config.seed)
    return train_set.subset(train_part[:METHOD_IMAGES])


def describe_looks(style: Style, found: FittedLook, clusters: Clusters) -> list[dict[str, Any]]:
    """For each cluster, as plain values: what `describe_look` says of it, and what `auto` chose."""
    chosen = style.describe() if isinstance(style, Auto) else []
    looks = []
    for number in range(clusters.count):
        look = {"cluster": number, **describe_look(found, torch.from_numpy(clusters.members(number)))}
        if chosen:
            look["styles"] = chosen[number]["styles"]
        looks.append(look)
    return looks


def describe_look(found: FittedLook, members: Tensor | None = None) -> dict[str, Any]:
    """What shows in failures `members`, int64 (n,), or in all: a sentence, findings, what these leave unexplained."""
    told, unexplained = findings(found, members), found.unexplained(members)
    count = len(found.values if members is None else members)
    return {
        "look": sentence(told, count, unexplained),
        "findings": [vars(finding) for finding in told],
        "unexplained": round(unexplained, 2),
    }
