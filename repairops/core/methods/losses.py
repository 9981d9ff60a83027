"""Losses that more than one method uses. Logits are (B, classes) on any device."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

TEMPERATURE = 2.0  # of distillation


def jensen_shannon(*logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two or more predictions for the same images, in nats, mean over the batch.

    Source: AugMix's consistency loss, JS(p(X), p(aug1), p(aug2)). It differs from AugMix's code by working on
    logarithms, where that code clamps the mean probability at 1e-7. 0 for equal predictions, at most log(views).
    """
    views = torch.stack([F.log_softmax(view.float(), 1) for view in logits])
    mean = torch.logsumexp(views, 0) - math.log(len(logits))
    return (views.exp() * (views - mean)).sum(2).mean()


def train_and_failure_loss(logits: Tensor, labels: Tensor, failures: int) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of one batch whose last `failures` rows are failure images: the mean over all rows.

    Every image weighs the same, so the failures' weight is their share of the batch. The figures are the means of
    the two parts, without a gradient.
    """
    each = F.cross_entropy(logits.float(), labels, reduction="none")
    train = len(labels) - failures
    means = torch.stack([part.mean() for part in each.detach().tensor_split([train])]).tolist()
    figures = {"loss_train": means[0]}
    if failures:
        figures["loss_failures"] = means[1]
    return each.mean(), figures


def distillation_loss(logits: Tensor, answers: Tensor) -> Tensor:
    """Divergence KL(answers || logits) of each row (B,) at TEMPERATURE, times its square; 0 for equal predictions.

    Source: Hinton et al., Distilling the knowledge in a neural network (2015): the square keeps the gradient's size.
    """
    student, teacher = (F.log_softmax(x.float() / TEMPERATURE, 1) for x in (logits, answers))
    return TEMPERATURE**2 * (teacher.exp() * (teacher - student)).sum(1)


def mixed_loss(logits: Tensor, labels: Tensor, partners: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of images that belong to `labels` (B,) with `weights` (B,), 0..1, and to `partners` else."""
    own = F.cross_entropy(logits.float(), labels, reduction="none")
    other = F.cross_entropy(logits.float(), partners, reduction="none")
    return torch.lerp(other, own, weights).mean(), {}


def draw_beta(count: int, alpha: float, generator: Generator) -> Tensor:
    """float32 (count,) from Beta(alpha, alpha), on the CPU; numpy's sampler, seeded by the generator."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, count).astype(np.float32))
