"""`auto`: for each cluster the mix of styles whose images mislead the champion as the failures did.

Evidence without a held-out image: clean images of the failures' classes are restyled by every candidate, the champion
answers, and the images that it gets wrong are compared with the failures, which it got wrong too. So both sides are
selected alike, and what differs is the look. They are compared by moments of the champion's features at several
depths and of its confidence; the mix of styles whose moments come nearest to the failures' is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from repairops.style.base import Style, Witness
from repairops.style.degradation import Estimate, nothing
from repairops.style.depths import choose_layers, see

CONTENT = 384  # clean images restyled for each cluster and candidate
FEWEST = 12  # wrong answers below which all of the restyled images are compared
SMALLEST = 0.1  # shares of a mix below it are given to the others
STEPS = 400


@dataclass(frozen=True)
class Evidence:
    """One candidate in one cluster.

    error_rate: the champion's on restyled images. confidence: its mean softmax probability of the wrong answers.
    distance: root mean square difference of the moments from the failures', in standard deviations of the failures,
    without what chance adds. share: of the mix.
    """

    style: str
    error_rate: float
    confidence: float
    distance: float
    share: float


@dataclass(frozen=True, eq=False)
class Auto:
    """A mix of fitted styles for each cluster. clusters: int64 (R,), of the references; shares: (clusters, styles)."""

    styles: Mapping[str, Style]
    clusters: Tensor
    shares: Tensor
    evidence: tuple[tuple[Evidence, ...], ...]
    found: Estimate

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

    def describe(self) -> list[dict[str, Any]]:
        """The choice and its figures for each cluster, as plain values."""
        return [
            {"cluster": number, "styles": [vars(candidate) for candidate in candidates]}
            for number, candidates in enumerate(self.evidence)
        ]


@torch.no_grad()
def choose(
    styles: Mapping[str, Style], references: Tensor, clean: Tensor, witness: Witness, generator: Generator
) -> Auto:
    """The mix for each cluster of references float32 (R, C, H, W), from clean images (M, C, H, W), both in 0..1."""
    champion = witness.champion.eval()
    layers = choose_layers(champion, references[:2])
    clusters = witness.clusters.cpu()
    count = int(clusters.max()) + 1
    shares, evidence = [], []
    for cluster in range(count):
        members = (clusters == cluster).nonzero()[:, 0]
        pick = members[torch.randint(len(members), (CONTENT,), generator=generator)]
        content = same_classes(witness.labels[pick], witness.clean_labels, generator)
        truth, images = witness.clean_labels[content], clean[content.to(clean.device)]
        failures = references[members.to(references.device)]
        seen = Seen(*_answers(champion, failures, layers), witness.labels[members])
        restyled = []
        for style in styles.values():
            styled = style.apply(images, pick.to(images.device), generator)
            restyled.append(Seen(*_answers(champion, styled, layers), truth))
        share, candidates = weigh(list(styles), restyled, seen)
        shares.append(share)
        evidence.append(candidates)
    found = next((s.found for s in styles.values() if hasattr(s, "found")), nothing(references))
    return Auto(styles, clusters, torch.stack(shares), tuple(evidence), found)


@dataclass(frozen=True, eq=False)
class Seen:
    """What the champion sees in N images: features (N, F) at each depth, logits (N, K); labels (N,): the truth."""

    features: list[Tensor]
    logits: Tensor
    labels: Tensor

    @property
    def wrong(self) -> Tensor:
        return self.logits.argmax(1) != self.labels

    @property
    def confidence(self) -> Tensor:
        return self.logits.softmax(1).amax(1)


def weigh(names: Sequence[str], restyled: Sequence[Seen], failures: Seen) -> tuple[Tensor, tuple[Evidence, ...]]:
    """Shares (S,) of S candidates, and their figures."""
    blocks = [*failures.features, failures.logits.softmax(1).sort(1, descending=True).values[:, :3]]
    centre = [block.mean(0) for block in blocks]
    scale = [block.std(0, correction=0).clamp_min(1e-4) for block in blocks]

    def moments(seen: Seen) -> tuple[Tensor, float]:
        """First and second moments in units of the failures' own spread, each depth counting alike, and the squared
        length that chance alone gives them."""
        wrong = seen.wrong if int(seen.wrong.sum()) >= FEWEST else torch.ones_like(seen.wrong)
        parts, chance = [], 0.0
        confidences = seen.logits.softmax(1).sort(1, descending=True).values[:, :3]
        for block, mean, deviation in zip([*seen.features, confidences], centre, scale, strict=True):
            standard = ((block[wrong] - mean) / deviation).clamp(-5, 5)
            both = torch.cat([standard, (standard.square() - 1) / 2], 1)
            parts.append(both.mean(0) / both.shape[1] ** 0.5)
            chance += float(both.var(0).mean()) / len(both) / len(blocks)
        return torch.cat(parts) / len(parts) ** 0.5, chance

    found = [moments(seen) for seen in restyled]
    differences = torch.stack([vector for vector, _ in found]).double()
    gram = differences @ differences.T
    gram.diagonal().copy_((gram.diagonal() - torch.tensor([chance for _, chance in found])).clamp_min(1e-6))
    shares = nearest_mix(gram)
    figures = tuple(
        Evidence(
            name,
            float(seen.wrong.float().mean()),
            float(seen.confidence[seen.wrong].mean()) if seen.wrong.any() else 0.0,
            float(squared) ** 0.5,
            float(share),
        )
        for name, seen, squared, share in zip(names, restyled, gram.diagonal(), shares, strict=True)
    )
    return shares, figures


def nearest_mix(gram: Tensor) -> Tensor:
    """Shares w (S,) >= 0 with sum 1 for which w' G w is least, the squared length of mixed differences.

    gram: float64 (S, S), products of the differences, on its diagonal without what chance adds: else any mix would
    look nearer than its parts, since chance averages out. Moments of a mix are the mixed moments, so this is a
    quadratic problem on the simplex; solved by exponentiated gradients. Small shares are dropped.
    """
    rate = 1 / gram.abs().max().clamp_min(1e-12)
    shares = torch.full((len(gram),), 1 / len(gram), dtype=torch.float64)
    for _ in range(STEPS):
        shares = shares * torch.exp(-rate * 2 * (gram @ shares))
        shares = shares / shares.sum()
    shares = torch.where(shares < min(SMALLEST, float(shares.max())), 0.0, shares)
    return (shares / shares.sum()).float()


def same_classes(wanted: Tensor, labels: Tensor, generator: Generator) -> Tensor:
    """For each wanted label (B,) an index into labels (M,) with that label; any index where there is none."""
    order = torch.randperm(len(labels), generator=generator)
    chosen = torch.empty(len(wanted), dtype=torch.int64)
    for label in sorted(set(wanted.tolist())):
        places = (wanted == label).nonzero()[:, 0]
        pool = order[labels[order] == label]
        pool = pool if len(pool) else order
        chosen[places] = pool[torch.arange(len(places)) % len(pool)]
    return chosen


def _answers(champion: nn.Module, images: Tensor, layers: list[nn.Module]) -> tuple[list[Tensor], Tensor]:
    features, logits = see(champion, images, layers)
    return [f.cpu() for f in features], logits.cpu()
