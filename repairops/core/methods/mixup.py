"""Mixup: images and their labels are blended in pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from repairops.config import MethodConfig
from repairops.core.methods.base import Method, MethodData
from repairops.core.methods.failure_sampler import FailureSampler, make_sampler
from repairops.core.methods.losses import draw_beta, mixed_loss
from repairops.model.network import Classifier


@dataclass(frozen=True, eq=False)
class Mixup:
    """Cross-entropy on blended pairs from the train and failure images of a batch.

    Source: Zhang et al., mixup: beyond empirical risk minimization (ICLR 2018), alpha 1 for CIFAR-10. Differs: one
    weight for each image, where that code and torchvision's MixUp draw one for the batch (and from global state).
    """

    failures: FailureSampler
    alpha: float

    def loss(
        self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, dict[str, float]]:
        joint, labels, _ = self.failures.join(images, labels, generator)
        partners = torch.randperm(len(joint), generator=generator).to(joint.device)
        weights = draw_beta(len(joint), self.alpha, generator).to(joint.device)
        blended = torch.lerp(joint[partners], joint, weights.view(-1, 1, 1, 1))
        return mixed_loss(classifier(blended), labels, labels[partners], weights)


def make_mixup(data: MethodData, method: MethodConfig, generator: Generator) -> Method:
    return Mixup(make_sampler(data, method), method.mix_alpha)
