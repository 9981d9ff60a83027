"""The looks of the clusters: the style fitted before training, and each cluster's degradation in one sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from repairops.config import StyleConfig, derive_seed
from repairops.network import Classifier, to_unit
from repairops.records import Clusters, FailureBatch, ImageSet
from repairops.style import AUTO, Style, Witness, fit_style
from repairops.style.auto import Auto
from repairops.style.degradation import Estimate, estimate
from repairops.style.degradation.words import findings, sentence

CLEAN_SAMPLE = 2000  # train images that a style is fitted against


def fit_look(
    failures: FailureBatch, clusters: Clusters, train: ImageSet, champion: Classifier, config: StyleConfig, seed: int
) -> Style:
    """The style that training will use, fitted on other draws.

    Raises what `style.fit_style` raises, so a style that cannot be fitted is known before training starts.
    """
    sample, generator = _sample(train, seed)
    references, clean = to_unit(failures.images.pixels), to_unit(train.pixels[sample])
    witness = None
    if config.name == AUTO:
        device = next((p.device for p in champion.parameters()), torch.device("cpu"))
        witness = Witness(
            champion,
            torch.from_numpy(clusters.assignments).long(),
            torch.from_numpy(failures.images.labels),
            torch.from_numpy(train.labels)[sample],
        )
        references, clean = references.to(device), clean.to(device)
    return fit_style(config.name, references, clean, config, generator, witness)


def find_degradation(style: Style, failures: FailureBatch, train: ImageSet, seed: int) -> Estimate:
    """What degradation shows in the failures: the style's own estimate where it has one, else a new one."""
    found: Estimate | None = getattr(style, "found", None)
    if found is not None:
        return found
    sample, generator = _sample(train, seed)
    with torch.no_grad():
        return estimate(to_unit(failures.images.pixels), to_unit(train.pixels[sample]), generator)


def _sample(train: ImageSet, seed: int) -> tuple[torch.Tensor, torch.Generator]:
    """Train images that a look is fitted against, int64, and the source of its other draws."""
    order = np.random.default_rng(derive_seed(seed, "look")).permutation(len(train))[:CLEAN_SAMPLE]
    return torch.from_numpy(order), torch.Generator().manual_seed(derive_seed(seed, "look", "style"))


def describe_looks(style: Style, found: Estimate, clusters: Clusters) -> list[dict[str, Any]]:
    """For each cluster, as plain values: its sentence, the findings behind it, and what `auto` chose."""
    chosen = style.describe() if isinstance(style, Auto) else []
    looks = []
    for number in range(clusters.count):
        members = clusters.members(number)
        told = findings(found, torch.from_numpy(members))
        look: dict[str, Any] = {
            "cluster": number,
            "look": sentence(told, len(members)),
            "findings": [finding.to_dict() for finding in told],
        }
        if chosen:
            look["styles"] = chosen[number]["styles"]
        looks.append(look)
    return looks
