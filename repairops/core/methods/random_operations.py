"""Random general operations: augmentation that knows nothing of the failures, a sanity floor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from repairops.config import MethodConfig
from repairops.core.augment.operations import OPERATIONS, apply_operations
from repairops.core.methods.base import Method, MethodData
from repairops.core.methods.failure_sampler import FailureSampler, make_sampler
from repairops.core.methods.losses import train_and_failure_loss
from repairops.model.network import Classifier

APPLIED = 2  # operations after each other


@dataclass(frozen=True, eq=False)
class RandomOperations:
    """Cross-entropy on train and failure images, each after two of AugMix's nine operations.

    Source: Cubuk et al., RandAugment (2020). Differs: AugMix's operations (those that do not overlap with the usual
    test corruptions), and a level drawn for each image, where torchvision's RandAugment has one for the batch.
    """

    failures: FailureSampler
    severity: float

    def loss(
        self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, dict[str, float]]:
        joint, labels, failures = self.failures.join(images, labels, generator)
        shape = (len(joint), APPLIED)
        operations = torch.randint(0, len(OPERATIONS), shape, generator=generator)
        levels = 0.1 + (self.severity - 0.1) * torch.rand(shape, generator=generator)
        signs = 1.0 - 2.0 * torch.randint(0, 2, shape, generator=generator)
        changed = apply_operations((joint * 255).round(), operations, levels, signs)
        return train_and_failure_loss(classifier(changed / 255), labels, failures)


def make_random(data: MethodData, method: MethodConfig, generator: Generator) -> Method:
    return RandomOperations(make_sampler(data, method), method.severity)
