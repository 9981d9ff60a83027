"""Field images through the networks of a version, a part at a time: answers, activations, and all scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from repairops.data.decoding import sample_ids
from repairops.data.folder import Part
from repairops.data.records import ImageSet
from repairops.model.evaluation import guard_answers, logits
from repairops.model.guarded import Guarded
from repairops.model.network import Classifier
from repairops.model.routing import networks_of
from repairops.triage.activations import Tap, find_taps, see
from repairops.triage.scores import GUARD, Reference, answer_scores, surprise_scores


@dataclass(frozen=True, eq=False)
class Network:
    """One that answers for images, where it is looked at, and what it does on train images, where there are some."""

    classifier: Classifier
    taps: tuple[Tap, ...]
    reference: Reference | None


@dataclass(frozen=True, eq=False)
class Observed:
    """Of N images: names, ids of their pixels (N,), logits float32 (N, K), activations float32 (N, D), and by name each
    score float64 (N,) that there is.
    """

    names: list[str]
    ids: np.ndarray
    logits: np.ndarray
    activations: np.ndarray
    scores: dict[str, np.ndarray]


def networks(
    served: Classifier, train: ImageSet | None, layers: Sequence[str], device: torch.device | str = "cpu"
) -> list[Network]:
    """The network, or the two of a guarded version. train: images that surprise is measured against.

    Raises InvalidOption for a layer that there is not.
    """
    found = []
    for classifier in networks_of(served)[: 1 + isinstance(served.network, Guarded)]:
        taps, reference = find_taps(classifier, layers), None
        if train is not None:
            seen = see(classifier, taps, train.pixels, device)
            reference = Reference(seen.activations, seen.logits.argmax(axis=1), train.labels)
        found.append(Network(classifier, taps, reference))
    return found


def observe(
    served: Classifier, answering: Sequence[Network], parts: Iterable[Part], device: torch.device | str = "cpu"
) -> Observed | None:
    """All scores of all images; None where there are no images.

    answering: of `networks`. In a guarded version an image's activations are those of the network that answers it, the
    guard's probability is a score too.
    """
    names, columns = [], []
    for part in parts:
        names += part.names
        columns.append((sample_ids(part.pixels), *_seen(served, answering, part, device)))
    if not names:
        return None
    ids, outputs, inside, who, look = (np.concatenate(column) for column in zip(*columns, strict=True))
    scores, answers = answer_scores(outputs), outputs.argmax(axis=1)
    for number, network in enumerate(answering):
        rows = np.flatnonzero(who == number)
        if network.reference is not None and len(rows):
            for name, values in surprise_scores(inside[rows], answers[rows], network.reference).items():
                scores.setdefault(name, np.empty(len(names)))[rows] = values
    if len(answering) > 1:
        scores[GUARD] = look.astype(np.float64)
    return Observed(names, ids, outputs, inside, scores)


def _seen(
    served: Classifier, answering: Sequence[Network], part: Part, device: torch.device | str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of a part's images: logits, activations, which network answers, int64 (N,), and the guard's probability."""
    if len(answering) == 1:
        seen = see(answering[0].classifier, answering[0].taps, part.pixels, device)
        return seen.logits, seen.activations, np.zeros(len(part.names), np.int64), np.zeros(len(part.names))
    look, weight = guard_answers(served, part.pixels, device=device)
    who = (weight > 0.5).astype(np.int64)
    inside: dict[int, np.ndarray] = {}
    for number in np.unique(who):
        network, rows = answering[number], np.flatnonzero(who == number)
        seen = see(network.classifier, network.taps, part.pixels[torch.from_numpy(rows)], device)
        inside |= dict(zip(rows.tolist(), seen.activations, strict=True))
    return logits(served, part.pixels, device=device), np.stack([inside[row] for row in sorted(inside)]), who, look
