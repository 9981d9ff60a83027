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
from repairops.data.records import FailureBatch, ImageSet, Predictions
from repairops.data.sets import from_arrays
from repairops.model.evaluation import logits, predictions
from repairops.model.network import Classifier

READ = 2000  # images of a mapped file at once


@dataclass(frozen=True, eq=False)
class Subset:
    """Rows of the corrupted clean set: of the image sets, what the champion answers is known."""

    images: ImageSet
    champion_right: np.ndarray  # bool (R,)
    shared: np.ndarray  # bool (R,): the photo is a guiding one, in the batch at another severity or not
    severities: np.ndarray  # int64 (R,)


@dataclass(frozen=True, eq=False)
class Failures:
    """batch: guides the repair (D^c). residual: all other failures, or a sample of them (D^e). corrupted: a sample of
    the judging photos under the corruption, right and wrong answers alike (D^vk).

    total: failures of all photos at all five severities. accuracy: the champion's by severity.
    """

    batch: FailureBatch
    residual: Subset
    corrupted: Subset
    total: int
    accuracy: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class PhotoRoles:
    """What each photo of the clean set is for, int64 rows, disjoint: none does two things.

    unseen: clean, these choose between weights. guiding: the failure batch is drawn from their failures. judging: clean
    and under the corruption.
    """

    unseen: np.ndarray
    guiding: np.ndarray
    judging: np.ndarray


GUIDING = 0.375  # of the photos that are not unseen


def photo_roles(photos: int, unseen: int, seed: int) -> PhotoRoles:
    """Drawn at random before anything is known of a photo. unseen: so many photos, at most a fifth.

    Were photos of the batch taken out afterwards, those that the champion gets right would stay, and every repair
    would seem to lose on them; were they left in, a network that learned them under the corruption would answer them
    better without it too, which says nothing of new photos.
    """
    order = np.random.default_rng(derive_seed(seed, "photos")).permutation(photos)
    first = min(unseen, photos // 5)
    second = first + round(GUIDING * (photos - first))
    return PhotoRoles(*(np.sort(part) for part in np.split(order, [first, second])))


def collect_failures(
    data: BenchData,
    champion_answers: Predictions,
    corruption: str,
    folder: Path,
    *,
    batch: int,
    residuals: int,
    corrupted: int,
    roles: PhotoRoles,
    seed: int,
) -> Failures:
    """The paper's protocol for one cell.

    champion_answers: on `corrupted_images`. A batch takes at most half of the guiding photos' failures. Photos are
    groups, so that the split for choosing the epoch never has one photo on both sides. residuals, corrupted: at most,
    0 = all.
    """
    photos = len(data.clean.images)
    random = np.random.default_rng(derive_seed(seed, "failures", corruption))
    photo = np.arange(len(champion_answers.right)) % photos
    failed = random.permutation(np.flatnonzero(~champion_answers.right))
    guiding = failed[np.isin(photo[failed], roles.guiding)]
    chosen = guiding[: min(batch, len(guiding) // 2)]
    rest = failed[~np.isin(failed, chosen) & ~np.isin(photo[failed], roles.unseen)][: residuals or None]
    sample = random.permutation(np.flatnonzero(np.isin(photo, roles.judging)))[: corrupted or None]
    images = corrupted_images(data, corruption, folder)

    def subset(rows: np.ndarray) -> Subset:
        shared = ~np.isin(photo[rows], roles.judging)
        return Subset(_image_set(data, images, rows), champion_answers.right[rows], shared, rows // photos + 1)

    failures = FailureBatch(
        _image_set(data, images, chosen),
        champion_answers.labels[chosen],
        champion_answers.confidence[chosen],
        np.array([f"photo {row}" for row in photo[chosen]]),
        np.full(len(chosen), corruption),
    )
    accuracy = champion_answers.right.reshape(len(SEVERITIES), photos).mean(1)
    return Failures(failures, subset(rest), subset(sample), len(failed), tuple(round(float(a), 4) for a in accuracy))


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
