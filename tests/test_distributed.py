"""Several processes of one training: real torchrun processes on the CPU, against a single one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import distributed_job
import jsonschema
import numpy as np
import pytest
import yaml
from distributed_job import launch
from pipeline_helpers import (
    OPTIONS,
    ROOT,
    Scene,
    environment,
    scene_fixture,  # noqa: F401
    template_fixture,  # noqa: F401
)

from mlflow_project.main import NAMES
from mlflow_project.repair_distributed import command

KUBERNETES = ROOT / "mlflow_project" / "kubernetes"

ALONE = ("style_guided", "mixup", "sensei", "batch_norm")
METHODS = (*ALONE, "interrupted")  # the last one is style_guided, resumed


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "1").mkdir()
    alone: dict[str, Any] = {"world": 1} | {n: distributed_job.run(n, folder / "1" / n, epochs=2) for n in ALONE}
    return {1: [alone], 2: launch(folder / "2", 2, METHODS)}


@pytest.mark.parametrize("name", ALONE)
def test_two_ranks_have_the_losses_of_one_over_twenty_steps(runs: dict[int, list[dict[str, Any]]], name: str) -> None:
    """BatchNorm, augmentation, failures and all: the same global batch and seed."""
    (alone,), (first, second) = runs[1], runs[2]
    assert (alone["world"], first["world"]) == (1, 2)
    assert len(alone[name]["losses"]) == 20
    assert np.ptp(alone[name]["losses"]) > 0.01
    np.testing.assert_allclose(first[name]["losses"], alone[name]["losses"], atol=1e-4)
    np.testing.assert_allclose(first[name]["losses"], second[name]["losses"], rtol=0, atol=0)


def test_all_ranks_end_with_the_same_weights_as_one_process(runs: dict[int, list[dict[str, Any]]]) -> None:
    (alone,), (first, second) = runs[1], runs[2]
    for name in ("style_guided", "mixup"):
        assert first[name]["digest"] == second[name]["digest"]
        np.testing.assert_allclose(first[name]["weights"], alone[name]["weights"], atol=1e-4)
        assert first[name]["history"] == second[name]["history"]  # rank 0's, seconds too: all decide alike
        for one, two in zip(alone[name]["history"], first[name]["history"], strict=True):
            assert one["validation_right"] == two["validation_right"]
        assert not first[name]["patched"]


def test_ranks_go_on_from_the_first_one_s_checkpoint(runs: dict[int, list[dict[str, Any]]]) -> None:
    """Only rank 0 has written it; after the second epoch all have the weights of an uninterrupted training."""
    for found in runs[2]:
        stopped, resumed = found["interrupted"]
        assert (len(stopped["losses"]), len(resumed["losses"])) == (10, 10)
        assert stopped["losses"] + resumed["losses"] == found["style_guided"]["losses"]
        assert resumed["digest"] == found["style_guided"]["digest"]


@pytest.mark.slow
def test_three_ranks_with_shares_of_unequal_size(runs: dict[int, list[dict[str, Any]]], tmp_path: Path) -> None:
    found = launch(tmp_path / "3", 3, ["style_guided"])
    np.testing.assert_allclose(found[2]["style_guided"]["losses"], runs[1][0]["style_guided"]["losses"], atol=1e-4)


# The whole job


@pytest.mark.slow
def test_mlflow_runs_a_job_on_two_processes_and_only_the_first_talks_to_mlflow(scene: Scene) -> None:
    settings = ";".join([*OPTIONS, "training.epochs=2", "split.min_clean_images=800", "gate.min_repair_rate=0.1"])
    done = subprocess.run(
        [
            sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager=local", "-e", "repair_distributed",
            "-P", "nproc=2", "-P", "device=cpu", "-P", f"set={settings}",
        ],
        env=environment(scene) | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        cwd=scene.folder, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = scene.repairs()
    assert run.data.tags["repairops.outcome"] == "passed"
    assert len(scene.client.get_metric_history(run.info.run_id, "loss")) == 2  # each epoch once
    assert scene.versions() == ["1", "2"]
    assert done.stdout.count("PASSED: cls version 1 -> version 2") == 1
    outcome = scene.outcome(run.info.run_id)
    assert outcome["training"]["ranks"] == 2
    assert outcome["training"]["validation_images"] == outcome["clean_validation"]["images"]
    assert outcome["clean_validation"]["source"] == "clean set"


# The manifests for Kubernetes


def object_of(required: Sequence[str] = (), **properties: Any) -> dict[str, Any]:
    """A JSON schema: an object with these fields and no others."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


TEXT, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}
NAMED = object_of(["name"], name=TEXT, namespace=TEXT, labels=TEXTS)
VARIABLE = object_of(
    ["name"], name=TEXT, value=TEXT,
    valueFrom=object_of(["fieldRef"], fieldRef=object_of(["fieldPath"], apiVersion=TEXT, fieldPath=TEXT)),
)  # fmt: skip
CONTAINER = object_of(
    ["name", "image", "command"],
    name=TEXT,
    image=TEXT,
    command={"type": "array", "items": TEXT},
    env={"type": "array", "items": VARIABLE},
    ports={"type": "array", "items": object_of(["containerPort"], containerPort=NUMBER, name=TEXT)},
    resources=object_of(requests=TEXTS, limits=TEXTS),
    volumeMounts={"type": "array", "items": object_of(["name", "mountPath"], name=TEXT, mountPath=TEXT)},
)
VOLUME = object_of(
    ["name"], name=TEXT,
    persistentVolumeClaim=object_of(["claimName"], claimName=TEXT),
    emptyDir=object_of(medium=TEXT, sizeLimit=TEXT),
)  # fmt: skip
POD = object_of(
    ["containers", "restartPolicy"],
    containers={"type": "array", "items": CONTAINER, "minItems": 1},
    volumes={"type": "array", "items": VOLUME},
    restartPolicy={"enum": ["Never", "OnFailure"]},  # a job's pods allow no other
    subdomain=TEXT,
)
JOB = object_of(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "batch/v1"},
    kind={"const": "Job"},
    metadata=NAMED,
    spec=object_of(
        ["template", "completions", "completionMode"],
        completionMode={"enum": ["NonIndexed", "Indexed"]},
        completions=NUMBER,
        parallelism=NUMBER,
        backoffLimit=NUMBER,
        ttlSecondsAfterFinished=NUMBER,
        template=object_of(["spec"], metadata=object_of(labels=TEXTS), spec=POD),
    ),
)
SERVICE = object_of(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "v1"},
    kind={"const": "Service"},
    metadata=NAMED,
    spec=object_of(
        ["selector", "ports"],
        clusterIP={"const": "None"},
        publishNotReadyAddresses={"type": "boolean"},
        selector=TEXTS,
        ports={"type": "array", "items": object_of(["port"], name=TEXT, port=NUMBER)},
    ),
)


def manifest(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((KUBERNETES / name).read_text(encoding="utf-8"))
    return values


def test_the_job_template_has_the_fields_of_batch_v1() -> None:
    jsonschema.validate(manifest("job.yaml"), JOB)
    jsonschema.validate(manifest("service.yaml"), SERVICE)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest("job.yaml") | {"specs": {}}, JOB)


def test_the_job_s_machines_find_each_other() -> None:
    job, service = manifest("job.yaml"), manifest("service.yaml")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    names = [variable["name"] for variable in container["env"]]
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert spec["completionMode"] == "Indexed"
    assert int(variables["PET_NNODES"]) == spec["completions"] == spec["parallelism"]
    assert variables["PET_NPROC_PER_NODE"] == container["resources"]["limits"]["nvidia.com/gpu"]
    assert variables["PET_MASTER_ADDR"] == f"$(JOB_NAME)-0.{pod['subdomain']}"
    assert names.index("JOB_NAME") < names.index("PET_MASTER_ADDR")  # or it would not be expanded
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    port = {str(service["spec"]["ports"][0]["port"]), str(container["ports"][0]["containerPort"])}
    assert port == {variables["PET_MASTER_PORT"]}


def test_mlflow_s_backend_fills_the_template_and_reads_the_configuration() -> None:
    """What MLflow needs of the two: places that it sets, a template beside the configuration, a docker environment."""
    from mlflow.projects._project_spec import load_project

    backend = json.loads((KUBERNETES / "backend.json").read_text(encoding="utf-8"))
    assert backend.keys() == {"kube-context", "kube-job-template-path", "repository-uri"}
    assert (KUBERNETES / backend["kube-job-template-path"]).is_file()
    project = load_project(str(KUBERNETES))
    assert project.docker_env["image"] == "repairops"
    line = project.get_entry_point("main").compute_command({"model": "prod/cls"}, storage_dir=None)
    assert line == "python -m torch.distributed.run -m repairops repair --model prod/cls"


def test_torchrun_takes_its_machines_from_the_variables_of_the_template(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.run import get_args_parser

    values = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "4", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "node-0"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    found = get_args_parser().parse_args(["-m", "repairops"])
    assert (found.nnodes, found.nproc_per_node, found.node_rank, found.master_addr) == ("2", "4", 1, "node-0")
    line = command({"nproc": "4", **dict.fromkeys(NAMES, "")})
    assert "--standalone" not in line
    monkeypatch.delenv("PET_NNODES")
    assert "--standalone" in command({"nproc": "4", **dict.fromkeys(NAMES, "")})
