"""One cell of the grid: its arguments in, its figures out."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repairops import __version__
from repairops.bench.data import BenchData, corrupted_images, take_rows
from repairops.bench.failures import Failures, PhotoRoles, Subset, champion_answers, collect_failures, photo_roles
from repairops.bench.rivals import make_rival, rival, twisted_failures
from repairops.config import ClusteringConfig, MethodConfig, SplitConfig, StyleConfig, TrainingConfig, derive_seed
from repairops.core.clustering import cluster_failures
from repairops.core.methods import AUTO, RepairData
from repairops.core.methods.base import Method
from repairops.core.training import TrainingResult, train
from repairops.core.training.interpolation import trade_off
from repairops.core.trials import choose_by_trial
from repairops.data.records import FailureBatch, ImageSet, Predictions
from repairops.data.split import split_failures
from repairops.model.device import resolve_device
from repairops.model.evaluation import paired_counts, predict
from repairops.model.network import Classifier

PROTOCOL = 2  # in each cell's arguments; a change of what is measured makes it another cell


@dataclass(frozen=True)
class Cell:
    """Everything that a cell's figures depend on, but for the machine, and for changes of the code
    within a version: a grid's folder belongs to one state of the code.

    network, corruption, rival, seed: where it stands in the grid. champion, data: digests. budget_seconds: for the
    record; what counts are training's epochs and epoch_images. others: corruptions measured besides, at
    `others_images` images each. unseen: photos of the clean set that choose between weights and judge nothing. version:
    of repairops. protocol: see PROTOCOL.
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
    unseen: int
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

    The fine-tuned weights are judged, as in the paper. `kept` has the figures of the weights between the champion and
    them that keep clean accuracy by the unseen photos: what a repair would register.
    Raises RepairError where the rival does not fit the network, or the training fails.
    """
    device = resolve_device(cell.training.device)

    def answers(name: str) -> Predictions:
        return champion_answers(data, champion, cell.champion, name, folders.images, folders.answers, device)

    roles = photo_roles(len(data.clean.images), cell.unseen, cell.seed)
    before = {name: answers(name) for name in ("clean", cell.corruption, *cell.others)}
    failures = collect_failures(
        data, before[cell.corruption], cell.corruption, folders.images,
        batch=cell.failure_batch, residuals=cell.residuals, corrupted=cell.corrupted, roles=roles, seed=cell.seed,
    )  # fmt: skip
    clean, right = data.clean.images.subset(roles.judging), before["clean"].right[roles.judging]

    def judge(classifier: Classifier) -> dict[str, Any]:
        found = predict(classifier, clean.pixels, clean.labels, batch_size=500, device=device)
        return {
            "clean": dataclasses.asdict(paired_counts(right, found.right)),
            "residual": _judge(classifier, failures.residual, device),
            "corrupted": _judge(classifier, failures.corrupted, device),
        }

    untrained, original = rival(cell.rival).twist == "untrained", copy.deepcopy(champion)
    repaired = None if untrained else _repair(cell, data, champion, failures, roles, folders.work)
    judged = judge(champion)
    figures = {
        "failures": failures.total,
        "champion_accuracy_by_severity": list(failures.accuracy),
        **judged,
        "others": {name: _other(cell, data, champion, name, before[name], roles, folders) for name in cell.others},
    }
    if repaired is None:
        return {**figures, "training": {}, "kept": {}}
    weight = _keep(cell, data, original, champion, repaired)
    kept = {"weight": weight, **(judge(champion) if weight < 1 else judged)}
    return {**figures, "training": _training_figures(repaired), "kept": kept}


@dataclass(frozen=True, eq=False)
class Repaired:
    """A cell's training, and the parts that it was chosen by."""

    result: TrainingResult
    failures: int
    validation: FailureBatch
    unseen: ImageSet
    trials: list[dict[str, Any]]  # of method.name=auto


def _repair(
    cell: Cell, data: BenchData, classifier: Classifier, failures: Failures, roles: PhotoRoles, work: Path
) -> Repaired:
    """Fine-tunes the classifier by the product's own split, clusters and loop."""
    chosen = rival(cell.rival)
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

    validation = data.clean.images.subset(roles.unseen)

    def run(to_tune: Classifier, method: MethodConfig, training: TrainingConfig, folder: Path) -> TrainingResult:
        def factory(given: RepairData) -> Method:
            generator = torch.Generator().manual_seed(derive_seed(cell.seed, "method"))
            return make_rival(chosen, cell.corruption, method, cell.style, given, generator)

        return train(
            to_tune,
            factory,
            data.train,
            repair,
            split.validation,
            clusters,
            training,
            seed=cell.seed,
            work_dir=folder,
            method_key=f"{cell.rival} {method} {cell.style}",
            unseen=validation,
        )

    def trial(number: int, method: MethodConfig, short: TrainingConfig) -> TrainingResult:
        return run(copy.deepcopy(classifier), method, short, work / f"trial-{number}")

    method, training = cell.method, cell.training
    trials: list[dict[str, Any]] = []
    if method.name == AUTO:
        method, training, trials = choose_by_trial(method, training, len(data.train), trial)
    result = run(classifier, method, training, work)
    return Repaired(result, len(repair), split.validation, validation, trials)


def _keep(cell: Cell, data: BenchData, original: Classifier, tuned: Classifier, repaired: Repaired) -> float:
    """Leaves the weights in `tuned` that keep clean accuracy; how far they lie from the champion's, 0..1."""
    points = trade_off(
        original, tuned, data.train, repaired.validation, repaired.result, cell.training,
        seed=cell.seed, unseen=repaired.unseen,
    )  # fmt: skip
    return next((point.weight for point in points if point.chosen), 1.0 if repaired.result.best_epoch else 0.0)


KEPT = ("validation_accuracy", "validation_repair_rate", "repair_failures_accuracy", "steps")


def _training_figures(repaired: Repaired) -> dict[str, Any]:
    """history: the champion's figures, then each epoch's; no times, so that the same cell gives the same."""
    result = repaired.result
    tried = [{k: v for k, v in trial.items() if k != "seconds"} for trial in repaired.trials]
    return {
        **({"trials": tried} if tried else {}),
        "repair_failures": repaired.failures,
        "validation_failures": result.validation_failures,
        "validation_images": result.validation_images,
        "best_epoch": result.best_epoch,
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
    cell: Cell,
    data: BenchData,
    classifier: Classifier,
    name: str,
    before: Predictions,
    roles: PhotoRoles,
    folders: Folders,
) -> dict[str, int]:
    """Fig. 6: a sample of the judging photos under another corruption."""
    random = np.random.default_rng(derive_seed(0, "others", name))
    rows = random.permutation(len(before.right))
    rows = rows[np.isin(rows % len(data.clean.images), roles.judging)][: cell.others_images or None]
    pixels = take_rows(corrupted_images(data, name, folders.images), rows)
    labels = data.clean.images.labels[rows % len(data.clean.images)]
    device = resolve_device(cell.training.device)
    right = predict(classifier, pixels, labels, batch_size=500, device=device).right
    return {"n": len(rows), "right": int(right.sum()), "champion_right": int(before.right[rows].sum())}
