"""The clean set's photos: what each is for, what a champion answers to them, and its failures under a corruption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from repairops.bench.corruptions import SEVERITIES
from repairops.bench.data import BenchData, kept, take_rows
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


@dataclass(frozen=True, eq=False)
class Corrupted:
    """All photos under a corruption: images as `corrupted_images` gives them, and the champion's answers, in its order.

    photo: int64 (5 * N,), the photo of each row.
    """

    name: str
    data: BenchData
    images: np.ndarray
    answers: Predictions

    @property
    def photo(self) -> np.ndarray:
        return np.arange(len(self.images)) % len(self.data.clean.images)

    def taken(self, rows: np.ndarray) -> ImageSet:
        labels = self.data.clean.images.labels[self.photo[rows]]
        pixels = take_rows(self.images, rows)
        return from_arrays(pixels, labels, self.data.train.class_names, source="corrupted clean set")

    def subset(self, rows: np.ndarray, roles: PhotoRoles) -> Subset:
        shared = ~np.isin(self.photo[rows], roles.judging)
        severities = rows // len(self.data.clean.images) + 1
        return Subset(self.taken(rows), self.answers.right[rows], shared, severities)


def collect_failures(
    shown: Corrupted, roles: PhotoRoles, *, batch: int, residuals: int, corrupted: int, seed: int
) -> Failures:
    """The paper's protocol for one cell.

    A batch takes at most half of the guiding photos' failures. Photos are groups, so that the split for choosing the
    epoch never has one photo on both sides. residuals, corrupted: at most, 0 = all.
    """
    answers, photo = shown.answers, shown.photo
    random = np.random.default_rng(derive_seed(seed, "failures", shown.name))
    failed = random.permutation(np.flatnonzero(~answers.right))
    guiding = failed[np.isin(photo[failed], roles.guiding)]
    chosen = guiding[: min(batch, len(guiding) // 2)]
    rest = failed[~np.isin(failed, chosen) & ~np.isin(photo[failed], roles.unseen)][: residuals or None]
    sample = random.permutation(np.flatnonzero(np.isin(photo, roles.judging)))[: corrupted or None]
    failures = FailureBatch(
        shown.taken(chosen),
        answers.labels[chosen],
        answers.confidence[chosen],
        np.array([f"photo {row}" for row in photo[chosen]]),
        np.full(len(chosen), shown.name),
    )
    accuracy = tuple(round(float(a), 4) for a in answers.right.reshape(len(SEVERITIES), -1).mean(1))
    return Failures(failures, shown.subset(rest, roles), shown.subset(sample, roles), len(failed), accuracy)


def champion_answers(
    path: Path, champion: Classifier, images: np.ndarray, labels: np.ndarray, device: torch.device
) -> Predictions:
    """The champion's answers to images uint8 (M, H, W, C), perhaps memory-mapped; its logits are kept in a file.

    labels: int64 (N,), of the photos; the images show all of them once or more often.
    """

    def write(part: Path) -> None:
        blocks = [np.arange(start, min(start + READ, len(images))) for start in range(0, len(images), READ)]
        found = [logits(champion, take_rows(images, rows), batch_size=500, device=device) for rows in blocks]
        with part.open("wb") as file:
            np.save(file, np.concatenate(found))

    return predictions(np.load(kept(path, write)), np.tile(labels, len(images) // len(labels)))
