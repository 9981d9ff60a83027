"""Pictures for the review: what guided the repair in each cluster, and the decisions that it broke."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from repairops.config import StyleConfig, derive_seed
from repairops.evaluation import Evaluation
from repairops.grid import image_grid
from repairops.network import to_unit
from repairops.records import CleanSet, Clusters, FailureBatch, ImageSet
from repairops.report import NegativeFlip, SamplePair
from repairops.style import fit_style

CLEAN_SAMPLE = 2000  # train images that a style is fitted against


@dataclass(frozen=True, eq=False)
class StyledSample:
    """One cluster's nearest failure, a train image of the same class, and that image in the failure's style."""

    cluster: int
    failure: int  # index into the repair failures
    content: np.ndarray  # uint8 (C, H, W)
    styled: np.ndarray


def style_samples(
    failures: FailureBatch, clusters: Clusters, train: ImageSet, config: StyleConfig, *, per_cluster: int, seed: int
) -> list[StyledSample]:
    """Train images in the style of each cluster's most central failures.

    Raises what `style.fit_style` raises, so a style that cannot be fitted is known before training starts.
    """
    order = np.random.default_rng(derive_seed(seed, "gallery")).permutation(len(train))
    generator = torch.Generator().manual_seed(derive_seed(seed, "gallery", "style"))
    clean = to_unit(train.pixels[torch.from_numpy(order[:CLEAN_SAMPLE])])
    style = fit_style(config.name, to_unit(failures.images.pixels), clean, config, generator)
    chosen = [(c, int(i)) for c in range(clusters.count) for i in clusters.members(c)[:per_cluster]]
    content = np.array([_same_class(train, order, failures.images.labels[i], n) for n, (_, i) in enumerate(chosen)])
    pixels = train.pixels[torch.from_numpy(content)]
    with torch.no_grad():
        styled = style.apply(to_unit(pixels), torch.tensor([i for _, i in chosen]), generator)
    shown = styled.mul(255).round().to(torch.uint8).numpy()
    return [StyledSample(c, i, pixels[n].numpy(), shown[n]) for n, (c, i) in enumerate(chosen)]


def sample_pairs(samples: list[StyledSample], failures: FailureBatch) -> list[SamplePair]:
    """The samples as the report takes them."""
    names = failures.images.class_names
    return [
        SamplePair(
            cluster=sample.cluster,
            failure=failures.images.pixels[sample.failure].numpy(),
            reference=None,
            content=sample.content,
            styled=sample.styled,
            label=names[failures.images.labels[sample.failure]],
            predicted=names[failures.predicted[sample.failure]],
        )
        for sample in samples
    ]


def style_grid(samples: list[StyledSample], failures: FailureBatch) -> np.ndarray:
    """A picture, uint8 (H, W, 3): a row for each cluster, of triples failure, train image, the image in its style."""
    rows: dict[int, list[np.ndarray]] = {}
    for sample in samples:
        failure = failures.images.pixels[sample.failure].numpy()
        rows.setdefault(sample.cluster, []).extend([failure, sample.content, sample.styled])
    return image_grid([torch.from_numpy(np.stack(row)) for row in rows.values()])


def negative_flips(evaluation: Evaluation, clean: CleanSet, limit: int) -> list[NegativeFlip]:
    """Clean images that the champion had right and the challenger has wrong, most confident mistakes first."""
    champion, challenger, images = evaluation.champion_clean, evaluation.challenger_clean, clean.images
    flips = np.flatnonzero(champion.right & ~challenger.right)
    flips = flips[np.argsort(-challenger.confidence[flips], kind="stable")][:limit]
    names = images.class_names
    return [
        NegativeFlip(
            images.pixels[int(i)].numpy(),
            names[images.labels[i]],
            names[champion.labels[i]],
            names[challenger.labels[i]],
        )
        for i in flips
    ]


def _same_class(train: ImageSet, order: np.ndarray, label: int, number: int) -> int:
    """A train image of the class, another one for each number; any image where the class has none."""
    fitting = order[train.labels[order] == label]
    pool = fitting if len(fitting) else order
    return int(pool[number % len(pool)])
