"""Whether a champion was trained with another normalisation than the one that it is given, as far as images tell."""

from __future__ import annotations

import dataclasses
import math

import torch

from repairops.data.records import ImageSet, InputSpec
from repairops.model.evaluation import logits
from repairops.model.network import Classifier, to_unit

IMAGES = 200  # looked at
CLEARLY = 0.03  # of accuracy, and three standard errors
COMMON = (((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5,), (0.5,)))  # mean and std: ImageNet's, and -1..1


def better_input(
    classifier: Classifier, images: ImageSet, device: str | torch.device = "cpu"
) -> tuple[InputSpec, float, float] | None:
    """The specification with which the classifier is clearly better on these images than with its own; None: none is.

    Also its accuracy with its own and with that one, 0..1. Tried are ImageNet's mean and std, 0.5 of each, those of the
    images themselves, and pixels in 0..255. images: some that it was trained on.
    """
    rows = torch.linspace(0, len(images) - 1, min(IMAGES, len(images))).int().numpy()
    spec, some = classifier.spec, images.subset(rows)
    unit = to_unit(some.pixels)
    own = tuple(tuple(round(float(x), 3) for x in found) for found in (unit.mean((0, 2, 3)), unit.std((0, 2, 3))))
    pairs = [pair for pair in (*COMMON, own) if len(pair[0]) in (1, spec.channels) and min(pair[1]) > 0]
    tried = [spec, *(dataclasses.replace(spec, mean=mean, std=std) for mean, std in pairs)]
    tried.append(dataclasses.replace(spec, value_range=(0.0, 255.0)))

    def accuracy(found: InputSpec) -> float:
        answers = logits(Classifier(classifier.network, found), some.pixels, device=device).argmax(1)
        return float((answers == some.labels).mean())

    rates = [accuracy(found) for found in tried]
    best = max(range(len(tried)), key=lambda index: (rates[index], -index))
    error = math.sqrt(rates[0] * (1 - rates[0]) / len(some))
    return (tried[best], rates[0], rates[best]) if rates[best] > rates[0] + max(CLEARLY, 3 * error) else None
