"""Pictures for the review: what guided the repair in each cluster, and the decisions that it broke."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from repairops.config import derive_seed
from repairops.core.clustering import nearest_clusters
from repairops.core.parts import TrainingParts
from repairops.core.repair import Repaired
from repairops.core.styles import Style
from repairops.data.contact_sheet import image_grid
from repairops.data.records import CleanSet, FailureSplit, GuardAnswers, HeldOutFailures, ImageSet, Predictions
from repairops.gate.evidence import RepairCounts
from repairops.model.evaluation import Evaluation, repaired_by
from repairops.model.network import from_unit, to_unit
from repairops.outcome.given import SuspectLabels
from repairops.outcome.sections import Confusion, WrongAnswer
from repairops.report.pictures import (
    MAX_FAILURES,
    MAX_FLIPS,
    MAX_ROUTED,
    MAX_SUSPECTS,
    GuardedImage,
    JudgedFailure,
    NegativeFlip,
    SamplePair,
    SuspectImage,
)

MAX_CONFUSIONS = 12  # wrong answers listed for each set


def style_samples(parts: TrainingParts, style: Style, *, per_cluster: int, seed: int) -> list[SamplePair]:
    """Train images, of the references' classes, in the style of each cluster's most central failures.

    A reference is among the nearest to the cluster's centre, the failure beside it is another member (the same one in
    a cluster of one): where the styled image looks like the failure too, the style fits the cluster, not one image.
    """
    failures, clusters, train = parts.failures, parts.clusters, parts.train_set
    order = np.random.default_rng(derive_seed(seed, "gallery")).permutation(len(train))
    generator = torch.Generator().manual_seed(derive_seed(seed, "gallery", "style"))
    chosen = [
        (c, failure, int(reference))
        for c in range(clusters.count)
        for members in [clusters.members(c)]
        for reference, failure in zip(members, _spread(members, per_cluster), strict=False)
    ]
    labels, names = failures.images.labels, failures.images.class_names
    content = np.array([_same_class(train, order, labels[r], n) for n, (_, _, r) in enumerate(chosen)])
    pixels = train.pixels[torch.from_numpy(content)]
    with torch.no_grad():
        styled = style.apply(to_unit(pixels), torch.tensor([r for _, _, r in chosen]), generator)
    shown = from_unit(styled).numpy()
    return [
        SamplePair(
            cluster=cluster,
            failure=failures.images.pixels[failure].numpy(),
            reference=failures.images.pixels[reference].numpy(),
            content=pixels[number].numpy(),
            styled=shown[number],
            label=names[labels[failure]],
            predicted=names[failures.predicted[failure]],
        )
        for number, (cluster, failure, reference) in enumerate(chosen)
    ]


def _spread(members: np.ndarray, number: int) -> list[int]:
    """Up to `number` of a cluster's members (nearest first), from the middle of their order to the farthest."""
    number = min(number, len(members))
    ranks = np.linspace(len(members) // 2, len(members) - 1, number).round().astype(int)
    return [int(members[rank]) for rank in ranks]


def suspect_images(split: FailureSplit, found: SuspectLabels, limit: int = MAX_SUSPECTS) -> list[SuspectImage]:
    """The failures whose label looks wrong, the surest first."""
    parts = (split.repair, split.validation, split.heldout.batch)
    rows = {str(name): (part, row) for part in parts for row, name in enumerate(part.images.sample_ids.tolist())}
    shown = []
    for suspect in found.listed[:limit]:
        part, row = rows[suspect.sample_id]
        champion = part.images.class_names[part.predicted[row]]
        shown.append(SuspectImage(part.images.pixels[row].numpy(), suspect, champion))
    return shown


def style_grid(samples: list[SamplePair]) -> np.ndarray:
    """A picture, uint8 (H, W, 3): a row for each cluster, of triples reference, train image, the image in its style."""
    rows: dict[int, list[np.ndarray]] = {}
    for sample in samples:
        rows.setdefault(sample.cluster, []).extend([sample.reference, sample.content, sample.styled])
    return image_grid([torch.from_numpy(np.stack(row)) for row in rows.values()])


def flipped_images(evaluation: Evaluation, clean: CleanSet, limit: int = MAX_FLIPS) -> list[NegativeFlip]:
    """Clean images that the champion had right and the challenger has wrong, most confident mistakes first."""
    champion, challenger, images = evaluation.champion_clean, evaluation.challenger_clean, clean.images
    flips = np.flatnonzero(champion.right & ~challenger.right)
    flips = flips[np.argsort(-challenger.confidence[flips], kind="stable")][:limit]
    names = images.class_names
    labels = (images.labels, champion.labels, challenger.labels)
    return [NegativeFlip(images.pixels[int(i)].numpy(), *(names[each[i]] for each in labels)) for i in flips]


def guarded_images(
    evaluation: Evaluation, clean: CleanSet, heldout: HeldOutFailures, limit: int = MAX_ROUTED
) -> tuple[list[GuardedImage], list[GuardedImage]]:
    """Clean images that the guard sends to the repaired network, and held-out failures that it leaves to the champion.

    Those where it is most sure come first. Both are empty for a network without a guard.
    """
    if evaluation.guard is None:
        return [], []
    on_clean, on_failures = evaluation.guard

    def shown(images: ImageSet, answers: Predictions, chosen: np.ndarray, guard: GuardAnswers) -> list[GuardedImage]:
        names, chances = images.class_names, guard.probability
        return [
            GuardedImage(images.pixels[i].numpy(), names[images.labels[i]], names[answers.labels[i]], float(chances[i]))
            for i in chosen[:limit].tolist()
        ]

    highest_first = np.argsort(-on_clean.probability, kind="stable")
    lowest_first = np.argsort(on_failures.probability, kind="stable")
    away = highest_first[on_clean.routed[highest_first]]
    missed = lowest_first[~on_failures.routed[lowest_first]]
    return (
        shown(clean.images, evaluation.challenger_clean, away, on_clean),
        shown(heldout.batch.images, evaluation.challenger_heldout, missed, on_failures),
    )


def nearest_to(repaired: Repaired) -> np.ndarray:
    """The cluster that each held-out failure is nearest to, int64 (N,)."""
    pixels = repaired.split.heldout.batch.images.pixels
    return nearest_clusters(repaired.split.repair, repaired.clusters, pixels) if len(pixels) else np.empty(0, np.int64)


def judged_failures(
    evaluation: Evaluation, heldout: HeldOutFailures, nearest: np.ndarray, limit: int = MAX_FAILURES
) -> tuple[list[JudgedFailure], list[JudgedFailure]]:
    """Held-out failures that are right now, and those still wrong, by cluster and class, from all clusters alike.

    nearest: int64 (N,), their clusters. Within a cluster those where the challenger is most sure come first.
    """
    images, before, after = heldout.batch.images, evaluation.champion_heldout, evaluation.challenger_heldout
    names = images.class_names

    def shown(rows: np.ndarray) -> list[JudgedFailure]:
        rows = rows[np.argsort(-after.confidence[rows], kind="stable")]
        order = np.zeros(len(rows), np.int64)  # of each one in its cluster
        for cluster in np.unique(nearest[rows]):
            order[nearest[rows] == cluster] = np.arange(np.count_nonzero(nearest[rows] == cluster))
        chosen = rows[np.argsort(order, kind="stable")[:limit]]
        return [
            JudgedFailure(
                images.pixels[i].numpy(),
                names[images.labels[i]],
                int(nearest[i]),
                names[before.labels[i]],
                float(before.confidence[i]),
                names[after.labels[i]],
                float(after.confidence[i]),
            )
            for i in chosen[np.lexsort((images.labels[chosen], nearest[chosen]))].tolist()
        ]

    return shown(np.flatnonzero(after.right & ~before.right)), shown(np.flatnonzero(~after.right))


def changed_answers(evaluation: Evaluation, clean: CleanSet, heldout: HeldOutFailures) -> Confusion:
    """For each set the wrong answers whose number changed most."""
    return Confusion(
        heldout=_changed(heldout.batch.images, evaluation.champion_heldout, evaluation.challenger_heldout),
        clean=_changed(clean.images, evaluation.champion_clean, evaluation.challenger_clean),
    )


def repaired_by_class(evaluation: Evaluation, heldout: HeldOutFailures) -> dict[str, RepairCounts]:
    """Held-out failures that are right now, and all, by true class; classes without any are left out."""
    images = heldout.batch.images
    found = repaired_by(evaluation.challenger_heldout.right, images.labels, images.class_names)
    return {name: counts for name, counts in found.items() if counts.total}


def _changed(images: ImageSet, champion: Predictions, challenger: Predictions) -> tuple[WrongAnswer, ...]:
    """The wrong answers whose number differs, largest difference first; ties in the order of the classes."""
    before, after = (
        Counter(zip(images.labels[~p.right].tolist(), p.labels[~p.right].tolist(), strict=True))
        for p in (champion, challenger)
    )
    changed = [pair for pair in sorted(before | after) if before[pair] != after[pair]]
    changed.sort(key=lambda pair: -abs(after[pair] - before[pair]))
    names = images.class_names
    return tuple(WrongAnswer(names[t], names[a], before[t, a], after[t, a]) for t, a in changed[:MAX_CONFUSIONS])


def _same_class(train: ImageSet, order: np.ndarray, label: int, number: int) -> int:
    """A train image of the class, another one for each number; any image where the class has none."""
    fitting = order[train.labels[order] == label]
    pool = fitting if len(fitting) else order
    return int(pool[number % len(pool)])
