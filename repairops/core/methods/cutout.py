"""Cutout: a square of each image is covered."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from repairops.config import MethodConfig
from repairops.core.augment.geometry import cut_out, draw_boxes
from repairops.core.methods.base import Method, MethodData
from repairops.core.methods.failure_sampler import FailureSampler, make_sampler
from repairops.core.methods.losses import train_and_failure_loss
from repairops.model.network import Classifier, to_unit


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

    def loss(
        self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, dict[str, float]]:
        joint, labels, failures = self.failures.join(images, labels, generator)
        boxes = draw_boxes(torch.full((len(joint),), self.side), joint.shape[2:], generator)
        return train_and_failure_loss(classifier(cut_out(joint, boxes, self.fill)), labels, failures)


def make_cutout(data: MethodData, method: MethodConfig, generator: Generator) -> Method:
    fill = to_unit(data.train.pixels).mean((0, 2, 3))
    return Cutout(make_sampler(data, method), method.cutout_side, fill)
