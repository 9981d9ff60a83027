"""Failures whose logged label looks wrong: by what networks answer that know their look, and none of their labels.

Short trainings of the champion on clean and restyled train images make networks that have seen no failure's label. The
chance that they give the logged label of a failure is compared with what they give the known labels of restyled clean
images that the champion gets wrong, as it does the failures: few right labels are given so little.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from repairops.config import derive_seed
from repairops.core.guard import restyled_twins
from repairops.core.methods.style_operations import StyleOperations, reference_weights
from repairops.core.parts import TrainingParts
from repairops.core.styles import Style
from repairops.core.styles.auto import briefly_trained
from repairops.data.records import Clusters, FailureBatch, FailureSplit, HeldOutFailures, ImageSet
from repairops.model.device import set_mode
from repairops.model.evaluation import logits
from repairops.model.network import Classifier, own_copy, to_unit
from repairops.outcome.given import Suspect, SuspectLabels

TRIALS = 3  # networks that ask, each trained on other images
RESTYLED = 4000  # clean images with known labels in the failures' look, at most
FALSE_ALARMS = 0.02  # share of the right labels that are listed by mistake, about
FEWEST = 100  # restyled images that the champion gets wrong; fewer set no limit
MOST = 0.3  # of the failures; where more look wrong, the networks do not know their look
CHUNK = 250  # images restyled at once
PARTS = ("repair", "validation", "heldout")


@dataclass(frozen=True, eq=False)
class Renumbered:
    """A style whose references are `rows`, int64 (R,), of another's."""

    style: Style
    rows: Tensor

    def apply(self, content: Tensor, reference: Tensor, generator: Generator) -> Tensor:
        """See `Style`."""
        return self.style.apply(content, self.rows.to(reference.device)[reference], generator)


def find_suspects(
    champion: Classifier,
    split: FailureSplit,
    parts: TrainingParts,
    style: Style,
    device: torch.device,
    mode: str,
    *,
    seed: int,
) -> SuspectLabels:
    """Failures of all parts whose label looks wrong, of rightly labelled ones about FALSE_ALARMS.

    The networks are trained on train images; the limit is set by the clean images that choose. No failure's label
    teaches or sets anything here. style: on `device`, with the repair failures as references. The same arguments give
    the same answer.
    """
    generator = Generator().manual_seed(derive_seed(seed, "suspects"))
    batches = [split.repair, split.validation, split.heldout.batch]
    asked = sum(map(len, batches))
    first = own_copy(champion).to(device)
    set_mode(first, training=False)
    styles = StyleOperations(style, reference_weights(parts.clusters), parts.clusters.count)
    networks = _networks(first, parts, styles, device, generator)
    known = _trust_in_known(first, networks, parts.choosing, styles, device, generator)
    found = SuspectLabels(mode, asked, FALSE_ALARMS * asked, len(known))
    if len(known) < FEWEST:
        note = f"The champion gets {len(known):,} restyled clean images wrong: too few to tell wrong labels by."
        return dataclasses.replace(found, note=note)
    if not np.isfinite(known).all():
        return dataclasses.replace(found, note="The short trainings that would tell wrong labels did not stay finite.")
    limit = np.quantile(known, FALSE_ALARMS)
    listed = list[tuple[float, Suspect]]()
    for part, batch in zip(PARTS, batches, strict=True):
        answers = chances(networks, batch.images.pixels, device)
        given = trust(answers, batch.images.labels)
        rows = np.flatnonzero(given < limit).tolist()
        listed += [(given[row], _suspect(part, batch, row, answers[row])) for row in rows]
    if len(listed) > MOST * asked:
        note = (
            f"{len(listed):,} of {asked:,} labels look wrong to networks that were taught the failures' look: more "
            "likely they do not know it, so none is listed."
        )
        return dataclasses.replace(found, note=note)
    return dataclasses.replace(found, listed=tuple(suspect for _, suspect in sorted(listed, key=lambda each: each[0])))


def _trust_in_known(
    champion: Classifier,
    networks: Sequence[Classifier],
    images: ImageSet,
    styles: StyleOperations,
    device: torch.device,
    generator: Generator,
) -> np.ndarray:
    """What the networks give the true labels of restyled images that the champion gets wrong: float (n,)."""
    rows = np.resize(np.arange(len(images)), RESTYLED if len(images) else 0)
    found = [np.empty(0, np.float32)]
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        labels = images.labels[chunk]
        restyled = restyled_twins(images.pixels[torch.from_numpy(chunk)].to(device), styles, generator)
        wrong = chances([champion], restyled, device).argmax(1).numpy() != labels
        found.append(trust(chances(networks, restyled[wrong], device), labels[wrong]))
    return np.concatenate(found)


def trust(answers: Tensor, labels: np.ndarray) -> np.ndarray:
    """What answers (N, K), chances, give the labels int64 (N,): float (N,) in 0..1."""
    found: np.ndarray = answers.gather(1, torch.from_numpy(labels)[:, None])[:, 0].numpy()
    return found


def chances(networks: Sequence[Classifier], images: Tensor, device: torch.device) -> Tensor:
    """The mean of the networks' softmax for uint8 images (N, C, H, W): float32 (N, K), on the CPU."""
    outputs = [torch.from_numpy(logits(network, images, device=device)) for network in networks]
    return torch.stack(outputs).softmax(2).mean(0)


def without_suspects(
    found: SuspectLabels, split: FailureSplit, parts: TrainingParts, style: Style
) -> tuple[FailureSplit, TrainingParts, Style, SuspectLabels]:
    """The same without the listed failures: none of them trains, chooses or judges; their look stays known.

    A cluster keeps its failures where all of them are listed.
    """
    listed = {suspect.sample_id for suspect in found.listed}
    batches = [split.repair, split.validation, split.heldout.batch]
    kept = [~np.isin(batch.images.sample_ids, list(listed)) for batch in batches]
    clusters = parts.clusters
    kept[0] |= ~np.isin(clusters.assignments, clusters.assignments[kept[0]])
    repair, validation, heldout = (batch.subset(np.flatnonzero(k)) for batch, k in zip(batches, kept, strict=True))
    rows = np.flatnonzero(kept[0])
    probabilities = clusters.probabilities[rows]
    sums = np.bincount(clusters.assignments[rows], probabilities, minlength=clusters.count)
    fewer = Clusters(
        clusters.assignments[rows], clusters.distances[rows],
        probabilities / sums[clusters.assignments[rows]], clusters.space,
    )  # fmt: skip
    taken = {part: int((~k).sum()) for part, k in zip(PARTS, kept, strict=True)}
    return (
        FailureSplit(repair, validation, HeldOutFailures(heldout)),
        dataclasses.replace(parts, failures=repair, validation=validation, clusters=fewer),
        Renumbered(style, torch.from_numpy(rows)),
        dataclasses.replace(found, quarantined=taken),
    )


def _networks(
    champion: Classifier,
    parts: TrainingParts,
    styles: StyleOperations,
    device: torch.device,
    generator: Generator,
) -> list[Classifier]:
    """Copies of the champion, each after a short training on train images, clean and in the failures' look."""
    train = parts.sample
    images, labels = to_unit(train.pixels.to(device)), torch.from_numpy(train.labels)
    seeds = torch.randint(2**31, (TRIALS,), generator=generator).tolist()
    return [
        briefly_trained(champion, styles.style, (images, labels), styles.weights, Generator().manual_seed(s))
        for s in seeds
    ]


def _suspect(part: str, batch: FailureBatch, row: int, answers: Tensor) -> Suspect:
    names, label = batch.images.class_names, int(batch.images.labels[row])
    others = answers.clone()
    others[label] = -1
    answer = int(others.argmax())
    return Suspect(
        str(batch.images.sample_ids[row]), part, names[label], names[answer],
        round(float(answers[label]), 4), round(float(answers[answer]), 4),
    )  # fmt: skip
