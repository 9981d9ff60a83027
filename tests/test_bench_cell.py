"""The protocol of a cell: failures, roles of images, budgets, rivals; the benchmark without MLflow."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from training_helpers import failures as digit_failures
from without_helpers import output_without

from repairops.bench.budget import step_time, within_budget
from repairops.bench.data import BenchData, corrupted_images, load_digits, take_rows
from repairops.bench.photos import Corrupted, collect_failures, photo_roles
from repairops.bench.presets import PRESETS
from repairops.bench.rivals import TrueCorruption, rival, rivals, twisted_failures
from repairops.config import TrainingConfig
from repairops.core.methods import METHODS
from repairops.data.records import CleanSet, Predictions
from repairops.errors import DatasetNotFound, InvalidOption, UnknownOption, UnreadableDataset


@pytest.fixture(scope="module")
def data() -> BenchData:
    return load_digits()


def small(data: BenchData, photos: int) -> BenchData:
    return BenchData(data.train, CleanSet(data.clean.images.subset(np.arange(photos))))


def answers(data: BenchData, right: np.ndarray) -> Predictions:
    labels = np.tile(data.clean.images.labels, 5)
    return Predictions(np.where(right, labels, (labels + 1) % 10), np.ones(len(labels), np.float32), right)


def test_corrupted_images_are_made_once_in_the_published_layout(data: BenchData, tmp_path: Path) -> None:
    some = small(data, 40)
    images = corrupted_images(some, "contrast", tmp_path)
    assert images.shape == (200, 8, 8, 1)
    assert images.dtype == np.uint8
    deviations = [images[k * 40 : (k + 1) * 40].std() for k in range(5)]
    assert deviations == sorted(deviations, reverse=True)
    (file,) = tmp_path.glob("*.npy")
    written = file.stat().st_mtime_ns
    assert np.array_equal(corrupted_images(some, "contrast", tmp_path), images)
    assert file.stat().st_mtime_ns == written
    rows = np.array([7, 3, 150])
    assert np.array_equal(take_rows(images, rows).permute(0, 2, 3, 1).numpy(), images[rows])


def test_published_files_are_taken_where_they_fit_the_clean_set(data: BenchData, tmp_path: Path) -> None:
    some = small(data, 40)
    published = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1), dtype=np.uint8)
    np.save(tmp_path / "fog.npy", published)
    given = dataclasses.replace(some, published=tmp_path)
    with pytest.raises(DatasetNotFound, match=r"labels\.npy"):
        corrupted_images(given, "fog", tmp_path / "own")
    np.save(tmp_path / "labels.npy", np.tile(some.clean.images.labels, 5))
    assert np.array_equal(corrupted_images(given, "fog", tmp_path / "own"), published)
    assert not (tmp_path / "own").exists()
    assert given.digest != some.digest
    np.save(tmp_path / "labels.npy", np.zeros(200, np.int64))
    with pytest.raises(UnreadableDataset, match="its labels are not those"):
        corrupted_images(given, "fog", tmp_path / "own")


def test_photo_roles_are_disjoint_and_drawn_by_the_seed() -> None:
    roles = photo_roles(1000, 100, seed=0)
    parts = [set(part.tolist()) for part in (roles.unseen, roles.guiding, roles.judging)]
    assert [len(part) for part in parts] == [100, 338, 562]
    assert set.union(*parts) == set(range(1000))
    assert len(photo_roles(1000, 700, seed=0).unseen) == 200  # a fifth at most
    assert not np.array_equal(photo_roles(1000, 100, seed=1).judging, roles.judging)


def test_no_photo_of_a_failure_that_guides_judges(data: BenchData, tmp_path: Path) -> None:
    some, roles = small(data, 60), photo_roles(60, 10, seed=0)
    right = np.random.default_rng(1).random(300) < 0.4
    images = corrupted_images(some, "gaussian_noise", tmp_path)
    place = {image.tobytes(): row for row, image in enumerate(images)}  # noisy images are all different

    def rows(pixels: torch.Tensor) -> np.ndarray:
        return np.array([place[image.permute(1, 2, 0).numpy().tobytes()] for image in pixels])

    shown = Corrupted("gaussian_noise", some, images, answers(some, right))
    sizes = {"batch": 30, "residuals": 0, "corrupted": 0, "seed": 0}
    found = collect_failures(shown, roles, **sizes)
    batch, residual = rows(found.batch.images.pixels), rows(found.residual.images.pixels)
    assert (len(batch), found.total) == (30, int((~right).sum()))
    assert not right[batch].any()
    assert np.isin(batch % 60, roles.guiding).all()
    assert found.batch.groups.tolist() == [f"photo {row % 60}" for row in batch]
    others = np.setdiff1d(np.flatnonzero(~right & ~np.isin(np.arange(300) % 60, roles.unseen)), batch)
    assert sorted(residual) == others.tolist()
    assert found.residual.shared.tolist() == np.isin(residual % 60, roles.guiding).tolist()
    assert 0 < found.residual.shared.sum() < len(residual)
    assert found.residual.severities.tolist() == (residual // 60 + 1).tolist()
    assert not found.residual.champion_right.any()
    assert sorted(rows(found.corrupted.images.pixels)) == [r for r in range(300) if r % 60 in roles.judging]
    assert found.accuracy == tuple(round(float(right[k * 60 : (k + 1) * 60].mean()), 4) for k in range(5))
    sizes |= {"residuals": 20, "corrupted": 50, "seed": 1}
    other = collect_failures(shown, roles, **sizes)
    assert (len(other.residual.images), len(other.corrupted.images)) == (20, 50)
    assert other.batch.images.digest != found.batch.images.digest


def test_a_batch_takes_at_most_half_of_few_failures(data: BenchData, tmp_path: Path) -> None:
    some, roles = small(data, 20), photo_roles(20, 0, seed=0)
    right = np.arange(100) // 20 > 0  # failures at severity 1 only
    shown = Corrupted("contrast", some, corrupted_images(some, "contrast", tmp_path), answers(some, right))
    found = collect_failures(shown, roles, batch=1000, residuals=0, corrupted=0, seed=0)
    assert (len(roles.guiding), len(found.batch), len(found.residual.images)) == (8, 4, 16)


@pytest.mark.parametrize(
    ("cost", "budget", "epochs", "images"),
    [
        (0.1, 100.0, 10, 10_000),  # 1,000 steps: 10 passes over 10,000 images
        (0.1, 6.0, 3, 2000),  # 60 steps: three epochs of 20
        (0.5, 1.0, 3, 100),  # less than a step an epoch: one each
        (0.1, 105.0, 11, 9500),  # 1,050 steps
    ],
)
def test_budgets_become_whole_epochs(cost: float, budget: float, epochs: int, images: int) -> None:
    found = within_budget(TrainingConfig(max_train_images=10_000), cost, budget, 45_000, checks=3)
    assert (found.epochs, found.epoch_images) == (epochs, images)
    spent = found.epochs * found.epoch_images / found.batch_size * cost
    assert spent == pytest.approx(max(budget, 3 * cost), rel=0.02)


def test_step_times_are_measured_once_for_a_grid(data: BenchData, tmp_path: Path) -> None:
    training = PRESETS["digits"].training
    first = step_time("resnet_tiny", rival("fine_tune"), data.train, training, tmp_path)
    assert 0 < first.seconds < 5
    assert step_time("resnet_tiny", rival("fine_tune"), data.train, training, tmp_path) == first
    refused = step_time("lstm_small", rival("batch_norm"), data.train, training, tmp_path)
    assert math.isnan(refused.seconds)
    assert "BatchNorm" in refused.error


def test_every_method_is_a_rival_and_bounds_have_a_twist() -> None:
    found = rivals()
    assert set(METHODS) < set(found)
    assert {name for name, r in found.items() if r.twist} == {"none", "shuffled", "oracle", "oracle_no_failures"}
    assert all(found[name].config.name == name for name in METHODS)
    assert found["style_guided_paper"].config.recipe == "paper"
    assert found["style_guided_no_clusters"].config.references == "uniform"
    assert found["oracle_no_failures"].config.use_failures == "off"
    with pytest.raises(InvalidOption):
        rival("sleep")


def test_a_rival_may_carry_settings_of_its_own() -> None:
    found = rival("fine_tune@training.learning_rate=0.01+method.failure_share=0.2")
    assert found.config == dataclasses.replace(rival("fine_tune").config, failure_share=0.2)
    assert found.training == {"learning_rate": 0.01}
    paper = rival("style_guided_paper@method.jsd_lambda=4")
    assert (paper.config.recipe, paper.config.jsd_lambda) == ("paper", 4)
    for name in ("sleep@method.failure_share=0.2", "fine_tune@seed=1", "fine_tune@method.name=mixup"):
        with pytest.raises(InvalidOption):
            rival(name)
    with pytest.raises(UnknownOption):
        rival("fine_tune@training.rate=1")


def test_rivals_that_differ_in_the_learning_rate_share_the_time_of_a_step(data: BenchData, tmp_path: Path) -> None:
    training = PRESETS["digits"].training
    for name in ("fine_tune", "fine_tune@training.learning_rate=0.01", "fine_tune@method.failure_share=1"):
        step_time("resnet_tiny", rival(name), data.train, training, tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_shuffling_keeps_each_image_s_values_and_nothing_of_its_places() -> None:
    batch, _ = digit_failures()
    shuffled = twisted_failures(batch, "shuffled", seed=0)
    before, after = batch.images.pixels.flatten(1), shuffled.images.pixels.flatten(1)
    assert torch.equal(before.sort(1).values, after.sort(1).values)
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(before.numpy(), after.numpy(), strict=True)]
    assert abs(float(np.mean(correlations))) < 0.05
    assert shuffled.images.labels.tolist() == batch.images.labels.tolist()
    assert twisted_failures(batch, "", seed=0) is batch


def test_the_oracle_s_style_is_the_corruption_at_every_severity() -> None:
    images = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    styled = TrueCorruption("contrast").apply(images, torch.zeros(400), torch.Generator().manual_seed(1))
    ratios = (styled.flatten(1).std(1) / images.flatten(1).std(1)).numpy()
    nearest = np.abs(ratios[:, None] - np.array([0.75, 0.5, 0.4, 0.3, 0.15])).argmin(1)
    assert np.bincount(nearest).min() > 50
    assert torch.equal((styled * 255).round() / 255, styled)


BENCH = """
import sys
from pathlib import Path
from repairops.bench.report import write_report
from repairops.bench.run import Request, run
out = Path(sys.argv[1])
states = run(Request('digits', out, filters=('contrast', 'none,style_guided'), budget=15), workers=1)
write_report(out, out / 'report')
sys.stdout.write(str(dict(states)))
"""


@pytest.mark.slow
def test_runs_without_mlflow_and_the_heavy_libraries(tmp_path: Path) -> None:
    refused = {"mlflow", "great_expectations", "onnx", "onnxruntime", "pandas", "pyarrow", "jinja2"}
    assert output_without(refused, BENCH, str(tmp_path / "grid"), folder=tmp_path) == "{'done': 2}"
    assert (tmp_path / "grid" / "report" / "report.md").exists()
