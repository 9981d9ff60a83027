"""Fine-tuning on train and failure images together: as they are, or after a general augmentation of both.

And new BatchNorm statistics alone: with plain fine-tuning, what any repair has to beat.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from repairops.config import MethodConfig
from repairops.core.augment.geometry import cut_mix, cut_out, draw_boxes
from repairops.core.augment.operations import OPERATIONS, apply_operations
from repairops.core.methods.base import FailureSampler, Loss, Method, MethodData, make_sampler
from repairops.core.methods.losses import draw_beta, mixed_loss, train_and_failure_loss
from repairops.errors import NotFineTunable
from repairops.model.network import Classifier, to_unit

APPLIED = 2  # random operations after each other


@dataclass(frozen=True, eq=False)
class FineTune:
    """Cross-entropy on train images and failure images, in one forward pass (so BatchNorm sees their mixture)."""

    failures: FailureSampler

    def loss(self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator) -> Loss:
        joint, labels, failures = self.failures.join(images, labels, generator)
        return train_and_failure_loss(classifier(joint), labels, failures)


@dataclass(frozen=True, eq=False)
class BatchNormStatistics:
    """New BatchNorm statistics from train images mixed with failure images; no weight changes.

    Source: Schneider et al., Improving robustness against common corruptions by covariate shift adaptation
    (NeurIPS 2020). Differs: the mixture with train images is in the batches, not in a prior.
    """

    failures: FailureSampler

    def loss(self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator) -> Loss:
        if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in classifier.modules()):
            raise NotFineTunable("The model", "the method batch_norm found no BatchNorm layer in train mode")
        joint, labels, failures = self.failures.join(images, labels, generator)
        with torch.no_grad():
            return train_and_failure_loss(classifier(joint), labels, failures)


@dataclass(frozen=True, eq=False)
class Cutout:
    """Cross-entropy on train and failure images, each with a box in the train set's mean colour.

    Source: DeVries and Taylor, Improved regularization of convolutional neural networks with Cutout (2017): a side
    of 16 of 32 pixels for CIFAR-10, here `side` as a share of the image's sides. torchvision's RandomErasing draws
    one box for a whole batch, so the boxes are ours.
    """

    failures: FailureSampler
    side: float
    fill: Tensor  # (C,), 0..1

    def loss(self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator) -> Loss:
        joint, labels, failures = self.failures.join(images, labels, generator)
        boxes = draw_boxes(torch.full((len(joint),), self.side), joint.shape[2:], generator)
        return train_and_failure_loss(classifier(cut_out(joint, boxes, self.fill)), labels, failures)


@dataclass(frozen=True, eq=False)
class Mixup:
    """Cross-entropy on blended pairs from the train and failure images of a batch.

    Source: Zhang et al., mixup: beyond empirical risk minimization (ICLR 2018), alpha 1 for CIFAR-10. Differs: one
    weight for each image, where that code and torchvision's MixUp draw one for the batch (and from global state).
    """

    failures: FailureSampler
    alpha: float

    def loss(self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator) -> Loss:
        joint, labels, _ = self.failures.join(images, labels, generator)
        partners = torch.randperm(len(joint), generator=generator).to(joint.device)
        weights = draw_beta(len(joint), self.alpha, generator).to(joint.device)
        blended = torch.lerp(joint[partners], joint, weights.view(-1, 1, 1, 1))
        return mixed_loss(classifier(blended), labels, labels[partners], weights)


@dataclass(frozen=True, eq=False)
class CutMix:
    """Cross-entropy on train and failure images of a batch, each with a box from another.

    Source: Yun et al., CutMix (ICCV 2019), alpha 1. Differs: a box and a weight for each image, and in every batch,
    where that code and torchvision's CutMix draw one for the batch, and that code leaves half of the batches plain.
    """

    failures: FailureSampler
    alpha: float

    def loss(self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator) -> Loss:
        joint, labels, _ = self.failures.join(images, labels, generator)
        partners = torch.randperm(len(joint), generator=generator).to(joint.device)
        sides = (1 - draw_beta(len(joint), self.alpha, generator)).sqrt()
        mixed, kept = cut_mix(joint, partners, draw_boxes(sides, joint.shape[2:], generator))
        return mixed_loss(classifier(mixed), labels, labels[partners], kept)


@dataclass(frozen=True, eq=False)
class RandomOperations:
    """Cross-entropy on train and failure images, each after two of AugMix's nine operations.

    Source: Cubuk et al., RandAugment (2020). Differs: AugMix's operations (those that do not overlap with the usual
    test corruptions), and a level drawn for each image, where torchvision's RandAugment has one for the batch.
    """

    failures: FailureSampler
    severity: float

    def loss(self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator) -> Loss:
        joint, labels, failures = self.failures.join(images, labels, generator)
        shape = (len(joint), APPLIED)
        operations = torch.randint(0, len(OPERATIONS), shape, generator=generator)
        levels = 0.1 + (self.severity - 0.1) * torch.rand(shape, generator=generator)
        signs = 1.0 - 2.0 * torch.randint(0, 2, shape, generator=generator)
        changed = apply_operations((joint * 255).round(), operations, levels, signs)
        return train_and_failure_loss(classifier(changed / 255), labels, failures)


def make_cutout(data: MethodData, method: MethodConfig, generator: Generator) -> Method:
    fill = to_unit(data.train.pixels).mean((0, 2, 3))
    return Cutout(make_sampler(data, method), method.cutout_side, fill)
