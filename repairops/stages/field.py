"""A model's logged failures beside its train set, for a look without a repair: nothing is validated or judged here."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from repairops.config import Config, derive_seed
from repairops.core.clustering import cluster_parts
from repairops.core.guard import fit_guard, separation, statistics_of
from repairops.core.looks import describe_all, describe_looks, find_degradation, fit_to_failures
from repairops.core.parts import TrainingParts, cut_parts
from repairops.core.styles import Style
from repairops.data.decoding import decode_image, sample_ids
from repairops.data.records import FailureBatch, ImageSet
from repairops.data.sets import load_image_set
from repairops.data.sources import resolve_label
from repairops.errors import FailureBatchNotFound, StyleNotFittable, UnreadableImage
from repairops.model.evaluation import predict
from repairops.model.network import Classifier, from_unit, to_unit
from repairops.store.batches import choose_batches, fetch_rows, logged_batches
from repairops.store.champion import fetch_champion
from repairops.store.connection import connect
from repairops.store.datasets import fetch_dataset, find_set
from repairops.store.failure_rows import FailureRows
from repairops.store.models import ModelRef, resolve_model
from repairops.store.styles import with_fitted_weights

if TYPE_CHECKING:
    from mlflow import MlflowClient

CPU = torch.device("cpu")
FAILURES, TRAIN = "failures", "train images"  # rows of a picture


@dataclass(frozen=True, eq=False)
class Field:
    """What a style is fitted to: train images, logged failures that decode, their clusters; and the champion."""

    parts: TrainingParts
    champion: Classifier
    config: Config  # fitted weights as a path


def fetch_field(
    model: str, batches: str, train_set: str | Path | None, config: Config, tracking_uri: str | None
) -> Field:
    """The failures of `model` in `batches` ('auto' for all that are logged) and its train set.

    Rows that do not decode or whose label is unknown are left out, and of a sample of the traffic those that the model
    has right. Raises what the repair's first stages raise.
    """
    client = connect(tracking_uri)
    config = with_fitted_weights(client, config)
    ref = resolve_model(model, client)
    logged = logged_batches(client, ref.name)
    chosen = choose_batches(logged, batches)
    if not chosen:
        raise FailureBatchNotFound(batches, [])
    champion, train = fetch_trained(client, ref, train_set, config)
    failures = _decoded(fetch_rows(client, chosen), champion, config)
    nothing = failures.subset(np.arange(0))
    parts = cut_parts(train, None, failures, nothing, None, config.training, seed=config.seed)
    clusters = cluster_parts(parts, config.clustering, seed=config.seed)
    return Field(dataclasses.replace(parts, clusters=clusters), champion, config)


def fetch_trained(
    client: MlflowClient, ref: ModelRef, train_set: str | Path | None, config: Config
) -> tuple[Classifier, ImageSet]:
    """A registered model and its train set, the given one or else the one that was logged with it."""
    found = find_set(client, ref.run_id, "training", train_set)
    with tempfile.TemporaryDirectory() as folder:
        path = fetch_dataset(found, "training", Path(folder) / "sets")
        champion = fetch_champion(ref, config.model, Path(folder) / "champion").classifier
        return champion, load_image_set(path, champion.spec, config.images, role="train set")


def diagnose(field: Field) -> dict[str, Any]:
    """What degradation shows in the failures, over all and by cluster, as plain values with sentences."""
    parts, config = field.parts, field.config
    style = fit_to_failures(parts, field.champion, config.style, CPU, seed=config.seed)
    found = find_degradation(style, parts, seed=config.seed)
    whole = describe_all(found, parts.clusters)
    return {
        "failures": len(parts.failures),
        "summary": whole["look"],
        "findings": whole["findings"],
        "unexplained": whole["unexplained"],
        "clusters": [
            {**look, "failures": len(parts.clusters.members(look["cluster"]))}
            for look in describe_looks(style, found, parts.clusters)
        ],
    }


def fit_styles(field: Field, names: Iterable[str]) -> dict[str, Style]:
    """Each of these styles, fitted to the failures as a repair does."""
    return {
        name: fit_to_failures(
            field.parts, field.champion, dataclasses.replace(field.config.style, name=name), CPU, seed=field.config.seed
        )
        for name in dict.fromkeys(names)
    }


def restyle(field: Field, styles: Mapping[str, Style], count: int) -> dict[str, Tensor]:
    """At most `count` failures, as many train images, and these in each style: uint8 (n, C, H, W) by name."""
    failures, train = field.parts.failures, field.parts.train_set
    generator = torch.Generator().manual_seed(derive_seed(field.config.seed, "picture"))
    chosen = torch.randperm(len(failures), generator=generator)[:count]
    content = train.pixels[torch.randperm(len(train), generator=generator)[: len(chosen)]]
    rows = {FAILURES: failures.images.pixels[chosen], TRAIN: content}
    with torch.no_grad():
        for name, style in styles.items():
            rows[name] = from_unit(style.apply(to_unit(content), chosen, generator))
    return rows


def ask_guard(field: Field, style: Style, rows: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a guard sees that is fitted like a repair's, with this style, but to two failures in three.

    Returns `separation`, the area under the ROC curve between the other failures and the train images that would
    choose, and `look`, the share of each of the rows in which it sees the look.
    """
    parts = field.parts
    generator = torch.Generator().manual_seed(derive_seed(field.config.seed, "guard"))
    order = torch.randperm(len(parts.failures), generator=generator).numpy()
    fitted, told = np.split(order, [math.ceil(2 * len(order) / 3)])
    guard = fit_guard(dataclasses.replace(parts, failures=parts.failures.subset(fitted)), style, None, CPU, generator)

    def odds(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return guard.odds_of(statistics_of(pixels))

    clean, failed = parts.choosing.pixels, parts.failures.images.pixels[told]
    return {
        "separation": separation(odds(clean), odds(failed)) if len(clean) and len(failed) else None,
        "look": {name: float((odds(row) > 0).float().mean()) for name, row in rows.items()},
    }


def _decoded(rows: FailureRows, champion: Classifier, config: Config) -> FailureBatch:
    spec, pixels, labels, field = champion.spec, [], [], []
    limits = {"max_pixels": config.images.max_image_pixels, "max_bytes": config.images.max_image_bytes}
    for data, text, mark in zip(rows.image, rows.label, rows.field, strict=True):
        label = resolve_label(text, spec.class_names)
        with contextlib.suppress(UnreadableImage):
            if label is not None:
                pixels.append(decode_image(data, spec, **limits))
                labels.append(label)
                field.append(mark)
    if any(field):
        failed = np.flatnonzero(
            ~(predict(champion, torch.from_numpy(np.stack(pixels)), np.array(labels)).right & field)
        )
        pixels, labels = [pixels[i] for i in failed], [labels[i] for i in failed]
    if not pixels:
        raise StyleNotFittable("failures", "none of them decodes and has a known label", "Look at the logged batch")
    stacked = torch.from_numpy(np.stack(pixels))
    images = ImageSet(stacked, np.array(labels, dtype=np.int64), spec.class_names, sample_ids(stacked))
    blank = np.full(len(labels), "")
    unknown = np.full(len(labels), -1, dtype=np.int64)
    return FailureBatch(images, unknown, np.full(len(labels), np.nan, dtype=np.float32), blank, blank)
