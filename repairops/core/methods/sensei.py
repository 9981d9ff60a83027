"""SENSEI: trains on the hardest natural variant that a genetic search finds for each image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from repairops.core.augment.variants import apply_variants, cross_over, draw_variants, mutate
from repairops.core.methods.base import FailureSampler, Loss
from repairops.core.methods.losses import train_and_failure_loss
from repairops.model.network import Classifier

ROBUST_LOSS = 1e-3  # an image with a lower cross-entropy is left as it is


@dataclass(frozen=True, eq=False)
class Sensei:
    """Cross-entropy on train and failure images, each in the variant of highest loss that was found.

    Source: Gao et al., Fuzz testing based data augmentation to improve robustness of deep neural networks (ICSE
    2020), with its selective augmentation: an image that the network already gets right with a loss below
    `robust_loss` is not searched for and trained on as it is. Differs: a batch's search starts from a random
    population and runs `generations` within the step; that code keeps each image's population from epoch to epoch.
    """

    failures: FailureSampler
    population: int
    generations: int
    robust_loss: float = ROBUST_LOSS

    def loss(self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator) -> Loss:
        joint, labels, failures = self.failures.join(images, labels, generator)
        with torch.no_grad(), frozen_statistics(classifier):
            searched = (_losses(classifier, joint, labels) >= self.robust_loss).nonzero().squeeze(1)
            if len(searched):
                found = self._search(classifier, joint[searched], labels[searched], generator)
                joint = joint.index_copy(0, searched, apply_variants(joint[searched], found))
        loss, figures = train_and_failure_loss(classifier(joint), labels, failures)
        return loss, {**figures, "augmented_share": len(searched) / len(joint)}

    def _search(self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator) -> Tensor:
        """Parameters (B, P) of the fittest variant of each image; fitness is the loss."""
        count, row = len(images), torch.arange(len(images))
        people = draw_variants(self.population * count, generator).view(self.population, count, -1)
        fitness = _fitness(classifier, images, labels, people)
        for _ in range(self.generations):
            order = fitness.argsort(0, descending=True)
            best, second = people[order[0], row], people[order[min(1, self.population - 1)], row]
            children = torch.stack((mutate(best, generator), mutate(cross_over(best, second, generator), generator)))
            people = torch.cat((people, children))
            fitness = torch.cat((fitness, _fitness(classifier, images, labels, children)))
            order = fitness.argsort(0, descending=True)[: self.population]
            people, fitness = people[order, row], fitness.gather(0, order)
        return people[fitness.argmax(0), row]


def _fitness(classifier: Classifier, images: Tensor, labels: Tensor, people: Tensor) -> Tensor:
    """Losses (P, B) on the CPU of P variants, parameters (P, B, K), of each image."""
    return torch.stack([_losses(classifier, apply_variants(images, variant), labels).cpu() for variant in people])


def _losses(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(classifier(images).float(), labels, reduction="none")


@contextmanager
def frozen_statistics(classifier: Classifier) -> Iterator[None]:
    """BatchNorm statistics neither move nor follow the batch inside; dropout and the rest stay as they are."""
    layers = [m for m in classifier.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()
