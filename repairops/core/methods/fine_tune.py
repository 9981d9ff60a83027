"""Plain fine-tuning, and new BatchNorm statistics alone: the rivals that any repair has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from repairops.config import MethodConfig
from repairops.core.methods.base import Method, MethodData
from repairops.core.methods.failure_sampler import FailureSampler, make_sampler
from repairops.core.methods.losses import train_and_failure_loss
from repairops.errors import NotFineTunable
from repairops.model.network import Classifier


@dataclass(frozen=True, eq=False)
class FineTune:
    """Cross-entropy on train images and failure images, in one forward pass (so BatchNorm sees their mixture)."""

    failures: FailureSampler

    def loss(
        self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, dict[str, float]]:
        joint, labels, failures = self.failures.join(images, labels, generator)
        return train_and_failure_loss(classifier(joint), labels, failures)


@dataclass(frozen=True, eq=False)
class BatchNormStatistics:
    """New BatchNorm statistics from train images mixed with failure images; no weight changes.

    Source: Schneider et al., Improving robustness against common corruptions by covariate shift adaptation
    (NeurIPS 2020). Differs: the mixture with train images is in the batches, not in a prior.
    """

    failures: FailureSampler

    def loss(
        self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, dict[str, float]]:
        if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in classifier.modules()):
            raise NotFineTunable("The model", "the method batch_norm found no BatchNorm layer in train mode")
        joint, labels, failures = self.failures.join(images, labels, generator)
        with torch.no_grad():
            return train_and_failure_loss(classifier(joint), labels, failures)


def make_fine_tune(data: MethodData, method: MethodConfig, generator: Generator) -> Method:
    return FineTune(make_sampler(data, method))


def make_batch_norm(data: MethodData, method: MethodConfig, generator: Generator) -> Method:
    return BatchNormStatistics(make_sampler(data, method))
