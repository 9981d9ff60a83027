"""The looks of the clusters: the style fitted before training, and each cluster's degradation in one sentence."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from repairops.config import StyleConfig, derive_seed
from repairops.core.parts import TrainingParts
from repairops.core.styles import AUTO, Style, Witness, fit_style
from repairops.core.styles.auto import Auto
from repairops.core.styles.fitted.estimation import estimate
from repairops.core.styles.fitted.look import FittedLook, findings, sentence
from repairops.data.records import Clusters
from repairops.model.network import Classifier, to_unit


def fit_to_failures(
    parts: TrainingParts, champion: Classifier, config: StyleConfig, device: torch.device, *, seed: int
) -> Style:
    """The style that `config` names, on `device`: of a job's pictures and sentences, of all trials and its training.

    Its references are the repair failures, by their index; it is fitted against images that train, never those that
    choose. The champion stays as it is; `auto` alone asks it. The same arguments give the same style, so that each
    process of a training may fit its own: it is tensors on a device, with wct2 a network and up to a gigabyte.
    Raises what `fit_style` raises, so a style that cannot be fitted is known before training starts.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "method"))
    failures, train = parts.failures.images, parts.sample
    order = torch.randperm(len(train), generator=generator)
    references, clean = to_unit(failures.pixels.to(device)), to_unit(train.pixels[order].to(device))
    witness = None
    if config.name == AUTO:
        labels, truth = torch.from_numpy(failures.labels), torch.from_numpy(train.labels)[order]
        assignments = torch.from_numpy(parts.clusters.assignments).long()
        witness = Witness(copy.deepcopy(champion).to(device), assignments, labels, truth)
    return fit_style(config.name, references, clean, config, generator, witness)


def find_degradation(style: Style, parts: TrainingParts, *, seed: int) -> FittedLook:
    """What degradation shows in the failures: the style's own estimate where it has one, else a new one."""
    found: FittedLook | None = getattr(style, "found", None)
    if found is not None:
        return found
    generator = torch.Generator().manual_seed(derive_seed(seed, "look", "style"))
    with torch.no_grad():
        return estimate(to_unit(parts.failures.images.pixels), to_unit(parts.sample.pixels), generator)


def describe_looks(style: Style, found: FittedLook, clusters: Clusters) -> list[dict[str, Any]]:
    """For each cluster, as plain values: what `describe_look` says of it, and what `auto` chose."""
    looks = []
    for number in range(clusters.count):
        look = {"cluster": number, **describe_look(found, torch.from_numpy(clusters.members(number)))}
        if isinstance(style, Auto):
            look["styles"] = [vars(part) for part in style.mixes[number]]
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
