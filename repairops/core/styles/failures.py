"""A style fitted to the repair failures, as the picture of it and the training both use it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator

from repairops.config import StyleConfig
from repairops.core.styles import AUTO, Style, Witness, fit_style
from repairops.data.records import Clusters, FailureBatch, ImageSet
from repairops.model.network import Classifier, to_unit

CLEAN_IMAGES = 2000  # train images that a style is fitted against, at most


def fit_to_failures(
    failures: FailureBatch,
    clusters: Clusters,
    train: ImageSet,
    champion: Callable[[], Classifier],
    config: StyleConfig,
    device: torch.device,
    generator: Generator,
) -> Style:
    """The style that `config` names, on `device`; its references are the failures, by their index.

    train: images that train, of which a sample is drawn; never those that validate. champion: makes one whose weights
    do not change, and is asked for it by `auto` alone. generator: on the CPU; the same one gives the same style.
    Raises what `fit_style` raises.
    """
    references = to_unit(failures.images.pixels.to(device))
    sample = torch.randperm(len(train), generator=generator)[:CLEAN_IMAGES]
    clean = to_unit(train.pixels[sample].to(device))
    witness = None
    if config.name == AUTO:
        assignments, labels = (torch.from_numpy(x) for x in (clusters.assignments, failures.images.labels))
        truth = torch.from_numpy(train.labels)[sample]
        model = champion().to(device)
        bare = Classifier(model.network, model.spec)  # trials train it alone, in float32, on each rank
        witness = Witness(bare, assignments.long(), labels, truth)
    return fit_style(config.name, references, clean, config, generator, witness)
