"""One cell of the grid: its arguments in, its figures out."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repairops import __version__
from repairops.bench.data import BenchData, corrupted_images, take_rows
from repairops.bench.failures import Failures, Subset, champion_answers, collect_failures
from repairops.bench.rivals import make_rival, rival, twisted_failures
from repairops.clustering import cluster_failures, split_failures
from repairops.config import ClusteringConfig, MethodConfig, SplitConfig, StyleConfig, TrainingConfig, derive_seed
from repairops.device import resolve_device
from repairops.evaluation import paired_counts, predict
from repairops.methods import RepairData
from repairops.methods.base import Method
from repairops.network import Classifier
from repairops.records import Predictions
from repairops.training import TrainingResult, train
from repairops.training.interpolation import TradeOffPoint, trade_off

PROTOCOL = 1  # in each cell's arguments; a change of what is measured makes it another cell


@dataclass(frozen=True)
class Cell:
    """Everything that a cell's figures depend on, but for the machine, and for changes of the code
    within a version: a grid's folder belongs to one state of the code.

    network, corruption, rival, seed: where it stands in the grid. champion, data: digests. budget_seconds: for the
    record; what counts are training's epochs and max_train_images. others: corruptions measured besides, at
    `others_images` images each. version: of repairops. protocol: see PROTOCOL.
    """

    network: str
    corruption: str
    rival: str
    seed: int
    champion: str
    data: str
    budget_seconds: float
    training: TrainingConfig
    method: MethodConfig
    style: StyleConfig
    clustering: ClusteringConfig
    failure_batch: int
    residuals: int
    corrupted: int
    others: tuple[str, ...]
    others_images: int
    version: str = __version__
    protocol: int = PROTOCOL

    def arguments(self) -> dict[str, Any]:
        """Plain JSON values; their digest names the cell's folder."""
        return dataclasses.asdict(self) | {"others": list(self.others)}


@dataclass(frozen=True)
class Folders:
    """Where a cell finds the corrupted images and the champion's answers, and keeps its training's checkpoint."""

    images: Path
    answers: Path
    work: Path


def run_cell(cell: Cell, data: BenchData, champion: Classifier, folders: Folders) -> dict[str, Any]:
    """Collects the failures, repairs, judges. The champion is fine-tuned in place; returns plain JSON figures.

    Raises RepairError where the rival does not fit the network, or the training fails.
    """
    device = resolve_device(cell.training.device)

    def answers(name: str) -> Predictions:
        return champion_answers(data, champion, cell.champion, name, folders.images, folders.answers, device)

    before = {name: answers(name) for name in ("clean", cell.corruption, *cell.others)}
    failures = collect_failures(
        data, before[cell.corruption], cell.corruption, folders.images,
        batch=cell.failure_batch, residuals=cell.residuals, corrupted=cell.corrupted, seed=cell.seed,
    )  # fmt: skip
    training = {} if rival(cell.rival).twist == "untrained" else _repair(cell, data, champion, failures, folders.work)
    clean = predict(champion, data.clean.images.pixels, data.clean.images.labels, batch_size=500, device=device)
    return {
        "failures": failures.total,
        "champion_accuracy_by_severity": list(failures.accuracy),
        "clean": dataclasses.asdict(paired_counts(before["clean"].right, clean.right)),
        "residual": _judge(champion, failures.residual, device),
        "corrupted": _judge(champion, failures.corrupted, device),
        "others": {name: _other(cell, data, champion, name, before[name], folders) for name in cell.others},
        "training": training,
    }


def _repair(cell: Cell, data: BenchData, classifier: Classifier, failures: Failures, work: Path) -> dict[str, Any]:
    """Fine-tunes the classifier by the product's own split, clusters, loop and choice of weights."""
    chosen, before = rival(cell.rival), copy.deepcopy(classifier)
    split = split_failures(
        failures.batch,
        heldout_fraction=0.0,
        validation_fraction=SplitConfig().validation_fraction,
        near_duplicate_similarity=SplitConfig().near_duplicate_similarity,
        seed=derive_seed(cell.seed, "split"),
    )
    repair = twisted_failures(split.repair, chosen.twist, derive_seed(cell.seed, "shuffle"))
    clusters = cluster_failures(
        repair, **dataclasses.asdict(cell.clustering), seed=derive_seed(cell.seed, "clustering")
    )

    def method(given: RepairData) -> Method:
        generator = torch.Generator().manual_seed(derive_seed(cell.seed, "method"))
        return make_rival(chosen, cell.corruption, cell.method, cell.style, given, generator)

    result = train(
        classifier,
        method,
        data.train,
        repair,
        split.validation,
        clusters,
        cell.training,
        seed=cell.seed,
        work_dir=work,
        method_key=f"{cell.rival} {cell.method} {cell.style}",
    )
    points = trade_off(before, classifier, data.train, split.validation, result, cell.training, seed=cell.seed)
    return _training_figures(result, len(repair), points)


KEPT = ("validation_accuracy", "validation_repair_rate", "repair_failures_accuracy", "steps")


def _training_figures(result: TrainingResult, repair: int, points: Sequence[TradeOffPoint]) -> dict[str, Any]:
    """weight: of the fine-tuned network against the champion. history: the champion's figures, then each epoch's; no
    times, so that the same cell gives the same.
    """
    return {
        "repair_failures": repair,
        "validation_failures": result.validation_failures,
        "validation_images": result.validation_images,
        "best_epoch": result.best_epoch,
        "weight": next((point.weight for point in points if point.chosen), 1.0 if result.best_epoch else 0.0),
        "note": result.note,
        "history": [{k: round(h[k], 4) for k in KEPT if k in h} for h in (result.champion, *result.history)],
    }


def _judge(classifier: Classifier, subset: Subset, device: torch.device) -> dict[str, Any]:
    """Counts over all rows, over those whose photo is in the failure batch at another severity, and over the others."""
    right = predict(classifier, subset.images.pixels, subset.images.labels, batch_size=500, device=device).right
    disjoint = ~subset.shared
    return {
        "n": len(right),
        "right": int(right.sum()),
        "champion_right": int(subset.champion_right.sum()),
        "disjoint_n": int(disjoint.sum()),
        "disjoint_right": int(right[disjoint].sum()),
        "disjoint_champion_right": int(subset.champion_right[disjoint].sum()),
        "right_by_severity": [int(right[subset.severities == s].sum()) for s in range(1, 6)],
        "n_by_severity": [int((subset.severities == s).sum()) for s in range(1, 6)],
    }


def _other(
    cell: Cell, data: BenchData, classifier: Classifier, name: str, before: Predictions, folders: Folders
) -> dict[str, int]:
    """Fig. 6: a sample of the clean set under another corruption, the same for every cell."""
    random = np.random.default_rng(derive_seed(0, "others", name))
    rows = random.permutation(len(before.right))[: cell.others_images or None]
    pixels = take_rows(corrupted_images(data, name, folders.images), rows)
    labels = data.clean.images.labels[rows % len(data.clean.images)]
    device = resolve_device(cell.training.device)
    right = predict(classifier, pixels, labels, batch_size=500, device=device).right
    return {"n": len(rows), "right": int(right.sum()), "champion_right": int(before.right[rows].sum())}
