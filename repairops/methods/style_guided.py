"""Style-guided repair: train on clean images in the look of the failures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from repairops.augment.mixing import draw_mixing, mix_chains
from repairops.config import MethodConfig, StyleConfig
from repairops.methods.base import Method, RepairData
from repairops.methods.losses import jensen_shannon, train_and_failure_loss
from repairops.methods.references import FailureSampler, draw_references
from repairops.network import Classifier, to_unit
from repairops.records import Clusters
from repairops.style.base import Style

CLEAN_IMAGES = 2000  # train images that a style is fitted to, at most


@dataclass(frozen=True, eq=False)
class StyleGuided:
    """Cross-entropy on clean, failure and styled images in one forward pass; the styled copies are not mixed.

    Differs from the paper: no AugMix chains and no consistency term (they dilute the style), failure images join
    the batch with their labels. `style_weight` weighs the styled images' mean cross-entropy against the mean over
    train and failure images.
    """

    style: Style
    clusters: Clusters
    failures: FailureSampler
    style_weight: float

    def loss(
        self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, dict[str, float]]:
        failures, failure_labels = self.failures.draw(len(images), generator)
        styled = restyle(images, self.style, self.clusters, generator)
        logits = classifier(torch.cat((images, failures, styled))).float()
        plain = len(images) + len(failures)
        loss, figures = train_and_failure_loss(logits[:plain], torch.cat((labels, failure_labels)), len(failures))
        styled_loss = F.cross_entropy(logits[plain:], labels)
        return loss + self.style_weight * styled_loss, {**figures, "loss_styled": styled_loss.item()}


@dataclass(frozen=True, eq=False)
class MixedConsistency:
    """Cross-entropy, plus lambda times the Jensen-Shannon divergence of clean images and two mixtures of them.

    With a style it is the paper's StyleAug (Algorithm 1), without one it is AugMix. The cross-entropy is on the
    clean images, and on failure images where `failures` has a share.
    """

    style: Style | None
    clusters: Clusters
    failures: FailureSampler
    jsd_lambda: float
    severity: float
    chains: int

    def loss(
        self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, dict[str, float]]:
        failures, failure_labels = self.failures.draw(len(images), generator)
        mixtures = [self._mix(images, generator) for _ in range(2)]
        logits = classifier(torch.cat((images, failures, *mixtures))).float()
        plain = len(images) + len(failures)
        loss, figures = train_and_failure_loss(logits[:plain], torch.cat((labels, failure_labels)), len(failures))
        divergence = jensen_shannon(logits[: len(images)], *logits[plain:].chunk(2))
        return loss + self.jsd_lambda * divergence, {**figures, "jensen_shannon": divergence.item()}

    def _mix(self, images: Tensor, generator: Generator) -> Tensor:
        style = self.style
        draws = draw_mixing(
            len(images),
            generator,
            chains=self.chains,
            severity=self.severity,
            styles=0 if style is None else self.clusters.count,
        )
        if style is None:
            return mix_chains(images, draws)
        return mix_chains(images, draws, lambda content: restyle(content, style, self.clusters, generator))


def restyle(content: Tensor, style: Style, clusters: Clusters, generator: Generator) -> Tensor:
    """Each content image, float32 (B, C, H, W) in 0..1, in the style of a reference drawn for it."""
    references = draw_references(clusters, len(content), generator).to(content.device)
    with torch.no_grad():
        return style.apply(content, references, generator)


def make_style_guided(data: RepairData, method: MethodConfig, style: StyleConfig, generator: Generator) -> Method:
    """The recipe `default` (StyleGuided) or `paper` (MixedConsistency; never trains on failures)."""
    from repairops.style import fit_style

    references = to_unit(data.failures.images.pixels.to(data.device))
    sample = torch.randperm(len(data.train), generator=generator)[:CLEAN_IMAGES]
    clean = to_unit(data.train.pixels[sample].to(data.device))
    fitted = fit_style(style.name, references, clean, style, generator)
    if method.recipe == "default":
        return StyleGuided(fitted, data.clusters, FailureSampler(data, method.failure_share), method.style_weight)
    return MixedConsistency(
        fitted, data.clusters, FailureSampler(data, 0.0), method.jsd_lambda, method.severity, method.chains
    )


def make_augmix(data: RepairData, method: MethodConfig, style: StyleConfig, generator: Generator) -> Method:
    failures = FailureSampler(data, method.failure_share)
    return MixedConsistency(None, data.clusters, failures, method.jsd_lambda, method.severity, method.chains)
