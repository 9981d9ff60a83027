"""The repair core: split, cluster, style, fine-tune and trade off, as one function over plain values.

A job's stages, the processes of a distributed training, the benchmark's cells and the tests call `repair_network`;
nobody else splits failures, trains, or walks the line between the weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from repairops.config import Config, MethodConfig, TrainingConfig, derive_seed
from repairops.core.clustering import cluster_parts
from repairops.core.forms import find_form
from repairops.core.looks import fit_to_failures
from repairops.core.methods import AUTO, CONSOLIDATE, STYLED, Method, MethodData, make_method
from repairops.core.parts import RepairInputs, TrainingParts, beside_earlier, cut_parts
from repairops.core.styles import Style
from repairops.core.suspects import find_suspects, without_suspects
from repairops.core.training import TrainingResult, train
from repairops.core.training.distributed import current_ranks
from repairops.core.training.interpolation import between, trade_off
from repairops.core.trials import choose_by_trial
from repairops.data.records import Clusters, FailureBatch, FailureSplit
from repairops.data.split import split_failures
from repairops.model.device import resolve_device
from repairops.model.network import Classifier, own_copy
from repairops.model.routing import guarded, networks_of
from repairops.outcome.given import SuspectLabels
from repairops.outcome.sections import Form, Point, TrialFigures


@dataclass(frozen=True, eq=False)
class Repaired:
    """A repaired network and how it came about. Both networks are on the CPU and in eval mode; the champion is kept.

    network: what is to be served. line: the weights of the chosen point between champion and `tuned`, which is served
    where the form is one network. tuned: the selected epoch's own weights. form: how the form was chosen.
    style: None where nothing took one. method: the one that was trained. trials: those by which it was chosen.
    points: of the line, with both ends; none where there was nothing to choose.
    """

    network: Classifier
    line: Classifier
    tuned: Classifier
    form: Form
    split: FailureSplit
    clusters: Clusters
    style: Style | None
    method: MethodConfig
    training: TrainingResult
    trials: list[TrialFigures]
    points: list[Point]

    @property
    def weight(self) -> float:
        """Where `line` lies: 0 = the champion, 1 = the fine-tuned weights."""
        return next((point.weight for point in self.points if point.chosen), float(self.training.best_epoch > 0))


class Watch:
    """What looks on while a network is repaired. This one sees nothing; a job's keeps times, pictures and records.

    shows_style: whether a style is wanted though the method takes none. shows_suspects: whether labels are looked at
    for a person, though nothing is taken out.
    """

    shows_style = False
    shows_suspects = False

    def step(self, name: str) -> AbstractContextManager[None]:
        """Around each of the steps split, cluster, style, fine-tune and guard."""
        return nullcontext()

    def on_split(self, split: FailureSplit) -> None: ...

    def on_clusters(self, failures: FailureBatch, clusters: Clusters) -> None: ...

    def on_style(self, parts: TrainingParts, style: Style | None) -> None: ...

    def on_suspects(self, before: FailureSplit, after: FailureSplit, found: SuspectLabels) -> None:
        """Failures whose label looks wrong, of the split before; after: without those that were taken out."""

    def on_epoch(self, epoch: int, figures: dict[str, float]) -> None: ...

    def on_trained(self, repaired: Repaired) -> None:
        """Its form is still one network, that of the line."""

    def on_form(self, form: Form) -> None: ...

    def on_repaired(self, repaired: Repaired) -> None: ...


NOBODY = Watch()


def repair_network(
    champion: Classifier,
    inputs: RepairInputs,
    config: Config,
    *,
    work_dir: Path,
    watch: Watch = NOBODY,
    style: Style | None = None,
    method_factory: Callable[[MethodConfig, MethodData, Generator], Method] = make_method,
) -> Repaired:
    """Repairs a copy of the champion by its failures; what judges it is `split.heldout`, which nothing here looks at.

    config: its split, clustering, style, method, training and seed. work_dir: keeps the checkpoints; the same call goes
    on after the last one. style: taken instead of one that is fitted to the repair failures. Of several processes all
    call this, and rank 0 splits, clusters and fits the guard, since rounding differs from machine to machine.

    Failures of earlier repairs (`inputs.earlier`) are replayed beside the new ones, and choose beside them; clusters,
    style and wrong labels are about the new ones alone.
    A guarded version that is repaired again keeps its champion, and its repaired network is what is fine-tuned. By the
    method CONSOLIDATE it becomes one network: its champion is what is fine-tuned, and the pair's answers teach.

    Raises CannotSplit, and what `fit_style`, `train` and the method raise.
    """
    seed, ranks, device = config.seed, current_ranks(), resolve_device(config.training.device)
    first, start = networks_of(champion)
    unchanged, teacher = champion, None
    if consolidates := config.method.name == CONSOLIDATE:
        unchanged, start, teacher = first, first, champion
    with watch.step("split"):
        split, earlier = ranks.of_first(lambda: (inputs.split or _split(inputs.failures, config), inputs.earlier))
        watch.on_split(split)
    parts = cut_parts(inputs.train_set, inputs.unseen, split.repair, split.validation, None, config.training, seed=seed)
    with watch.step("cluster"):
        clusters = ranks.of_first(lambda: cluster_parts(parts, config.clustering, seed=seed))
        parts = dataclasses.replace(parts, clusters=clusters)
        watch.on_clusters(split.repair, clusters)
    with watch.step("style"):
        guard_wanted = config.guard.mode != "off" and not consolidates and len(parts.failures) > 0
        quarantines = config.validation.suspect_labels == "quarantine" and len(parts.failures) > 0
        if style is None and (watch.shows_style or guard_wanted or quarantines or config.method.name in STYLED):
            style = fit_to_failures(parts, first, config.style, device, seed=seed)
        watch.on_style(parts, style)
    if style is not None and (quarantines or (watch.shows_suspects and config.validation.suspect_labels == "report")):
        with watch.step("labels"):
            asked, before = (first, split, parts, style, device, config.validation.suspect_labels), split
            if quarantines:
                found = ranks.of_first(lambda: find_suspects(*asked, seed=seed))
                split, parts, style, found = without_suspects(found, split, parts, style)
                clusters = parts.clusters
            else:
                found = find_suspects(*asked, seed=seed)
            watch.on_suspects(before, split, found)
    parts = beside_earlier(parts, earlier, seed=seed)

    def fine_tune(
        method: MethodConfig, training: TrainingConfig, folder: Path, watch: Watch
    ) -> tuple[Classifier, TrainingResult]:
        def make(data: MethodData) -> Method:
            generator = torch.Generator().manual_seed(derive_seed(seed, "method"))
            return method_factory(method, dataclasses.replace(data, style=style), generator)

        tuned, key = own_copy(start), _digest(method, config.style, config.training.max_train_images)
        return tuned, train(
            tuned, make, parts, training,
            seed=seed, work_dir=folder, method_key=key, on_epoch=watch.on_epoch, teacher=teacher,
        )  # fmt: skip

    def trial(number: int, method: MethodConfig, training: TrainingConfig) -> TrainingResult:
        return fine_tune(method, training, work_dir / f"trial-{number}", NOBODY)[1]

    with watch.step("fine-tune"):
        method, training, trials = config.method, config.training, list[TrialFigures]()
        if method.name == AUTO:
            method, training, trials = choose_by_trial(method, training, len(inputs.train_set), trial)
        tuned, result = fine_tune(method, training, work_dir, watch)
        points = trade_off(first, tuned, parts, result, config.training, config.gate.confidence)
        line = between(first, tuned, points) if result.best_epoch else unchanged
        repaired = Repaired(line, line, tuned, Form(), split, clusters, style, method, result, trials, points)
        watch.on_trained(repaired)
    if style is not None and guard_wanted and result.best_epoch:
        with watch.step("guard"):
            guard, form = ranks.of_first(lambda: find_form(champion, tuned, line, parts, style, config, device))
            network = (
                guarded(first, tuned.network, guard, form.chosen.low, form.chosen.high)
                if guard and form.chosen
                else line
            )
            repaired = dataclasses.replace(repaired, network=network, form=form)
            watch.on_form(form)
    watch.on_repaired(repaired)
    return repaired


def _split(failures: FailureBatch, config: Config) -> FailureSplit:
    return split_failures(
        failures,
        heldout_fraction=config.split.heldout_fraction,
        validation_fraction=config.split.validation_fraction,
        near_duplicate_similarity=config.split.near_duplicate_similarity,
        seed=derive_seed(config.seed, "split"),
    )


def _digest(*values: Any) -> str:
    """sha256 of plain values and of stages' options.

    All else that a fitted style depends on stands in the checkpoint by the training's own arguments: the sets, the
    seed, the champion's weights and the parts; but a trial may train on fewer images than the style was fitted to.
    """
    text = json.dumps(values, default=dataclasses.asdict, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
