"""Every method repairs something: through the real training loop, and through the whole job by its name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pipeline_helpers import (
    OPTIONS,
    Scene,
    scene_fixture,  # noqa: F401
    template_fixture,  # noqa: F401
)
from training_helpers import champion, method_of, parts_of

from repairops.config import MethodConfig, TrainingConfig, load_config
from repairops.core.methods import METHODS
from repairops.core.training import TrainingResult, train
from repairops.core.training.state import count_right
from repairops.pipeline import repair

TRAINING = TrainingConfig(least_steps=0, epochs=3, batch_size=50, crop_padding=0, device="cpu", max_clean_drop=1.0)


def train_by(config: MethodConfig, work_dir: Path) -> tuple[TrainingResult, int]:
    """The training's result, and the validation failures that the selected weights get right."""

    classifier, parts = champion(), parts_of(TRAINING)
    result = train(
        classifier, method_of(config, parts), parts, TRAINING, seed=0, work_dir=work_dir, method_key=str(config)
    )
    return result, count_right(classifier, parts.validation.images, torch.device("cpu"))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_repairs_failures_that_it_never_saw(name: str, tmp_path: Path) -> None:
    result, repaired = train_by(MethodConfig(name=name), tmp_path)
    assert repaired > 0.15 * result.validation_failures
    assert result.best_epoch > 0


@pytest.mark.parametrize(
    "options",
    [
        {"recipe": "paper", "jsd_lambda": 1.0},
        {"recipe": "paper", "jsd_lambda": 1.0, "references": "uniform"},
        {"recipe": "paper", "use_failures": "on"},
        {"known_patterns": ("contrast", "gaussian_noise"), "use_failures": "off"},
    ],
    ids=["paper", "without clustering", "with failures", "known patterns"],
)
def test_style_guided_repairs_in_its_other_forms(options: dict[str, object], tmp_path: Path) -> None:
    _, repaired = train_by(MethodConfig(**options), tmp_path)  # type: ignore[arg-type]
    assert repaired > 0


def test_failures_are_what_fine_tuning_repairs_by(tmp_path: Path) -> None:
    """Without them nothing says how the field differs, so next to nothing is repaired."""
    _, with_them = train_by(MethodConfig(name="fine_tune"), tmp_path / "on")
    _, without = train_by(MethodConfig(name="fine_tune", use_failures="off"), tmp_path / "off")
    assert with_them > 2 * without


IN_A_JOB = [name for name in METHODS if name != "batch_norm"]  # the scene's champion has no BatchNorm


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "cutmix" else pytest.mark.slow) for name in IN_A_JOB]
)
def test_every_method_runs_in_a_job(name: str, scene: Scene) -> None:
    outcome = repair(config=load_config(overrides=[*OPTIONS, f"method.name={name}", "training.epochs=1"]))
    assert outcome.values["method"]["name"] == name
    assert outcome.kind in ("passed", "failed", "inconclusive")
    (run,) = scene.repairs()
    assert run.data.metrics["loss"] > 0
