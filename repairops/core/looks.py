"""The looks of the clusters: the style fitted before training, and each cluster's degradation in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repairops.config import StyleConfig, derive_seed
from repairops.core.parts import TrainingParts
from repairops.core.styles import AUTO, Style, Witness, fit_style
from repairops.core.styles.auto import Auto
from repairops.core.styles.fitted.estimation import estimate, weigh
from repairops.core.styles.fitted.look import FittedLook, findings, sentence
from repairops.data.records import Clusters
from repairops.model.network import Classifier, own_copy, to_unit

NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}


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
    assignments, witness = torch.from_numpy(parts.clusters.assignments).long(), None
    if config.name == AUTO:
        labels, truth = torch.from_numpy(failures.labels), torch.from_numpy(train.labels)[order]
        witness = Witness(own_copy(champion).to(device), assignments, labels, truth)
    looks = assignments if parts.clusters.by_look else None
    return fit_style(config.name, references, clean, config, generator, witness, looks)


def find_degradation(style: Style, parts: TrainingParts, *, seed: int) -> tuple[FittedLook, ...]:
    """What degradation shows in the failures, in all or in each look: the style's own estimate where it has one.

    With the evidence for each component, which costs up to six further samples of 2,500 images a look.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "look", "style"))
    images, clean = to_unit(parts.failures.images.pixels), to_unit(parts.sample.pixels)
    clusters = parts.clusters
    everyone = np.arange(len(images))
    groups = [clusters.members(c) for c in range(clusters.count)] if clusters.by_look else [everyone]
    found: FittedLook | tuple[FittedLook, ...] | None = getattr(style, "found", None)
    with torch.no_grad():
        if found is None:
            found = tuple(estimate(images[group], clean, generator) for group in groups)
        elif not isinstance(found, tuple):
            found, groups = (found,), [everyone]
        return tuple(
            weigh(look.to(images.device), images[group], clean, generator)
            for look, group in zip(found, groups, strict=True)
        )


def describe_looks(style: Style, found: Sequence[FittedLook], clusters: Clusters) -> list[dict[str, Any]]:
    """For each cluster, as plain values: what `describe_look` says of it, and what `auto` chose.

    found: of each look, where the clusters are looks, or one for all failures.
    """
    looks = []
    for number in range(clusters.count):
        if len(found) == clusters.count > 1:
            told = describe_look(found[number])
        else:
            told = describe_look(found[0], torch.from_numpy(clusters.members(number)))
        look = {"cluster": number, **told}
        if isinstance(style, Auto):
            look["styles"] = [vars(part) for part in style.mixes[number]]
        looks.append(look)
    return looks


def describe_all(found: Sequence[FittedLook], clusters: Clusters) -> dict[str, Any]:
    """What `describe_look` says of all failures, in which several looks are told one after the other."""
    told = [describe_look(look) for look in found]
    if len(told) == 1:
        return told[0]
    total = len(clusters.assignments)
    parts = [f"{len(each.values) / total:.0%} {look['look']}" for each, look in zip(found, told, strict=True)]
    return {
        "look": f"{NUMBERS.get(len(told), len(told))} looks: {' / '.join(parts)}",
        "findings": [finding for look in told for finding in look["findings"]],
        "unexplained": max(look["unexplained"] for look in told),
    }


def describe_look(found: FittedLook, members: Tensor | None = None) -> dict[str, Any]:
    """What shows in failures `members`, int64 (n,), or in all: a sentence, findings, what these leave unexplained."""
    told, unexplained = findings(found, members), found.unexplained(members)
    count = len(found.values if members is None else members)
    return {
        "look": sentence(told, count, unexplained),
        "findings": [vars(finding) for finding in told],
        "unexplained": round(unexplained, 2),
    }
