"""What a version's guard says of images in the field that nobody has labelled."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from repairops.config import Config
from repairops.data.folder import Part, field_files, read_parts, source_of
from repairops.errors import NotGuarded
from repairops.model.evaluation import guard_answers
from repairops.model.guarded import Guarded
from repairops.model.network import Classifier
from repairops.store.champion import fetch_champion
from repairops.store.connection import connect
from repairops.store.models import resolve_model

Who = Literal["champion", "repaired", "both"]


@dataclass(frozen=True)
class ImageScore:
    """file: below the folder, with '/'. probability: the guard's, that it has the failures' look, in 0..1."""

    file: str
    probability: float
    answers: Who

    @property
    def source(self) -> str:
        return source_of(self.file)


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

    See `read_parts`. Raises NotGuarded, NoImagesInFolder, ModelNotFound and what `fetch_champion` raises.
    """
    files = field_files(folder)
    client = connect(tracking_uri)
    ref = resolve_model(model, client)
    with tempfile.TemporaryDirectory() as scratch:
        classifier = fetch_champion(ref, config.model, Path(scratch) / "model").classifier
    if not isinstance(classifier.network, Guarded):
        raise NotGuarded(ref)
    unreadable: dict[str, str] = {}
    scored = [
        image
        for part in read_parts(folder, files, classifier.spec, config.images, unreadable)
        for image in _scored(classifier, part)
    ]
    return Scores(str(ref), tuple(scored), unreadable)


def _scored(classifier: Classifier, part: Part) -> Iterator[ImageScore]:
    probability, weight = guard_answers(classifier, part.pixels)
    for name, chance, share in zip(part.names, probability.tolist(), weight.tolist(), strict=True):
        yield ImageScore(name, chance, "champion" if share == 0 else "repaired" if share == 1 else "both")
