"""Style-guided repair: train on clean images in the look of the failures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from repairops.config import MethodConfig
from repairops.core.augment.mixing import draw_mixing, mix_chains
from repairops.core.augment.patterns import find_pattern
from repairops.core.methods.base import FailureSampler, Loss, Method, MethodData, make_sampler
from repairops.core.methods.losses import distillation_loss, jensen_shannon, train_and_failure_loss
from repairops.core.methods.style_operations import StyleOperations, reference_weights
from repairops.model.network import Classifier


@dataclass(frozen=True, eq=False)
class StyleGuided:
    """Clean, restyled and failure images in one forward pass, with their labels; nothing is mixed.

    `style_share` of a batch's train images are restyled in place, the others stay clean: a step costs as much as one
    without a style. With `distillation`, clean images learn the champion's own answers to them in that share and their
    labels in the rest, so that decisions that are right already stay; restyled images learn the champion's answers to
    their clean content in half that share. Answers of the champion that are wrong teach nothing: these images learn
    their labels, as failures do. Every image weighs the same, but restyled ones `style_weight`.

    With `repaired` the champion knows the failures' look already, and teaches by its answers to what the network is
    shown: clean, restyled and failure images alike, each in the share `distillation`.

    Differs from the paper: no AugMix chains and no consistency term (they dilute the style), failure images join
    the batch with their labels, and the champion can teach.
    """

    styles: StyleOperations
    failures: FailureSampler
    style_share: float = 0.5
    style_weight: float = 1.0
    distillation: float = 0.0
    champion: Classifier | None = None
    repaired: bool = False

    def loss(self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator) -> Loss:
        failures, failure_labels = self.failures.draw(len(images), generator)
        clean = len(images) - round(self.style_share * len(images))
        styled = self.styles.apply(images[clean:], generator) if clean < len(images) else images[:0]
        shown, wanted = torch.cat((images[:clean], styled, failures)), torch.cat((labels, failure_labels))
        logits = classifier(shown).float()
        losses = F.cross_entropy(logits, wanted, reduction="none")
        if self.champion is not None:
            with torch.no_grad():
                answers = self.champion(shown if self.repaired else images)
            taught = len(answers)
            share = self.distillation * (answers.argmax(1) == wanted[:taught])
            if not self.repaired:
                share[clean:] /= 2
            learnt = torch.lerp(losses[:taught], distillation_loss(logits[:taught], answers), share)
            losses = torch.cat((learnt, losses[taught:]))
        weights = torch.ones_like(losses)
        weights[clean : len(images)] = self.style_weight
        names = ("loss_train", "loss_styled", "loss_failures")
        parts = losses.detach().tensor_split([clean, len(images)])
        figures = {name: part.mean().item() for name, part in zip(names, parts, strict=True) if len(part)}
        return (weights * losses).sum() / weights.sum(), figures


@dataclass(frozen=True, eq=False)
class MixedConsistency:
    """Cross-entropy, plus lambda times the Jensen-Shannon divergence of clean images and two mixtures of them.

    With a style it is the paper's StyleAug (Algorithm 1), without one it is AugMix. The cross-entropy is on the
    clean images, and on failure images where `failures` has a share.
    """

    styles: StyleOperations | None
    failures: FailureSampler
    jsd_lambda: float
    severity: float
    chains: int

    def loss(self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator) -> Loss:
        joint, joint_labels, failures = self.failures.join(images, labels, generator)
        mixtures = self._mix(images.repeat(2, 1, 1, 1), generator)  # both at once: half the calls
        logits = classifier(torch.cat((joint, mixtures))).float()
        plain = len(joint)
        loss, figures = train_and_failure_loss(logits[:plain], joint_labels, failures)
        divergence = jensen_shannon(logits[: len(images)], *logits[plain:].chunk(2))
        return loss + self.jsd_lambda * divergence, {**figures, "jensen_shannon": divergence.item()}

    def _mix(self, images: Tensor, generator: Generator) -> Tensor:
        styles = self.styles
        count = 0 if styles is None else styles.count
        draws = draw_mixing(len(images), generator, chains=self.chains, severity=self.severity, styles=count)
        if styles is None:
            return mix_chains(images, draws)
        return mix_chains(images, draws, lambda content: styles.apply(content, generator))


def make_style_guided(data: MethodData, method: MethodConfig, generator: Generator) -> Method:
    """The recipe `default` (StyleGuided) or `paper` (MixedConsistency; trains on failures only where asked to)."""
    styles = _operations(data, method)
    failures = make_sampler(data, method, by_default=method.recipe == "default")
    if method.recipe == "paper":
        return MixedConsistency(styles, failures, method.jsd_lambda, method.severity, method.chains)
    champion = data.champion() if method.distillation else None
    return StyleGuided(styles, failures, method.style_share, method.style_weight, method.distillation, champion)


def make_consolidation(data: MethodData, method: MethodConfig, generator: Generator) -> Method:
    """StyleGuided with what repairs already as the teacher: `data.champion` is a guarded version."""
    styles, failures = _operations(data, method), make_sampler(data, method)
    champion = data.champion()
    return StyleGuided(
        styles, failures, method.style_share, method.style_weight, method.distillation, champion, repaired=True
    )


def _operations(data: MethodData, method: MethodConfig) -> StyleOperations:
    """The data's style, with references by cluster or uniform, and the known patterns."""
    assert data.style is not None, "a style is fitted before training"
    patterns = tuple(find_pattern(name) for name in method.known_patterns)
    weights = reference_weights(data.clusters, uniform=method.references == "uniform")
    return StyleOperations(data.style, weights, data.clusters.count, patterns)


def make_augmix(data: MethodData, method: MethodConfig, generator: Generator) -> Method:
    return MixedConsistency(None, make_sampler(data, method), method.jsd_lambda, method.severity, method.chains)
