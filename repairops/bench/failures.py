"""Failures of a champion under a corruption: the failure batch that guides, the residual failures that judge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from repairops.bench.corruptions import SEVERITIES
from repairops.bench.data import BenchData, corrupted_images, take_rows
from repairops.config import derive_seed
from repairops.evaluation import logits, predictions
from repairops.images import from_arrays
from repairops.network import Classifier
from repairops.records import FailureBatch, ImageSet, Predictions

READ = 2000  # images of a mapped file at once


@dataclass(frozen=True, eq=False)
class Subset:
    """Rows of the corrupted clean set: of the image sets, what the champion answers is known."""

    images: ImageSet
    champion_right: np.ndarray  # bool (R,)
    shared: np.ndarray  # bool (R,): the photo is in the failure batch too, at another severity
    severities: np.ndarray  # int64 (R,)


@dataclass(frozen=True, eq=False)
class Failures:
    """batch: guides the repair (D^c). residual: all other failures, or a sample of them (D^e). corrupted: a sample of
    the corrupted clean set (D^vk) without the batch, right and wrong answers alike.

    total: failures of all photos at all five severities. accuracy: the champion's by severity.
    """

    batch: FailureBatch
    residual: Subset
    corrupted: Subset
    total: int
    accuracy: tuple[float, ...]


def unseen_photos(data: BenchData, count: int, seed: int) -> np.ndarray:
    """Indices int64 of clean photos that are set aside to choose between weights; at most a fifth of the clean set."""
    photos = len(data.clean.images)
    order = np.random.default_rng(derive_seed(seed, "unseen")).permutation(photos)
    return np.sort(order[: min(count, photos // 5)])


def collect_failures(
    data: BenchData,
    champion_answers: Predictions,
    corruption: str,
    folder: Path,
    *,
    batch: int,
    residuals: int,
    corrupted: int,
    unseen: np.ndarray,
    seed: int,
) -> Failures:
    """The paper's protocol for one cell.

    champion_answers: on `corrupted_images`. A batch takes at most half of the failures. Photos are groups, so that
    the split for choosing the epoch never has one photo on both sides. residuals, corrupted: at most, 0 = all.
    unseen: photos that stay out of all of these.
    """
    photos = len(data.clean.images)
    random = np.random.default_rng(derive_seed(seed, "failures", corruption))
    usable = ~np.isin(np.arange(len(champion_answers.right)) % photos, unseen)
    failed = random.permutation(np.flatnonzero(~champion_answers.right & usable))
    size = min(batch, len(failed) // 2)
    chosen, rest = failed[:size], failed[size:][: residuals or None]
    others = np.setdiff1d(np.flatnonzero(usable), chosen)
    sample = random.permutation(others)[: corrupted or None]
    images = corrupted_images(data, corruption, folder)

    def subset(rows: np.ndarray) -> Subset:
        shared = np.isin(rows % photos, chosen % photos)
        return Subset(_image_set(data, images, rows), champion_answers.right[rows], shared, rows // photos + 1)

    groups = np.array([f"photo {row % photos}" for row in chosen])
    failures = FailureBatch(
        _image_set(data, images, chosen),
        champion_answers.labels[chosen],
        champion_answers.confidence[chosen],
        groups,
        np.full(size, corruption),
    )
    accuracy = champion_answers.right.reshape(len(SEVERITIES), photos).mean(1)
    total = int((~champion_answers.right).sum())
    return Failures(failures, subset(rest), subset(sample), total, tuple(round(float(a), 4) for a in accuracy))


def champion_answers(
    data: BenchData,
    champion: Classifier,
    champion_digest: str,
    name: str,
    images: Path,
    answers: Path,
    device: torch.device,
) -> Predictions:
    """The champion's answers on the clean set (name 'clean') or on it under the corruption `name`; kept on disk."""
    path = answers / f"{champion_digest}-{data.digest}-{name}.npy"
    answers.mkdir(parents=True, exist_ok=True)
    labels = data.clean.images.labels
    wanted = labels if name == "clean" else np.tile(labels, len(SEVERITIES))
    with FileLock(f"{path}.lock"):
        if not path.exists():
            found = _answers(champion, data, name, images, device)
            partial = path.with_suffix(".part.npy")
            np.save(partial, found)
            partial.replace(path)
    return predictions(np.load(path), wanted)


def _answers(champion: Classifier, data: BenchData, name: str, folder: Path, device: torch.device) -> np.ndarray:
    """Logits float32 (M, K)."""
    if name == "clean":
        return logits(champion, data.clean.images.pixels, batch_size=500, device=device)
    mapped = corrupted_images(data, name, folder)
    parts = [
        logits(
            champion, take_rows(mapped, np.arange(start, min(start + READ, len(mapped)))), batch_size=500, device=device
        )
        for start in range(0, len(mapped), READ)
    ]
    return np.concatenate(parts)


def _image_set(data: BenchData, images: np.ndarray, rows: np.ndarray) -> ImageSet:
    labels = data.clean.images.labels[rows % len(data.clean.images)]
    return from_arrays(take_rows(images, rows), labels, data.train.class_names, source="corrupted clean set")
