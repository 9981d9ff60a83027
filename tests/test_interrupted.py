"""A repair whose process is killed, again and again: the next run goes on, and one whole version is registered."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import pytest
import torch
from pipeline_helpers import (
    OPTIONS,
    Scene,
    context_fixture,  # noqa: F401
    copy_registry,
    digits,
    environment,
    log_champion,
    options,
    photograph,
    scene_fixture,  # noqa: F401
    shell_options,
    start_command,
    template_fixture,  # noqa: F401
    train_network,
)
from safetensors import SafetensorError, safe_open
from site_helpers import (
    Site,
    object_store_fixture,  # noqa: F401
    postgres_fixture,  # noqa: F401
    site_fixture,  # noqa: F401
)

from repairops.errors import JobRunning
from repairops.model.evaluation import predict
from repairops.model.network import Classifier
from repairops.pipeline import repair
from repairops.store.registry import DIGEST_TAGS, stored_digests

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, ForkServerProcess

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork and no SIGKILL on this system")

PATIENCE = 200  # seconds until a stage must have been reached
# Of the 808 clean images some are cut off, and choose; so few of them allow small steps alone.
CUT = ("split.min_clean_images=800", "gate.min_repair_rate=0.1")
KEY_TAG = "repairops.job_key"
COMMAND = ["repair", "--model=prod/cls", *shell_options([*OPTIONS, *CUT])]


def start(context: ForkServerContext, scene: Scene, log: Path) -> ForkServerProcess:
    return start_command(context, COMMAND, environment(scene), log)


def kill_when(reached: Callable[[], object], process: ForkServerProcess, log: Path) -> None:
    """Ends the process with SIGKILL as soon as `reached` is true, which it must be while the process lives."""
    deadline = time.monotonic() + PATIENCE
    while not reached():
        process.join(timeout=0.005)
        assert process.is_alive(), f"The process ended by itself:\n{log.read_text()[-2000:]}"
        assert time.monotonic() < deadline, f"The stage was not reached:\n{log.read_text()[-2000:]}"
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def epochs_on_disk(home: Path) -> int:
    """Epochs that the checkpoint holds, -1 without one."""
    for file in home.glob("jobs/*/training.safetensors"):
        try:
            with safe_open(file, framework="pt") as stored:
                return len(json.loads(stored.metadata()["history"])) - 1
        except (OSError, SafetensorError):
            return -1
    return -1


@pytest.mark.timeout(600)  # six jobs, and the libraries that they are forked with
def test_killed_in_four_stages_a_repair_ends_as_if_never_stopped(
    scene: Scene, template: Path, tmp_path: Path, context: ForkServerContext
) -> None:
    job = "jobs/*"

    def logged_models() -> list[str]:
        """Ids of the models that the job has uploaded, or begun to."""
        experiment = scene.client.get_experiment_by_name("repairops/repairs/cls")
        found = scene.client.search_logged_models([experiment.experiment_id]) if experiment else []
        return [model.model_id for model in found if "repairops.job_key" in model.tags]

    stages: dict[str, Callable[[], object]] = {
        "validation": lambda: list(scene.home.glob(f"{job}/validation")),
        "training": lambda: epochs_on_disk(scene.home) >= 1,
        "export": lambda: list(scene.home.glob(f"{job}/challenger.onnx")),
        "registration": logged_models,
    }
    logs = {name: tmp_path / f"{name}.log" for name in [*stages, "end"]}
    for runs_before, (name, reached) in enumerate(stages.items()):
        process = start(context, scene, logs[name])
        kill_when(reached, process, logs[name])
        runs = scene.repairs()
        assert len(runs) == runs_before + 1
        # The dead run cannot have ended itself; those before it have been closed by those after them.
        assert [run.info.status for run in runs] == ["RUNNING"] + ["KILLED"] * runs_before
    assert 1 <= epochs_on_disk(scene.home) <= 3
    (leftover,) = logged_models()
    assert scene.versions() == ["1"]

    process = start(context, scene, logs["end"])
    process.join(PATIENCE)
    assert process.exitcode == 0, logs["end"].read_text()[-2000:]

    # One whole version, at the alias, and nothing that the dead runs left.
    assert scene.versions() == ["1", "2"]
    assert scene.version_at("challenger") == "2"
    (model,) = logged_models()
    assert model != leftover
    assert scene.client.get_model_version("cls", "2").source == f"models:/{model}"
    runs = scene.repairs()
    assert [run.info.status for run in runs] == ["FINISHED"] + ["KILLED"] * 4
    assert [run.data.tags.get("repairops.outcome") for run in runs] == ["passed", None, None, None, None]
    assert len({run.data.tags["repairops.job_key"] for run in runs}) == 1

    # Training went on after the epochs that were done, and the last run's figures are complete all the same.
    assert "Training goes on" not in logs["training"].read_text()
    assert "Training goes on after epoch" in logs["export"].read_text()
    for name in ("registration", "end"):
        assert "Training goes on after epoch 3" in logs[name].read_text()
    steps = [m.step for m in scene.client.get_metric_history(runs[0].info.run_id, "validation_accuracy")]
    assert steps == [0, 1, 2, 3]

    # The same weights, bit for bit, as without a stop.
    undisturbed = Scene(
        tmp_path / "undisturbed",
        copy_registry(template, tmp_path / "undisturbed" / "registry"),
        scene.data,
        scene.logged,
        scene.later,
    )
    process = start(context, undisturbed, tmp_path / "undisturbed.log")
    process.join(PATIENCE)
    assert process.exitcode == 0, (tmp_path / "undisturbed.log").read_text()[-2000:]
    assert "Training goes on" not in (tmp_path / "undisturbed.log").read_text()
    network = mlflow.pytorch.load_model("models:/cls/2").eval()
    mlflow.set_tracking_uri(undisturbed.uri)
    other = mlflow.pytorch.load_model("models:/cls/2").state_dict()
    mlflow.set_tracking_uri(scene.uri)
    weights = network.state_dict()
    assert weights.keys() == other.keys()
    assert all(torch.equal(weights[name], other[name]) for name in weights)
    (killed_key,) = {run.data.tags["repairops.job_key"] for run in runs}
    (undisturbed_run,) = undisturbed.repairs()
    assert undisturbed_run.data.tags["repairops.job_key"] == killed_key

    # Every run cut the same images off the clean set, and judged the same rest.
    cuts = {scene.artifact(run.info.run_id, "roles/clean_validation.txt").read_text(encoding="utf-8") for run in runs}
    other_file = undisturbed.artifact(undisturbed_run.info.run_id, "roles/clean_validation.txt")
    assert cuts == {other_file.read_text(encoding="utf-8")}
    ends = scene.outcome(runs[0].info.run_id), undisturbed.outcome(undisturbed_run.info.run_id)
    assert ends[0]["clean_validation"]["source"] == "clean set"
    assert ends[0]["evidence"]["clean"] == ends[1]["evidence"]["clean"]

    # Both flavors of the version load, and agree on every clean image.
    clean = scene.data.clean
    answers = predict(Classifier(network, scene.data.spec), clean.pixels, clean.labels)
    normalised = (clean.pixels.float() / 255 - 0.5) / 0.5
    found = mlflow.pyfunc.load_model("models:/cls/2").predict(normalised.numpy())
    assert (found.argmax(axis=1) == answers.labels).all()
    onnx_model = mlflow.onnx.load_model("models:/cls/2")
    assert onnx_model.graph.output[0].name == "logits"


def test_one_job_runs_once_at_a_time(scene: Scene, tmp_path: Path, context: ForkServerContext) -> None:
    """While a process repairs, the same repair is refused; when the process is killed, its lock goes with it."""
    log = tmp_path / "first.log"
    process = start(context, scene, log)
    refused: list[str] = []

    def second_is_refused() -> bool:
        if list(scene.home.glob("jobs/*/validation")):
            with pytest.raises(JobRunning, match="is running already") as raised:
                repair(config=options(*CUT))
            refused.append(str(raised.value))
        return bool(refused)

    kill_when(second_is_refused, process, log)
    assert len(scene.repairs()) == 1  # the refused one left no run
    assert str(scene.home) in refused[0]


# At random moments, on the stores of a team

KILLS, LATE = 25, 10  # the late ones after the gate's verdict, which is where most can be half-done
STAGES = ("pull", "validate", "split", "fine-tune", "evaluate", "export", "gate", "register")
SHORT = ("method.name=fine_tune", "guard.mode=off", "training.epochs=1")


def site_scene(site: Site, folder: Path) -> Scene:
    data = digits()
    network = train_network(data)
    failures = photograph(network, data)
    log_champion(network, data)
    failures.log()
    return Scene(folder, site.uri, data, failures, failures.part(0, 0))


def stage_seconds(log: Path) -> dict[str, float]:
    """How long the stages took that a log names."""
    text = log.read_text() if log.exists() else ""
    return {name: float(took) for name, took in re.findall(r"^([a-z-]+) .*\((\d+\.\d) s\)$", text, re.MULTILINE)}


def job_at_challenger(scene: Scene) -> str:
    """Key of the job whose version is at the alias, '' where there is none."""
    aliases = scene.client.get_registered_model("cls").aliases
    return scene.client.get_model_version("cls", aliases["challenger"]).tags[KEY_TAG] if "challenger" in aliases else ""


def check_whole(scene: Scene, key: str) -> None:
    """One version of the job, with all its files, at the alias; nothing else that the job has uploaded."""
    (version,) = [v for v in scene.client.search_model_versions("name = 'cls'") if v.tags.get(KEY_TAG) == key]
    assert scene.version_at("challenger") == str(version.version)
    assert stored_digests(version) == {part: version.tags[tag] for part, tag in DIGEST_TAGS.items()}
    assert version.description.startswith("**Passed.**")
    experiment = scene.client.get_experiment_by_name("repairops/repairs/cls").experiment_id
    models = scene.client.search_logged_models([experiment], f"tags.`{KEY_TAG}` = '{key}'")
    assert [f"models:/{model.model_id}" for model in models] == [version.source]
    runs = [run for run in scene.repairs() if run.data.tags.get(KEY_TAG) == key]
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    assert runs[0].data.tags["repairops.outcome"] in ("passed", "repeated:passed")  # killed when all was done
    assert scene.outcome(runs[0].info.run_id)["registered"]["version"] == str(version.version)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_at_random_moments_each_job_registers_one_whole_version(
    site: Site, tmp_path: Path, context: ForkServerContext, few_trials: None
) -> None:
    scene, dice = site_scene(site, tmp_path), random.Random(0)
    settings, between, killed, seconds = environment(scene, **site.settings), 0, 0, dict.fromkeys(STAGES, 1.0)
    for number in range(2 * KILLS):  # some end before they are killed
        log = tmp_path / f"{number}.log"
        # A limit of a check that is off makes each a job of its own; nothing else differs.
        command = [*COMMAND, *shell_options([*SHORT, f"gate.max_latency_ratio={1000 + number}"])]
        after = len(STAGES) - 2 if killed >= KILLS - LATE else dice.randrange(len(STAGES) - 1)
        process = start_command(context, command, settings, log)
        while process.is_alive() and STAGES[after] not in stage_seconds(log):
            process.join(timeout=0.005)
        process.join(timeout=dice.uniform(0, seconds[STAGES[after + 1]]))
        alive = process.is_alive()
        process.kill()
        process.join()
        key, done = scene.repairs()[0].data.tags[KEY_TAG], stage_seconds(log)
        moved = job_at_challenger(scene) == key
        killed, between = killed + alive, between + (alive and "gate" in done and not moved)
        process = start_command(context, command, settings, log)
        process.join(3 * PATIENCE)
        assert process.exitcode == 0, log.read_text()[-2000:]
        check_whole(scene, key)
        seconds |= stage_seconds(log)
        where = f"killed after {[*done, 'nothing'][-2:]}, alias moved: {moved}" if alive else "too late"
        print(f"{number + 1}: {where}; {killed} killed, {between} between verdict and alias", flush=True)
        if killed == KILLS:
            break
    assert killed == KILLS
    assert between >= 5
