"""`auto`: for each cluster the mix of styles that repair most failures in short trials.

A style is tried by training copies of the champion on a few of its images; the failures, never trained on, judge the
copies by their labels. A style's share is the chance that it is the best of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from repairops.core.styles.base import Style, Witness
from repairops.core.styles.fitted.look import FittedLook, nothing
from repairops.model.device import seeded, set_mode
from repairops.model.network import own_copy

N = TypeVar("N", bound=nn.Module)
SMALLEST = 0.1  # shares of a mix below it are given to the others
TRIALS = 3  # for each style, each with other images, references and draws
STEPS = 20
IMAGES = 50  # train images in a step; as many restyled ones join them
RATE, MOMENTUM = 0.03, 0.9
RESAMPLES = 1000


@dataclass(frozen=True)
class MixPart:
    """A style in one cluster.

    repaired: share of the cluster's failures that are right after the style's trials. share: of the mix.
    """

    style: str
    repaired: float
    share: float


@dataclass(frozen=True, eq=False)
class Auto:
    """A mix of fitted styles for each cluster. clusters: int64 (R,), of the references; shares: (clusters, styles)."""

    styles: Mapping[str, Style]
    clusters: Tensor
    shares: Tensor
    mixes: tuple[tuple[MixPart, ...], ...]
    found: FittedLook | tuple[FittedLook, ...]  # of all references, or of each look

    def apply(self, content: Tensor, reference: Tensor, generator: Generator) -> Tensor:
        """See `Style`; the style of each image is drawn by its reference's cluster."""
        shares = self.shares[self.clusters[reference.cpu()]]
        drawn = torch.multinomial(shares, 1, generator=generator)[:, 0]
        styled = torch.empty_like(content)
        for number, style in enumerate(self.styles.values()):
            index = (drawn == number).nonzero()[:, 0].to(content.device)
            if len(index):
                styled[index] = style.apply(content[index], reference[index.to(reference.device)], generator)
        return styled


@torch.no_grad()
def choose(
    styles: Mapping[str, Style], references: Tensor, clean: Tensor, witness: Witness, generator: Generator
) -> Auto:
    """The mix for each cluster of references float32 (R, C, H, W), from clean images (M, C, H, W), both in 0..1."""
    champion, clusters = witness.champion, witness.clusters.cpu()
    set_mode(champion, training=False)
    failures, shown = (references, witness.labels), (clean, witness.clean_labels)
    weights = 1 / clusters.bincount()[clusters].double()  # each cluster alike, as training draws them
    right = run_trials(champion, list(styles.values()), shown, weights, failures, generator)
    chances, repaired = chance_of_best(right, clusters, generator)
    shares = without_small(chances)
    mixes = tuple(
        tuple(MixPart(*row) for row in zip(styles, good, mix, strict=True))
        for good, mix in zip(repaired.tolist(), shares.tolist(), strict=True)
    )
    found = next((s.found for s in styles.values() if hasattr(s, "found")), nothing(references))
    return Auto(styles, clusters, shares, mixes, found)


def without_small(shares: Tensor) -> Tensor:
    """Shares (..., S) that sum to 1, with those below SMALLEST given to the others."""
    largest = shares.amax(-1, keepdim=True)
    kept = torch.where(shares < largest.clamp(max=SMALLEST), 0.0, shares)
    return kept / kept.sum(-1, keepdim=True)


def run_trials(
    champion: nn.Module,
    styles: Sequence[Style],
    clean: tuple[Tensor, Tensor],
    weights: Tensor,
    failures: tuple[Tensor, Tensor],
    generator: Generator,
) -> Tensor:
    """Whether each of R failures is answered rightly after each of T trials of S styles: bool (S, T, R), on the CPU.

    clean, failures: images float32 (N, C, H, W) in 0..1 and labels int64 (N,). weights: (R,), the chance of each
    failure to be a reference. Labels, weights and the generator are on the CPU. A trial costs STEPS * 2 * IMAGES
    images' training and a pass over the failures; the champion stays as it is.
    """
    right = torch.zeros(len(styles), TRIALS, len(failures[1]), dtype=torch.bool)
    seeds = torch.randint(2**31, (TRIALS,), generator=generator).tolist()
    for number, style in enumerate(styles):
        for trial, seed in enumerate(seeds):  # the same content and references for all styles, so that they compare
            network = briefly_trained(champion, style, clean, weights, Generator().manual_seed(seed))
            parts = torch.split(failures[0], 2 * IMAGES)
            with torch.no_grad():
                logits = torch.cat([network(part).float().cpu() for part in parts])
            if logits.isfinite().all():  # else the training diverged, which repairs nothing
                right[number, trial] = logits.argmax(1) == failures[1]
    return right


def briefly_trained(
    champion: N, style: Style, clean: tuple[Tensor, Tensor], weights: Tensor, generator: Generator
) -> N:
    """A copy of the champion after STEPS on clean and restyled images, in eval mode.

    BatchNorm's statistics follow the trial's images, as they do in training.
    """
    images, labels = clean
    rows = torch.randint(len(images), (STEPS * IMAGES,), generator=generator)
    references = torch.multinomial(weights, len(rows), replacement=True, generator=generator)
    network = own_copy(champion).requires_grad_(True)
    optimiser = torch.optim.SGD(network.parameters(), RATE, MOMENTUM, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    set_mode(network, training=True)
    with torch.enable_grad(), seeded(int(torch.randint(2**31, (1,), generator=generator)), images.device):
        for row, reference in zip(torch.split(rows, IMAGES), torch.split(references, IMAGES), strict=True):
            with torch.no_grad():
                content = images[row.to(images.device)]
                styled = style.apply(content, reference.to(images.device), generator)
                batch = content.new_empty((2 * IMAGES, *content.shape[1:]))  # NCHW, whatever order a style returns
                batch[:IMAGES], batch[IMAGES:] = content, styled
            loss = F.cross_entropy(network(batch).float(), labels[row].repeat(2).to(images.device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    set_mode(network, training=False)
    return network


def chance_of_best(right: Tensor, clusters: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """How often each style is the best for each cluster, and the figures behind it: both float32 (clusters, S).

    right: bool (S, T, R), T trials of S styles on R failures. clusters: int64 (R,). Counted over resamples of the
    failures and of the trials (bootstrap, paired over the styles): one style has nearly all where the evidence is
    clear, all have as much where there is none. Second result: the share of the cluster's failures that are right
    after the trials.

    Clusters borrow from each other. What is judged is the accuracy on all failures, plus a part of the cluster's own
    departure from it: nothing where departures are no larger than chance makes them, nearly all where they are far
    larger (random effects).
    """
    styles, trials, _ = right.shape
    sizes = clusters.bincount().double()
    resampled = torch.zeros(RESAMPLES, len(sizes), styles, dtype=torch.float64)
    own = torch.zeros(len(sizes), styles, dtype=torch.float64)
    picked = torch.randint(trials, (RESAMPLES, styles, 1), generator=generator)
    for number, size in enumerate(sizes.int().tolist()):
        if size == 0:
            continue
        answers = right[:, :, clusters == number].double()
        own[number] = answers.mean((1, 2))
        drawn = torch.randint(size, (RESAMPLES, size), generator=generator)
        counts = torch.zeros(RESAMPLES, size, dtype=torch.float64)
        counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        means = (counts @ answers.flatten(0, 1).T / size).view(RESAMPLES, styles, trials)
        resampled[:, number] = means.gather(2, picked)[..., 0]
    pooled, departures = _split(resampled, sizes)
    chance = (departures.var(0).mean(1) * sizes * sizes).sum() / sizes.sum() / sizes.clamp_min(1)
    excess = ((_split(own, sizes)[1].square().mean(1) - chance) * sizes / sizes.sum()).sum().clamp_min(0)
    kept = excess / (excess + chance).clamp_min(1e-12)
    scores = pooled.unsqueeze(1) + kept[:, None] * departures
    scores += 1e-6 * torch.rand(scores.shape, generator=generator, dtype=torch.float64)  # ties are drawn by lot
    return F.one_hot(scores.argmax(2), styles).float().mean(0), own.float()


def _split(accuracy: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Accuracy (..., clusters, S) as that on all failures (..., S), and what is left of each cluster's (..., clusters,
    S) when that and the cluster's own difficulty are taken off."""
    pooled = (accuracy * (sizes / sizes.sum())[:, None]).sum(-2)
    left = accuracy - pooled.unsqueeze(-2)
    return pooled, left - left.mean(-1, keepdim=True)
