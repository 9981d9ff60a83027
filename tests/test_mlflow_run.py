"""`mlflow run .` as a user types it: a process of its own, the run that MLflow opens, exit codes, repetition."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run
from pipeline_helpers import (
    OPTIONS,
    ROOT,
    Scene,
    digits,
    environment,
    options,
    photograph,
    scene_fixture,  # noqa: F401
    template_fixture,  # noqa: F401
    train_network,
)

from repairops import log_model
from repairops.pipeline import repair
from repairops.store.connection import connect

FAILING = ("training.epochs=1", "training.learning_rate=0.5")
QUICK = ("method.name=fine_tune", "style.alpha=0")  # fits no style, which another process would do in full


def run_project(
    scene: Scene, *parameters: str, model: str = "prod/cls", settings: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """`mlflow run . -P model=prod/cls` of the checkout, with the scene's options and further ones."""
    command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager=local"]
    for parameter in (f"model={model}", f"set={';'.join([*OPTIONS, *settings])}", *parameters):
        command += ["-P", parameter]
    return subprocess.run(
        command,
        env=environment(scene),
        cwd=scene.folder,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def run_id(done: subprocess.CompletedProcess[str]) -> str:
    """The run that `mlflow run` opened, as its log names it."""
    found = re.search(r"=== Run \(ID '([0-9a-f]{32})'\) (succeeded|failed) ===", done.stderr)
    found = found or re.search(r"Run \(ID '([0-9a-f]{32})'\) failed", done.stderr)
    assert found, done.stderr[-2000:]
    return found.group(1)


@pytest.mark.long
def test_mlflow_run_repairs_in_the_run_that_it_opens_and_not_twice(scene: Scene) -> None:
    done = run_project(scene, settings=QUICK)

    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = scene.repairs()
    assert run.info.run_id == run_id(done)
    assert run.info.status == "FINISHED"
    assert scene.client.get_experiment(run.info.experiment_id).name == "Default"
    assert run.data.tags["repairops.outcome"] == "passed"
    assert run.data.tags["repairops.model_version"] == "1"
    assert run.data.tags["mlflow.project.entryPoint"] == "main"
    assert run.data.params["model"] == "prod/cls"
    assert {"outcome.json", "report.html", "clusters.png", "validation/result.json"} <= scene.artifacts(run.info.run_id)
    assert len(scene.client.get_metric_history(run.info.run_id, "validation_accuracy")) == 4
    assert scene.versions() == ["1", "2"]
    assert scene.version_at("challenger") == "2"
    assert scene.client.get_model_version("cls", "2").run_id == run.info.run_id
    assert "version 2" in done.stdout

    # From Python it is the very same job, so nothing is done again.
    again = repair(config=options(*QUICK))
    assert again.repeated
    assert f"came to 'passed' and registered version 2 in run {run.info.run_id}" in again.message
    newest, _ = scene.repairs()
    assert newest.data.tags["repairops.outcome"] == "repeated:passed"
    assert newest.info.status == "FINISHED"
    assert scene.versions() == ["1", "2"]


@pytest.mark.slow
def test_mlflow_run_fails_where_the_gate_fails(scene: Scene) -> None:
    done = run_project(scene, settings=FAILING)
    assert done.returncode == 1
    (run,) = scene.repairs()
    assert run.info.status == "FAILED"
    assert run.data.tags["repairops.outcome"] == "failed"
    assert run.data.tags["repairops.exit_code"] == "3"
    assert "report.html" in scene.artifacts(run.info.run_id)

    # MLflow has marked the run as FAILED, and still the same job finds its verdict there, here and by MLflow.
    again = repair(config=options(*FAILING))
    assert again.repeated
    assert again.exit_code == 3
    assert run_project(scene, settings=FAILING).returncode == 1
    assert scene.repairs()[0].data.tags["repairops.outcome"] == "repeated:failed"
    assert scene.versions() == ["1"]


def test_a_parameter_that_the_project_does_not_declare_is_a_usage_error(scene: Scene) -> None:
    done = run_project(scene, "extra=1")
    assert done.returncode == 1
    assert "Unknown option 'extra'. Known options: model," in done.stderr
    assert "Traceback" not in done.stderr.split("Unknown option")[0]
    assert scene.versions() == ["1"]
    (run,) = scene.client.search_runs(["0"], "attributes.status = 'FAILED'")
    assert run.info.run_id == run_id(done)


@pytest.mark.slow
def test_mlflow_run_against_a_server(server_registry: str, tmp_path: Path) -> None:
    """The same command with MLFLOW_TRACKING_URI of a server, whose artifacts it proxies."""
    data = digits()
    network = train_network(data)
    failures = photograph(network, data)
    name = "cls-of-mlflow-run"
    log_model(network, name, data.spec, train_set=data.train, clean_set=data.clean)
    failures.log(f"prod/{name}")
    scene = Scene(tmp_path, server_registry, data, logged=failures, later=failures.part(0, 0))
    first = run_project(scene, model=f"prod/{name}")
    second = run_project(scene, model=f"prod/{name}")

    assert (first.returncode, second.returncode) == (0, 0), first.stderr[-2000:] + second.stderr[-2000:]
    client = connect(server_registry)
    runs: list[Run] = [client.get_run(run_id(done)) for done in (first, second)]
    assert [run.data.tags["repairops.outcome"] for run in runs] == ["passed", "repeated:passed"]
    assert runs[1].data.tags["repairops.earlier_run"] == runs[0].info.run_id
    assert second.stdout.startswith("Nothing to do: this repair of version 1 of")
    versions = client.search_model_versions(f"name = '{name}'")
    assert sorted(v.version for v in versions) == ["1", "2"]
    assert client.get_model_version_by_alias(name, "challenger").version == "2"
    assert {"outcome.json", "report.html"} <= {entry.path for entry in client.list_artifacts(runs[0].info.run_id)}
    assert runs[0].info.artifact_uri.startswith("mlflow-artifacts:")
    assert mlflow.pyfunc.load_model(f"models:/{name}/2") is not None
