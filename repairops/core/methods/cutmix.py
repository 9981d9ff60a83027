"""CutMix: a box of each image comes from another one, and so does its share of the label."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from repairops.config import MethodConfig
from repairops.core.augment.geometry import cut_mix, draw_boxes
from repairops.core.methods.base import Method, MethodData
from repairops.core.methods.failure_sampler import FailureSampler, make_sampler
from repairops.core.methods.losses import draw_beta, mixed_loss
from repairops.model.network import Classifier


@dataclass(frozen=True, eq=False)
class CutMix:
    """Cross-entropy on train and failure images of a batch, each with a box from another.

    Source: Yun et al., CutMix (ICCV 2019), alpha 1. Differs: a box and a weight for each image, and in every batch,
    where that code and torchvision's CutMix draw one for the batch, and that code leaves half of the batches plain.
    """

    failures: FailureSampler
    alpha: float

    def loss(
        self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, dict[str, float]]:
        joint, labels, _ = self.failures.join(images, labels, generator)
        partners = torch.randperm(len(joint), generator=generator).to(joint.device)
        sides = (1 - draw_beta(len(joint), self.alpha, generator)).sqrt()
        mixed, kept = cut_mix(joint, partners, draw_boxes(sides, joint.shape[2:], generator))
        return mixed_loss(classifier(mixed), labels, labels[partners], kept)


def make_cutmix(data: MethodData, method: MethodConfig, generator: Generator) -> Method:
    return CutMix(make_sampler(data, method), method.mix_alpha)
