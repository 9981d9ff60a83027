"""What a version's guard says of images in the field that nobody has labelled."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from repairops.config import Config
from repairops.data.decoding import decode_image
from repairops.data.records import InputSpec
from repairops.data.sources import EXTENSIONS, image_files
from repairops.errors import NoImagesInFolder, NotGuarded, UnreadableImage
from repairops.files import read_file
from repairops.model.evaluation import guard_answers
from repairops.model.guarded import Guarded
from repairops.model.network import Classifier
from repairops.store.champion import fetch_champion
from repairops.store.connection import connect
from repairops.store.models import resolve_model

CHUNK = 256  # images that are decoded before the guard sees them

Who = Literal["champion", "repaired", "both"]


@dataclass(frozen=True)
class ImageScore:
    """file: below the folder, with '/'. probability: the guard's, that it has the failures' look, in 0..1."""

    file: str
    probability: float
    answers: Who

    @property
    def source(self) -> str:
        """The first folder of its path, '' where it lies in none."""
        return self.file.partition("/")[0] if "/" in self.file else ""


@dataclass(frozen=True)
class SourceScore:
    """routed: images that the repaired network answers, alone or with the champion; share: of the images, 0..1."""

    source: str
    images: int
    routed: int
    share: float
    mean_probability: float


@dataclass(frozen=True)
class Scores:
    """images in the order of their paths; unreadable: file -> why."""

    model: str
    images: tuple[ImageScore, ...]
    unreadable: Mapping[str, str]

    def sources(self) -> list[SourceScore]:
        """By source, the largest share of routed images first."""
        ordered = sorted(self.images, key=lambda image: image.source)
        found = []
        for source, group in groupby(ordered, key=lambda image: image.source):
            part = list(group)
            routed = sum(image.answers != "champion" for image in part)
            mean = sum(image.probability for image in part) / len(part)
            found.append(SourceScore(source, len(part), routed, routed / len(part), mean))
        return sorted(found, key=lambda part: (-part.share, part.source))

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "sources": [asdict(part) for part in self.sources()],
            "images": [asdict(image) for image in self.images],
            "unreadable": [{"file": file, "reason": why} for file, why in self.unreadable.items()],
        }


def score_folder(model: str, folder: Path, config: Config, tracking_uri: str | None = None) -> Scores:
    """The guard of `model` on every image file below `folder`, decoded as failures are; the networks do not run.

    A file that cannot be read or decoded is noted and left out. Hidden files and those without an image's suffix are
    no images. Raises NotGuarded, NoImagesInFolder, ModelNotFound and what `fetch_champion` raises.
    """
    files = image_files(folder)
    if not files:
        raise NoImagesInFolder(folder, ", ".join(sorted(EXTENSIONS)))
    client = connect(tracking_uri)
    ref = resolve_model(model, client)
    with tempfile.TemporaryDirectory() as scratch:
        classifier = fetch_champion(ref, config.model, Path(scratch) / "model").classifier
    if not isinstance(classifier.network, Guarded):
        raise NotGuarded(ref)
    unreadable: dict[str, str] = {}
    scored = [
        image
        for start in range(0, len(files), CHUNK)
        for image in _scored(classifier, folder, files[start : start + CHUNK], config, unreadable)
    ]
    return Scores(str(ref), tuple(scored), unreadable)


def _scored(
    classifier: Classifier, folder: Path, files: list[Path], config: Config, unreadable: dict[str, str]
) -> Iterator[ImageScore]:
    names, pixels = [], []
    for file in files:
        name = _name(file, folder)
        try:
            pixels.append(_decoded(file, classifier.spec, config))
            names.append(name)
        except UnreadableImage as error:
            unreadable[name] = error.detail
    if not pixels:
        return
    probability, weight = guard_answers(classifier, torch.from_numpy(np.stack(pixels)))
    for name, chance, part in zip(names, probability.tolist(), weight.tolist(), strict=True):
        yield ImageScore(name, chance, "champion" if part == 0 else "repaired" if part == 1 else "both")


def _decoded(file: Path, spec: InputSpec, config: Config) -> np.ndarray:
    """uint8 (C, H, W). Raises UnreadableImage."""
    limits = config.images
    try:
        data = read_file(file, limits.max_image_bytes)
    except OSError as error:
        raise UnreadableImage("does_not_decode", f"it cannot be read ({error.strerror})") from error
    return decode_image(data, spec, max_pixels=limits.max_image_pixels, max_bytes=limits.max_image_bytes)


def _name(file: Path, folder: Path) -> str:
    """The path below the folder as text that can be printed, also where its bytes are no UTF-8."""
    return file.relative_to(folder).as_posix().encode("utf-8", "backslashreplace").decode()
