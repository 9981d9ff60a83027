"""Which unlabelled images of a folder a registered version should get labels for first."""

from __future__ import annotations

import csv
import logging
import math
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from scipy.special import softmax

from repairops.config import Config, derive_seed
from repairops.data.decoding import open_any
from repairops.data.folder import field_files, file_name, read_parts, source_of
from repairops.data.records import ImageSet, InputSpec
from repairops.data.sets import sample_images
from repairops.errors import DatasetNotFound, NeedsTrainSet, NotGuarded
from repairops.files import read_file
from repairops.model.device import resolve_device
from repairops.model.guarded import Guarded
from repairops.report.sheet import MAX_IMAGES, Sheet, SheetImage
from repairops.store.champion import fetch_champion
from repairops.store.connection import connect
from repairops.store.datasets import fetch_dataset, find_set
from repairops.store.models import ModelRef, resolve_model
from repairops.triage.choice import Choice, choose
from repairops.triage.observe import Observed, networks, observe
from repairops.triage.scores import ANSWER, DEFAULT, GUARD, SURPRISE

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("repairops")
HEAD = ("file", "label", "predicted", "confidence", "source", "rank", "cluster", "score")  # of the CSV


@dataclass(frozen=True)
class TriageOptions:
    """count: images to choose. layers: whose activations are taken, by default those before the last weights.

    clusters: over which the choice is spread; 1 for none. reference: images of the train set that surprise is measured
    against. train_set: a path, else the one that was logged with the model.
    """

    count: int = 200
    score: str = DEFAULT
    layers: tuple[str, ...] = ()
    clusters: int = 20
    reference: int = 2000
    train_set: str | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Chosen:
    """An image to be labelled. rank: its place, from 1. predicted: '' and confidence: NaN where it is not answered.
    scores: all that there are, by name.
    """

    rank: int
    file: str
    predicted: str
    confidence: float
    cluster: int
    scores: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        figures = {name: _finite(value) for name, value in self.scores.items()}
        return {**vars(self), "confidence": _finite(self.confidence), "scores": figures}


@dataclass(frozen=True)
class Triage:
    """sources: images that were scored, by source, the folder's first level. copies: those with the pixels of another.
    layers: in words. unreadable: file -> why. missing: names of scores that there are not.
    """

    model: str
    folder: str
    score: str
    layers: tuple[str, ...]
    sources: Mapping[str, int]
    copies: int
    chosen: tuple[Chosen, ...]
    unreadable: Mapping[str, str]
    missing: tuple[str, ...]

    def by_source(self) -> list[tuple[str, int, int]]:
        """(source, images, chosen ones), the source with the most chosen first."""
        chosen = Counter(source_of(each.file) for each in self.chosen)
        found = [(source, images, chosen[source]) for source, images in self.sources.items()]
        return sorted(found, key=lambda row: (-row[2], row[0]))

    def to_dict(self) -> dict[str, Any]:
        return {
            **{name: value for name, value in vars(self).items() if name != "missing"},
            "scores_missing": list(self.missing),
            "sources": [dict(zip(("source", "images", "chosen"), row, strict=True)) for row in self.by_source()],
            "chosen": [each.to_dict() for each in self.chosen],
            "unreadable": [{"file": file, "reason": why} for file, why in self.unreadable.items()],
        }


def triage_folder(
    model: str, folder: Path, options: TriageOptions, config: Config, tracking_uri: str | None = None
) -> Triage:
    """Scores every image file below `folder` for `model`, and chooses those that should be labelled.

    Files that cannot be read, or that a CSV cannot name for `failures log`, are noted and left out.
    Raises NoImagesInFolder, NeedsTrainSet, NotGuarded, InvalidOption, and what `fetch_champion` raises.
    """
    unreadable: dict[str, str] = {}
    files = [file for file in field_files(folder) if _can_be_logged(file, folder, unreadable)]
    client, device = connect(tracking_uri), resolve_device(options.device)
    ref = resolve_model(model, client)
    with tempfile.TemporaryDirectory() as scratch:
        served = fetch_champion(ref, config.model, Path(scratch) / "model").classifier
        if options.score == GUARD and not isinstance(served.network, Guarded):
            raise NotGuarded(ref)
        train = _train_images(client, ref, served.spec, options, config, Path(scratch))
    answering = networks(served, train, options.layers, device)
    found = observe(served, answering, read_parts(folder, files, served.spec, config.images, unreadable), device)
    chosen, copies = (_chosen(found, served.spec, options, config.seed), _copies(found)) if found else ((), 0)
    there = {*ANSWER, *(SURPRISE if train else ()), *([GUARD] if len(answering) > 1 else ())}
    return Triage(
        model=str(ref),
        folder=str(folder),
        score=options.score,
        layers=tuple(map(str, answering[0].taps)),
        sources=Counter(map(source_of, found.names)) if found else {},
        copies=copies,
        chosen=chosen,
        unreadable=unreadable,
        missing=tuple(name for name in (*SURPRISE, GUARD) if name not in there),
    )


def _can_be_logged(file: Path, folder: Path, unreadable: dict[str, str]) -> bool:
    """Whether `failures log` would take the file by its name; else it is noted why not."""
    name = file_name(file, folder)
    if name != file.relative_to(folder).as_posix():
        unreadable[name] = "its name is not UTF-8, so that no CSV can name it"
    elif not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder)):
        unreadable[name] = "it is a link to a file outside the folder, which is not logged"
    return name not in unreadable


def _train_images(
    client: MlflowClient, ref: ModelRef, spec: InputSpec, options: TriageOptions, config: Config, scratch: Path
) -> ImageSet | None:
    """The sample of the train set; None where there is none and the score needs none, which is said."""
    try:
        found = find_set(client, ref.run_id, "training", options.train_set)
        path = fetch_dataset(found, "training", scratch / "sets")
    except DatasetNotFound as error:
        if options.train_set:
            raise
        if options.score in SURPRISE:
            raise NeedsTrainSet(options.score, ref, ", ".join(ANSWER)) from error
        log.warning("Warning: the scores %s are left out. %s", ", ".join(SURPRISE), error)
        return None
    seed = derive_seed(config.seed, "triage", "reference")
    return sample_images(path, spec, config.images, options.reference, seed=seed, role="train set")


def _copies(found: Observed) -> int:
    return len(found.ids) - len(np.unique(found.ids))


def _chosen(found: Observed, spec: InputSpec, options: TriageOptions, seed: int) -> tuple[Chosen, ...]:
    choice: Choice = choose(
        found.scores[options.score],
        found.activations,
        found.ids,
        options.count,
        clusters=options.clusters,
        seed=derive_seed(seed, "triage", "clusters"),
    )
    images = []
    for rank, (row, cluster) in enumerate(zip(choice.rows.tolist(), choice.clusters.tolist(), strict=True), 1):
        answer, confidence = "", math.nan
        if np.isfinite(found.logits[row]).all():
            answer = spec.class_names[found.logits[row].argmax()]
            confidence = float(softmax(found.logits[row].astype(np.float64)).max())
        scores = {name: float(values[row]) for name, values in found.scores.items()}
        images.append(Chosen(rank, found.names[row], answer, confidence, cluster, scores))
    return tuple(images)


def write_table(triage: Triage, file: TextIO) -> None:
    """The CSV of the chosen images, best first, that `failures log` takes once its column `label` is filled."""
    rows = csv.writer(file, lineterminator="\n")
    names = list(triage.chosen[0].scores) if triage.chosen else []
    rows.writerow((*HEAD, *(f"score_{name}" for name in names)))
    for each in triage.chosen:
        confidence = "" if math.isnan(each.confidence) else f"{each.confidence:.6f}"
        figures = [f"{each.scores[name]:.6g}" for name in (triage.score, *names)]
        source = source_of(each.file)
        rows.writerow((each.file, "", each.predicted, confidence, source, each.rank, each.cluster, *figures))


def sheet_of(triage: Triage, target: str, table: str, config: Config) -> Sheet:
    """What the contact sheet shows: the chosen images as they are in their files. target: the model as the user names
    it. table: where the CSV is.
    """
    images = []
    for each in triage.chosen[:MAX_IMAGES]:
        data = read_file(Path(triage.folder) / each.file, config.images.max_image_bytes)
        if (picture := open_any(data, config.images.max_image_pixels)) is not None:
            array = np.asarray(picture)
            array = array if array.ndim == 2 else array.transpose(2, 0, 1)
            images.append(SheetImage(each.rank, each.file, each.predicted, each.confidence, each.cluster,
                                     each.scores[triage.score], array))  # fmt: skip
    return Sheet(
        triage.model, target, triage.folder, table, triage.score, triage.layers, triage.by_source(), triage.copies,
        len(triage.chosen), triage.missing, triage.unreadable, images,
    )  # fmt: skip


def has_labels(table: Path) -> bool:
    """Whether the file is a CSV in which somebody has filled the column `label`."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            return any((row.get("label") or "").strip() for row in csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def _finite(value: float) -> float | None:
    """As JSON has it: None for what is no finite number."""
    return value if math.isfinite(value) else None
