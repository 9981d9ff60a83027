"""`auto`: for each cluster the mix of styles that repair most failures in short trials, and look like them.

A style is tried by training copies of the champion on a few of its images; the failures, never trained on, judge the
copies (`trial.py`). A style's share is the chance that it is the best of all, times how likely its look is: the
champion's features tell its images from the failures (`likeness.py`) by `distance` of their standard deviations.
Likeness predicts less of what a style is worth (docs/styles-measured.md), so it decides only where trials do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from repairops.core.styles.base import Style, Witness
from repairops.core.styles.fitted import Estimate, nothing
from repairops.core.styles.likeness import measure
from repairops.core.styles.trial import chance_of_best, run_trials
from repairops.model.device import set_mode

SMALLEST = 0.1  # shares of a mix below it are given to the others
FARTHEST = 3.0  # standard deviations; a larger distance counts as this, a weight of 1 to 90


@dataclass(frozen=True)
class Evidence:
    """One candidate in one cluster.

    repaired: share of the cluster's failures that are right after the candidate's trials. share: of the mix. The
    others: see `Likeness`.
    """

    style: str
    repaired: float
    share: float
    error_rate: float
    confidence: float
    distance: float


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
    champion, clusters = witness.champion, witness.clusters.cpu()
    set_mode(champion, training=False)
    failures, shown = (references, witness.labels), (clean, witness.clean_labels)
    weights = 1 / clusters.bincount()[clusters].double()  # each cluster alike, as training draws them
    right = run_trials(champion, list(styles.values()), shown, weights, failures, generator)
    best, repaired = chance_of_best(right, clusters, generator)
    shares, evidence = [], []
    for cluster, chances in enumerate(best):
        members = (clusters == cluster).nonzero()[:, 0]
        alike = measure(champion, styles.values(), failures, members, shown, generator) if len(members) else []
        shares.append(mix(chances, torch.tensor([like.distance for like in alike] or [0.0])))
        rows = zip(styles, repaired[cluster].tolist(), shares[-1].tolist(), alike, strict=False)  # nothing if empty
        evidence.append(tuple(Evidence(name, good, share, **vars(like)) for name, good, share, like in rows))
    found = next((s.found for s in styles.values() if hasattr(s, "found")), nothing(references))
    return Auto(styles, clusters, torch.stack(shares), tuple(evidence), found)


def mix(chances: Tensor, distances: Tensor) -> Tensor:
    """Shares (S,) that sum to 1, from the chance of each style to be the best and its distance from the failures."""
    shares = chances * torch.exp(-distances.clamp(max=FARTHEST).square() / 2)
    shares = shares / shares.sum()
    shares = torch.where(shares < min(SMALLEST, float(shares.max())), 0.0, shares)
    return shares / shares.sum()
