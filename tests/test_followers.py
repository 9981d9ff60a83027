"""The style of a job: fitted once, to train images that train, and the same wherever it is fitted again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from pipeline_helpers import (
    OPTIONS,
    Scene,
    scene_fixture,  # noqa: F401
    template_fixture,  # noqa: F401
)
from torch import Generator, Tensor
from training_helpers import Stopped, champion, clusters_of, digits, failures, stop_after_first

from repairops.config import Config, MethodConfig, StyleConfig, TrainingConfig, derive_seed, load_config
from repairops.core.followers import Work, _with_style, fine_tune_everywhere
from repairops.core.looks import fit_look
from repairops.core.methods import RepairData, make_method
from repairops.core.methods.base import Method
from repairops.core.styles import STYLES, Style
from repairops.core.training import train
from repairops.core.training.checkpoint import state_tensors
from repairops.core.training.parts import training_parts
from repairops.model.network import to_unit
from repairops.pipeline import repair

CPU = torch.device("cpu")
TRAINING = TrainingConfig(epochs=2, batch_size=100, learning_rate=0.01, crop_padding=0, device="cpu")


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


def work(style: str = "fitted_degradation", **training: object) -> Work:
    repair_part, validation = failures()
    count = len(repair_part)
    halves = clusters_of([i % 2 for i in range(count)], [1 / ((count + 1 - i % 2) // 2) for i in range(count)])
    config = Config(
        seed=3, style=StyleConfig(name=style), training=dataclasses.replace(TRAINING, **training)  # type: ignore[arg-type]
    )  # fmt: skip
    return Work(champion(), digits()[0], repair_part, validation, halves, config)


def fitted(work: Work) -> Work:
    """With its style, as the stage 'style' of a job fits it."""
    style = fit_look(work.failures, work.clusters, work.train_set, work.classifier, work.config, CPU)
    return dataclasses.replace(work, style=style)


def weights(work: Work) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in state_tensors(work.classifier).values())


def test_a_job_fits_its_style_once(scene: Scene, fits: Fits) -> None:
    """For the picture, the sentences, all trials and the training."""
    outcome = repair(config=load_config(overrides=[*OPTIONS, "training.epochs=1", "method.name=auto"]))
    assert "style_guided" in {trial["method"] for trial in outcome.values["training"]["trials"]}
    assert len(fits.clean) == 1


def test_no_image_that_validates_is_fitted_to(fits: Fits) -> None:
    job = work(validation_fraction=0.5)
    fitted(job)
    rows, validation = training_parts(job.train_set, None, job.config.training, job.config.seed)

    def contents(pixels: Tensor) -> set[bytes]:
        return {image.numpy().tobytes() for image in pixels}

    (clean,) = fits.clean
    assert len(clean) == len(rows) == 600
    assert contents(clean) == contents(to_unit(job.train_set.pixels[rows]))
    assert not contents(clean) & contents(to_unit(validation.pixels))


@pytest.mark.parametrize("name", ["fitted_degradation", "auto"])
def test_another_rank_fits_the_style_that_the_first_one_has(name: str) -> None:
    first = fitted(work(name)).style
    other = _with_style(work(name)).style
    assert first is not None
    assert other is not None
    content, reference = to_unit(digits()[1].pixels[:60]), torch.arange(60) % len(failures()[0])
    found, wanted = (style.apply(content, reference, Generator().manual_seed(0)) for style in (other, first))
    assert torch.equal(found, wanted)
    assert not torch.equal(wanted, content)


def test_a_method_without_a_style_fits_none(fits: Fits) -> None:
    job = work()
    job = dataclasses.replace(job, config=dataclasses.replace(job.config, method=MethodConfig(name="fine_tune")))
    assert _with_style(job).style is None
    assert not fits.clean


def test_the_style_of_a_job_is_the_one_that_its_training_would_fit(tmp_path: Path) -> None:
    """As the benchmark's cells do, which have no job: a method that is handed no style fits one to what it sees."""
    alone, job = work(), fitted(work())

    def method(data: RepairData) -> Method:
        generator = Generator().manual_seed(derive_seed(3, "method"))
        return make_method(alone.config.method, alone.config.style, data, generator)

    train(
        alone.classifier, method, alone.train_set, alone.failures, alone.validation, alone.clusters,
        alone.config.training, seed=3, work_dir=tmp_path / "alone", method_key="",
    )  # fmt: skip
    fine_tune_everywhere(job, tmp_path / "job")
    assert weights(job) == weights(alone) != weights(work())


def test_an_interrupted_training_goes_on_with_the_style_fitted_again(tmp_path: Path) -> None:
    whole, first, second = fitted(work()), fitted(work()), fitted(work())
    fine_tune_everywhere(whole, tmp_path / "whole")
    with pytest.raises(Stopped):
        fine_tune_everywhere(first, tmp_path / "stopped", stop_after_first)
    result, _ = fine_tune_everywhere(second, tmp_path / "stopped")
    assert len(result.history) == 2
    assert weights(second) == weights(whole)
