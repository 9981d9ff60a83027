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
) -> tuple[Style, Estimate]:
    """The style that training will use, fitted on other draws, and what degradation was found, whatever the style.

    Raises what `style.fit_style` raises, so a style that cannot be fitted is known before training starts.
    """
    sample = np.random.default_rng(derive_seed(seed, "look")).permutation(len(train))[:CLEAN_SAMPLE]
    generator = torch.Generator().manual_seed(derive_seed(seed, "look", "style"))
    references, clean = to_unit(failures.images.pixels), to_unit(train.pixels[torch.from_numpy(sample)])
    witness = None
    if config.name == AUTO:
        device = next((p.device for p in champion.parameters()), torch.device("cpu"))
        witness = Witness(
            champion,
            torch.from_numpy(clusters.assignments).long(),
            torch.from_numpy(failures.images.labels),
            torch.from_numpy(train.labels[sample]),
        )
        references, clean = references.to(device), clean.to(device)
    style = fit_style(config.name, references, clean, config, generator, witness)
    found = getattr(style, "found", None)
    if found is None:
        with torch.no_grad():
            found = estimate(references, clean, generator)
    return style, found


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
