"""Few-shot guided mix: AugMix's mixtures, chosen to look like the failures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from repairops.config import MethodConfig
from repairops.core.augment.mixing import blend_chains, draw_mixing, run_chains
from repairops.core.clustering import fit_gaussian_mixture
from repairops.core.methods.base import FailureSampler, Loss, Method, MethodData, make_sampler
from repairops.core.methods.losses import train_and_failure_loss
from repairops.model.network import Classifier, to_unit

CANDIDATES = 4  # weight vectors for each image


@dataclass(frozen=True, eq=False)
class FewShotMix:
    """Cross-entropy on clean, mixed and failure images; mixing weights follow a Gaussian mixture over the failures.

    Source: Ren et al., Few-shot guided mix for DNN repairing (ICSME 2020), as the DeepRepair paper describes it: the
    failures' noise is estimated by a Gaussian mixture, by which the weights that mix the augmented images are
    sampled. Differs: what the mixture describes is not published; here it is `describe`. For each image
    `CANDIDATES` weight vectors are drawn as in AugMix, and one is taken with a probability proportional to the
    density of what it makes of the image.
    """

    mixture: Any  # see `fit_gaussian_mixture`
    failures: FailureSampler
    severity: float
    chains: int

    def loss(self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator) -> Loss:
        mixed = self.mix(images, generator)
        joint, joint_labels, failures = self.failures.join(
            torch.cat((images, mixed)), torch.cat((labels, labels)), generator
        )
        return train_and_failure_loss(classifier(joint), joint_labels, failures)

    def mix(self, images: Tensor, generator: Generator) -> Tensor:
        """Images, float32 (B, C, H, W) in 0..1, each mixed by the weights that were sampled for it."""
        draws = draw_mixing(len(images), generator, chains=self.chains, severity=self.severity)
        chains = run_chains(images, draws)
        made, scores = [], []
        for _ in range(CANDIDATES):
            weights = torch.empty(draws.weights.shape).exponential_(generator=generator)
            blend = torch.rand(len(images), generator=generator)
            made.append(blend_chains(images, chains, weights / weights.sum(1, keepdim=True), blend))
            density = self.mixture.score_samples(describe(made[-1]).double().cpu().numpy())
            scores.append(torch.from_numpy(density))
        chances = torch.stack(scores, 1).softmax(1)
        taken = torch.multinomial(chances, 1, generator=generator).squeeze(1).to(images.device)
        return torch.stack(made)[taken, torch.arange(len(images), device=images.device)]


def describe(images: Tensor) -> Tensor:
    """What is said of an image's noise, float32 (B, 4): brightness, contrast, grain along rows and along columns.

    images: float32 (B, C, H, W) in 0..1. Logarithms of standard deviations, so that ratios count alike.
    """
    grain = [images.diff(dim=axis).std((1, 2, 3), correction=0) for axis in (3, 2)]
    spread = torch.stack((images.std((1, 2, 3), correction=0), *grain), 1)
    return torch.cat((images.mean((1, 2, 3))[:, None], (spread + 1 / 255).log()), 1)


def make_few_shot(data: MethodData, method: MethodConfig, generator: Generator) -> Method:
    """Fits the mixture to the repair failures; fewer different failures than `components` give fewer components."""
    features = describe(to_unit(data.failures.images.pixels)).double().numpy()
    seed = int(torch.randint(2**31, (), generator=generator))
    mixture = fit_gaussian_mixture(features, method.components, seed=seed)
    return FewShotMix(mixture, make_sampler(data, method), method.severity, method.chains)
