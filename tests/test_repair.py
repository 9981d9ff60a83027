"""The repair core: the same for a job and a cell, its style fitted once, its parts cut once, resumable."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from guard_helpers import brightness_guard
from pipeline_helpers import (
    OPTIONS,
    Scene,
    scene_fixture,  # noqa: F401
    template_fixture,  # noqa: F401
)
from torch import Generator, Tensor, nn
from training_helpers import Degradation, Stopped, champion, digits, failure_batch, failures, image_set

from repairops.bench.cell import PROTOCOL, Cell, repair_as
from repairops.bench.rivals import rival
from repairops.config import (
    ClusteringConfig,
    Config,
    GuardConfig,
    MethodConfig,
    StyleConfig,
    TrainingConfig,
    load_config,
)
from repairops.core.looks import fit_to_failures
from repairops.core.methods import CONSOLIDATE, Method, MethodData, make_method
from repairops.core.parts import RepairInputs, TrainingParts
from repairops.core.repair import Repaired, Watch, repair_network
from repairops.core.styles import STYLES, Style
from repairops.core.training.checkpoint import state_tensors
from repairops.data.records import FailureBatch, FailureSplit, HeldOutFailures
from repairops.model.guarded import Guarded
from repairops.model.network import Classifier, to_unit
from repairops.model.routing import guarded
from repairops.pipeline import repair
from repairops.stages.job import Job
from repairops.stages.repair import repair_champion
from repairops.store.jobs import job_run
from repairops.store.models import resolve_model

pytestmark = pytest.mark.usefixtures("few_trials")
CPU = torch.device("cpu")
CONFIG = Config(
    seed=3,
    clustering=ClusteringConfig(clusters=3, restarts=1),
    training=TrainingConfig(least_steps=0, epochs=2, batch_size=100, learning_rate=0.01, crop_padding=0, device="cpu"),
)


class Fits:
    """A style's own factory, that keeps the clean images of each call."""

    def __init__(self, name: str) -> None:
        self.factory, self.clean = STYLES[name], list[Tensor]()

    def __call__(self, references: Tensor, clean: Tensor, config: StyleConfig, generator: Generator) -> Style:
        self.clean.append(clean)
        return self.factory(references, clean, config, generator)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Fits:
    counted = Fits("fitted_degradation")
    monkeypatch.setitem(STYLES, "fitted_degradation", counted)
    return counted


def all_failures() -> FailureBatch:
    parts = failures()
    pixels, labels, predicted = (
        torch.cat([p.images.pixels for p in parts]),
        np.concatenate([p.images.labels for p in parts]),
        np.concatenate([p.predicted for p in parts]),
    )
    return failure_batch(image_set(pixels, labels), predicted)


def inputs(unseen: bool = False) -> RepairInputs:
    train_set, others = digits()
    return RepairInputs(train_set, all_failures(), others.subset(np.arange(300)) if unseen else None)


def weights(repaired: Repaired) -> list[bytes]:
    states = state_tensors(repaired.network), state_tensors(repaired.tuned)
    return [b"".join(tensor.numpy().tobytes() for tensor in state.values()) for state in states]


def contents(pixels: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in pixels}


@pytest.mark.parametrize("name", ["style_guided", pytest.param("auto", marks=pytest.mark.long)])
def test_a_cell_and_a_job_of_the_same_arguments_end_with_the_same_weights(
    name: str, scene: Scene, tmp_path: Path
) -> None:
    """Bit for bit, at the chosen point of the line and at its end: the benchmark measures what the product runs."""
    config = dataclasses.replace(
        CONFIG,
        method=MethodConfig(name=name),
        split=dataclasses.replace(CONFIG.split, heldout_fraction=0.0),
        guard=GuardConfig(mode="on"),
    )
    cell = Cell(
        network="", corruption="fog", rival=name, seed=config.seed, champion="", data="", budget_steps=0,
        training=config.training, method=rival(name).config, style=config.style, clustering=config.clustering,
        failure_batch=0, residuals=0, corrupted=0, unseen=0, others=(), others_images=0, protocol=PROTOCOL,
    )  # fmt: skip
    (tmp_path / "cell").mkdir()
    (tmp_path / "job").mkdir()
    measured = repair_as(cell, champion(), inputs(unseen=True), tmp_path / "cell")
    ref = resolve_model("prod/cls", scene.client)
    with job_run(scene.client, ref) as run:
        job = Job(run, "key", tmp_path / "job", ref, [], config)
        repaired, pictures = repair_champion(job, champion(), inputs(unseen=True))
    assert weights(repaired) == weights(measured)
    assert weights(repaired)[1] != weights(dataclasses.replace(repaired, tuned=champion()))[1]
    assert repaired.weight == measured.weight
    assert [t.chosen for t in repaired.trials] == [t.chosen for t in measured.trials]
    assert len(pictures.samples) > 0
    assert pictures.cluster_grid == (tmp_path / "job" / "clusters.png").read_bytes()
    assert job.record.stages.keys() == {"split", "cluster", "style", "labels", "fine-tune", "guard"}


@pytest.mark.long
def test_a_job_fits_its_style_once(scene: Scene, fits: Fits) -> None:
    """For the picture, the sentences, all trials and the training."""
    outcome = repair(config=load_config(overrides=[*OPTIONS, "training.epochs=1", "method.name=auto"]))
    assert "style_guided" in {trial["method"] for trial in outcome.values["training"]["trials"]}
    assert len(fits.clean) == 1


class Looking(Watch):
    """Keeps the parts and the names of the steps; interrupts after an epoch, where it is told to."""

    def __init__(self, stop_after: int = 99) -> None:
        self.steps: list[str] = []
        self.epochs: list[int] = []
        self.parts: list[TrainingParts] = []
        self.stop_after = stop_after

    def step(self, name: str):
        self.steps.append(name)
        return super().step(name)

    def on_style(self, parts: TrainingParts, style: Style | None) -> None:
        self.parts.append(parts)

    def on_epoch(self, epoch: int, figures: dict[str, float]) -> None:
        self.epochs.append(epoch)
        if epoch == self.stop_after:
            raise Stopped


@pytest.mark.parametrize("unseen", [False, True])
def test_no_image_that_chooses_is_trained_on_or_fitted_to(unseen: bool, fits: Fits, tmp_path: Path) -> None:
    watch, config = Looking(), dataclasses.replace(CONFIG.training, validation_fraction=0.5, epochs=1)
    given = inputs(unseen)
    repaired = repair_network(
        champion(), given, dataclasses.replace(CONFIG, training=config), work_dir=tmp_path, watch=watch
    )
    (parts,), (clean,) = watch.parts, fits.clean
    assert len(clean) == len(parts.rows) == (1200 if unseen else 600)
    trained = contents(to_unit(given.train_set.pixels[torch.from_numpy(parts.rows)]))
    assert contents(clean) == trained
    if given.unseen is None:
        assert not trained & contents(to_unit(parts.choosing.pixels))
    else:
        assert parts.choosing is given.unseen
    assert watch.steps[:4] == ["split", "cluster", "style", "fine-tune"]
    assert watch.steps[4:] == (["guard"] if repaired.training.best_epoch else [])
    assert watch.epochs == [0, 1]
    ids = [
        set(part.images.sample_ids.tolist())
        for part in (parts.failures, parts.validation, repaired.split.heldout.batch)
    ]
    assert sum(map(len, ids)) == len(set.union(*ids)) == len(given.failures)


@pytest.mark.long
@pytest.mark.parametrize("name", ["fitted_degradation", "auto"])
def test_another_process_fits_the_same_style(name: str, tmp_path: Path) -> None:
    watch = Looking(stop_after=0)
    with pytest.raises(Stopped):
        repair_network(champion(), inputs(), CONFIG, work_dir=tmp_path, watch=watch)
    (parts,) = watch.parts
    styles = [fit_to_failures(parts, champion(), StyleConfig(name=name), CPU, seed=3) for _ in range(2)]
    content, reference = to_unit(digits()[1].pixels[:60]), torch.arange(60) % len(parts.failures)
    found, wanted = (style.apply(content, reference, Generator().manual_seed(0)) for style in styles)
    assert torch.equal(found, wanted)
    assert not torch.equal(wanted, content)


def test_a_method_without_a_style_fits_none(fits: Fits, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, method=MethodConfig(name="fine_tune"), guard=GuardConfig(mode="off"))
    assert repair_network(champion(), inputs(), config, work_dir=tmp_path).style is None
    assert not fits.clean


@pytest.mark.long
def test_an_interrupted_repair_goes_on_with_the_style_fitted_again(tmp_path: Path) -> None:
    original = champion()
    whole = repair_network(original, inputs(), CONFIG, work_dir=tmp_path / "whole")
    with pytest.raises(Stopped):
        repair_network(champion(), inputs(), CONFIG, work_dir=tmp_path / "stopped", watch=Looking(1))
    resumed = repair_network(champion(), inputs(), CONFIG, work_dir=tmp_path / "stopped")
    assert len(resumed.training.history) == 2
    assert weights(resumed) == weights(whole)
    kept = state_tensors(champion())
    assert all(torch.equal(value, kept[name]) for name, value in state_tensors(original).items())


def test_earlier_failures_are_replayed_and_choose_beside_the_new_ones_and_none_that_was_held_out(
    tmp_path: Path,
) -> None:
    batch, seen = all_failures(), list[MethodData]()
    new, *earlier = (batch.subset(np.arange(start, len(batch), 4)) for start in range(4))
    given = dataclasses.replace(inputs(), failures=new)
    known = FailureSplit(earlier[0], earlier[1], HeldOutFailures(earlier[2]))

    def factory(config: MethodConfig, data: MethodData, generator: Generator) -> Method:
        seen.append(data)
        return make_method(config, data, generator)

    def repaired(known: FailureSplit | None) -> Repaired:
        config, watch = dataclasses.replace(CONFIG, guard=GuardConfig(mode="off")), Looking()
        again = dataclasses.replace(given, earlier=known)
        style = Degradation()
        found = repair_network(
            champion(), again, config, work_dir=tmp_path, watch=watch, style=style, method_factory=factory
        )
        assert ids(watch.parts[0].failures) == ids(found.split.repair)  # what looks and style are about
        return found

    def ids(part: FailureBatch) -> set[str]:
        return set(part.images.sample_ids.tolist())

    alone, beside = repaired(None), repaired(known)  # in one folder: the second does not go on after the first
    assert seen[0].replayed is None
    assert seen[1].replayed is earlier[0]
    assert ids(seen[0].failures) == ids(seen[1].failures) == ids(beside.split.repair)
    assert set.union(*map(ids, (beside.split.repair, beside.split.validation, beside.split.heldout.batch))) == ids(new)
    validation = len(alone.split.validation)
    assert alone.training.validation_failures == validation
    assert beside.training.validation_failures == 2 * validation < validation + len(earlier[1])
    assert weights(alone)[1] != weights(beside)[1]
    repaired(dataclasses.replace(known, repair=earlier[2]))
    assert seen[2].replayed is earlier[2]  # trained anew: what is replayed is part of what a checkpoint is of


@pytest.mark.parametrize("learns", [True, False])
def test_a_pair_becomes_one_network_from_its_champion_taught_by_the_pair(learns: bool, tmp_path: Path) -> None:
    """Where no epoch is chosen too: then it is the champion, not the pair."""
    first, second = champion(), champion()
    if not learns:
        for layer in first.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 0.0
    with torch.no_grad():
        second.network.layers[9].weight.mul_(0.5)
    served, before = guarded(first, second.network, brightness_guard(), 0.5, 0.5), state_tensors(first)
    batch = all_failures()
    repair_part, validation, heldout = (batch.subset(np.arange(start, len(batch), 3)) for start in range(3))
    split, taught = FailureSplit(repair_part, validation, HeldOutFailures(heldout)), list[Classifier]()

    def factory(config: MethodConfig, data: MethodData, generator: Generator) -> Method:
        taught.append(data.champion())
        return make_method(config, data, generator)

    config = dataclasses.replace(
        CONFIG,
        method=MethodConfig(name=CONSOLIDATE),
        training=dataclasses.replace(CONFIG.training, epochs=1, learning_rate=0.01 if learns else 1e-12),
        guard=GuardConfig(mode="on"),
    )
    given = dataclasses.replace(inputs(), split=split)
    style = Degradation()
    repaired = repair_network(served, given, config, work_dir=tmp_path, style=style, method_factory=factory)
    (teacher,) = taught
    wanted = state_tensors(served.network)
    assert isinstance(teacher.network, Guarded)
    assert all(torch.equal(value, wanted[name]) for name, value in state_tensors(teacher.network).items())
    assert repaired.split is split
    assert repaired.training.champion["validation_repaired"] == 0  # epoch 0 is the champion, not the repaired network
    assert repaired.form.name == "one"
    found = state_tensors(repaired.network)
    assert found.keys() == before.keys()
    learnt = not all(torch.equal(value, before[name]) for name, value in found.items())
    assert learnt == (repaired.training.best_epoch > 0) == learns
    assert all(torch.equal(value, before[name]) for name, value in state_tensors(first).items())
