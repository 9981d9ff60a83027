"""One cell of the grid: its arguments in, its figures out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repairops import __version__
from repairops.bench.data import BenchData, corrupted_images
from repairops.bench.photos import Corrupted, PhotoRoles, Subset, champion_answers, collect_failures, photo_roles
from repairops.bench.rivals import make_rival, rival, rival_style
from repairops.config import (
    ClusteringConfig,
    Config,
    GuardConfig,
    MethodConfig,
    SplitConfig,
    StyleConfig,
    TrainingConfig,
    derive_seed,
)
from repairops.core.parts import RepairInputs
from repairops.core.repair import Repaired, repair_network
from repairops.data.records import Predictions
from repairops.model.device import resolve_device
from repairops.model.evaluation import guard_answers, paired_counts, predict
from repairops.model.network import Classifier

PROTOCOL = 3  # in each cell's arguments; a change of what is measured makes it another cell


@dataclass(frozen=True)
class Cell:
    """Everything that a cell's figures depend on, but for the machine, and for changes of the code
    within a version: a grid's folder belongs to one state of the code.

    network, corruption, rival, seed: where it stands in the grid. champion, data: digests. budget_steps: for the
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
    budget_steps: int
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


def run_cell(cell: Cell, data: BenchData, champion: Classifier, root: Path, work_dir: Path) -> dict[str, Any]:
    """Collects the failures, repairs, judges; returns plain JSON figures.

    root: the grid's folder, where all cells keep the corrupted images and the champion's answers. work_dir: takes the
    training's checkpoints.
    The fine-tuned weights are judged, as in the paper. `kept` has the figures of the weights between the champion and
    them that keep clean accuracy by the unseen photos: what a repair without a guard would register. `guarded` has
    those of the fine-tuned network beside the champion, behind a guard; empty where no such form keeps clean accuracy.
    Raises RepairError where the rival does not fit the network, or the training fails.
    """
    device = resolve_device(cell.training.device)

    def answers(name: str, images: np.ndarray) -> Predictions:
        path = root / "answers" / f"{cell.champion}-{data.digest}-{name}.npy"
        return champion_answers(path, champion, images, data.clean.images.labels, device)

    roles = photo_roles(len(data.clean.images), cell.unseen, cell.seed)
    before = answers("clean", data.clean.images.pixels.permute(0, 2, 3, 1).numpy())
    shown = {}
    for name in (cell.corruption, *cell.others):
        images = corrupted_images(data, name, root / "corrupted")
        shown[name] = Corrupted(name, data, images, answers(name, images))
    failures = collect_failures(
        shown[cell.corruption], roles,
        batch=cell.failure_batch, residuals=cell.residuals, corrupted=cell.corrupted, seed=cell.seed,
    )  # fmt: skip
    clean, right = data.clean.images.subset(roles.judging), before.right[roles.judging]

    def counts(classifier: Classifier) -> dict[str, Any]:
        found = predict(classifier, clean.pixels, clean.labels, batch_size=500, device=device)
        return {
            "clean": dataclasses.asdict(paired_counts(right, found.right)),
            "residual": _counts(classifier, failures.residual, device),
            "corrupted": _counts(classifier, failures.corrupted, device),
        }

    repaired = None
    if rival(cell.rival).twist != "untrained":
        inputs = RepairInputs(data.train, failures.batch, data.clean.images.subset(roles.unseen))
        repaired = repair_as(cell, champion, inputs, work_dir)
    tuned = repaired.tuned if repaired else champion
    judged = counts(tuned)
    figures = {
        "failures": failures.total,
        "champion_accuracy_by_severity": list(failures.accuracy),
        **judged,
        "others": {name: _other(shown[name], tuned, roles, cell.others_images, device) for name in cell.others},
    }
    if repaired is None:
        return {**figures, "training": {}, "kept": {}, "guarded": {}}
    weight, form = repaired.weight, repaired.form
    kept = {"weight": weight, **(counts(repaired.line) if weight < 1 else judged)}
    guarded: dict[str, Any] = {}
    if form.name != "one":
        answered = guard_answers(repaired.network, clean.pixels, batch_size=500, device=device)
        told = {"form": dataclasses.asdict(form.chosen) if form.chosen else {}, "separation": form.separation}
        guarded = {"routed": float(answered.routed.mean()), **told, **counts(repaired.network)}
    return {**figures, "training": _training_figures(repaired), "kept": kept, "guarded": guarded}


def repair_as(cell: Cell, champion: Classifier, inputs: RepairInputs, work_dir: Path) -> Repaired:
    """What a job of the cell's configuration runs, as its rival; no failure is held out, the cell has its own."""
    chosen = rival(cell.rival)
    config = Config(
        seed=cell.seed,
        split=SplitConfig(heldout_fraction=0.0),
        clustering=cell.clustering,
        style=cell.style,
        method=cell.method,
        training=cell.training,
        guard=GuardConfig(mode="on"),
    )
    return repair_network(
        champion,
        inputs,
        config,
        work_dir=work_dir,
        style=rival_style(chosen, cell.corruption),
        method_factory=partial(make_rival, chosen, derive_seed(cell.seed, "shuffle")),
    )


KEPT = ("validation_accuracy", "validation_repair_rate", "repair_failures_accuracy", "steps")


def _training_figures(repaired: Repaired) -> dict[str, Any]:
    """history: the champion's figures, then each epoch's; no times, so that the same cell gives the same."""
    result = repaired.training
    tried = [{k: v for k, v in vars(trial).items() if k != "seconds"} for trial in repaired.trials]
    return {
        **({"trials": tried} if tried else {}),
        "repair_failures": len(repaired.split.repair),
        "validation_failures": result.validation_failures,
        "validation_images": result.validation_images,
        "best_epoch": result.best_epoch,
        "note": result.note,
        "history": [{k: round(h[k], 4) for k in KEPT if k in h} for h in (result.champion, *result.history)],
    }


def _counts(classifier: Classifier, subset: Subset, device: torch.device) -> dict[str, Any]:
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
    shown: Corrupted, classifier: Classifier, roles: PhotoRoles, limit: int, device: torch.device
) -> dict[str, int]:
    """Fig. 6: a sample of the judging photos under another corruption."""
    rows = np.random.default_rng(derive_seed(0, "others", shown.name)).permutation(len(shown.images))
    rows = rows[np.isin(shown.photo[rows], roles.judging)][: limit or None]
    counts = _counts(classifier, shown.subset(rows, roles), device)
    return {name: counts[name] for name in ("n", "right", "champion_right")}
