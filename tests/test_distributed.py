"""Several processes of one training: real torchrun processes on the CPU, against what each of them has to compute."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import distributed_job
import jsonschema
import numpy as np
import pytest
import torch
import yaml
from distributed_job import CONFIG, launch
from pipeline_helpers import (
    OPTIONS,
    ROOT,
    Scene,
    environment,
    scene_fixture,  # noqa: F401
    shell_options,
    template_fixture,  # noqa: F401
)
from torch import nn
from training_helpers import champion, method_data, method_of, parts_of

from mlflow_project.__main__ import in_processes, parse
from repairops.config import MethodConfig, derive_seed
from repairops.core.training.distributed import Ranks, synchronised_statistics, use_channels_last
from repairops.errors import InvalidOption
from repairops.model.device import set_mode

KUBERNETES = ROOT / "mlflow_project" / "kubernetes"

METHODS = ("style_guided", "mixup", "sensei", "batch_norm", "augmix", "few_shot")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of a torchrun of two ranks, and what each wrote down before one was killed."""
    folder = tmp_path_factory.mktemp("ranks")
    return folder, launch(folder, 2, [*METHODS, "explodes", "stopped", "resumed", "killed"])


@pytest.mark.long
@pytest.mark.usefixtures("few_trials")
@pytest.mark.parametrize("name", [name for name in METHODS if name != "batch_norm"])
def test_the_gradient_of_two_ranks_is_the_mean_of_their_own(runs: tuple[Path, list[dict[str, Any]]], name: str) -> None:
    """Each rank's own is computed here, from the same rows and draws."""
    folder, _ = runs
    steps = [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]
    assert [len(step["labels"]) for step in steps] == [54, 54]  # the 109th image is not trained on
    assert not torch.equal(steps[0]["images"], steps[1]["images"])
    own = []
    for step in steps:
        classifier, generator = distributed_job.network_without_dropout(), torch.Generator()
        generator.set_state(step["draws"])
        method = method_of(MethodConfig(name=name), parts_of(CONFIG))(method_data(CONFIG))
        set_mode(classifier, training=True)
        use_channels_last(classifier, torch.device("cpu"), amp=False)
        set_mode(classifier, training=True)
        loss, _figures = method.loss(classifier, step["images"], step["labels"], generator)
        loss.backward()
        own.append([p.grad for p in classifier.parameters()])
    for one, two, first, second in zip(*own, *(step["gradients"] for step in steps), strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, (one + two) / 2, rtol=1e-3, atol=1e-5)
        assert (one - two).abs().max() > 1e-3  # the ranks' rows and draws differ


def test_each_rank_has_its_own_slice_of_a_common_order(runs: tuple[Path, list[dict[str, Any]]]) -> None:
    """By the labels, since images are jittered by each rank's own draws."""
    folder, _ = runs
    seed = derive_seed(0, "training", 1)
    parts = parts_of(CONFIG)
    order = torch.randperm(len(parts.rows), generator=torch.Generator().manual_seed(seed))[:108]
    wanted = parts.train_set.labels[parts.rows[order.numpy()]].tolist()
    found = [torch.load(folder / f"mixup-{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.cat([step["labels"] for step in found]).tolist() == wanted
    assert not torch.equal(found[0]["draws"], found[1]["draws"])


@pytest.mark.parametrize("name", METHODS)
def test_all_ranks_end_with_the_same_weights_and_decide_alike(
    runs: tuple[Path, list[dict[str, Any]]], name: str
) -> None:
    first, second = (found[name] for found in runs[1])
    assert first["digest"] == second["digest"]
    assert first["history"] == second["history"]  # rank 0's, seconds too
    assert first["best_epoch"] == second["best_epoch"]
    assert [h["steps"] for h in first["history"]] == [9, 9]  # of 109 images, 1,080 of them
    assert first["losses"] != second["losses"]
    mean = np.mean([first["losses"], second["losses"]], axis=0).reshape(2, 9).mean(axis=1)
    np.testing.assert_allclose([h["loss"] for h in first["history"]], mean, rtol=1e-6)
    assert {"BatchNorm2d", "SmallNet"} <= set(first["kinds"])  # the network's own layers, nothing around them
    assert not {"DistributedDataParallel", "SyncBatchNorm"} & set(first["kinds"])


def test_a_loss_that_is_not_finite_on_one_rank_is_an_error_on_all(runs: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = (found["explodes"]["error"] for found in runs[1])
    assert first == second
    assert "nan at step 1, at the learning rate 0.0001 too" in first  # from the first good weights on, all of them


def test_ranks_go_on_from_the_first_one_s_checkpoint(runs: tuple[Path, list[dict[str, Any]]]) -> None:
    """Only rank 0 has written it; after the second epoch all have the weights of an uninterrupted training."""
    for found in runs[1]:
        assert found["stopped"]["losses"] + found["resumed"]["losses"] == found["mixup"]["losses"]
        assert found["resumed"]["digest"] == found["mixup"]["digest"]


def test_a_killed_rank_ends_all_and_another_number_goes_on(runs: tuple[Path, list[dict[str, Any]]]) -> None:
    """That all ended `launch` has seen."""
    folder, ranks = runs
    assert not any("killed" in found for found in ranks)
    alone = distributed_job.run("survivor", folder)
    assert len(alone["losses"]) == 9  # the second epoch alone
    assert [h["steps"] for h in alone["history"]] == [9, 9]
    again = distributed_job.run("survivor", folder)
    assert again["losses"] == []  # both epochs are done
    assert again["digest"] == alone["digest"]


@pytest.mark.slow
def test_one_process_and_then_three_share_a_training(tmp_path: Path) -> None:
    stopped = distributed_job.run("stopped", tmp_path)
    found = launch(tmp_path, 3, ["resumed"])
    assert len(stopped["losses"]) == len(found[2]["resumed"]["losses"]) == 9
    assert len({rank["resumed"]["digest"] for rank in found}) == 1
    assert [h["steps"] for h in found[1]["resumed"]["history"]] == [9, 9]


def test_fewer_images_than_processes_are_refused() -> None:
    assert Ranks(1, 2).share(torch.arange(5)).tolist() == [2, 3]
    with pytest.raises(InvalidOption, match=r"training\.batch_size is 2; it must be at least the 3 processes"):
        Ranks(0, 3).share(torch.arange(2))


def test_the_network_gets_its_own_batch_norm_back() -> None:
    """SyncBatchNorm itself runs on GPUs alone; parameters and statistics are the same tensors all the time."""
    classifier = champion()
    own = {name: layer for name, layer in classifier.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    state = {name: value.data_ptr() for name, value in classifier.state_dict().items()}
    with synchronised_statistics(classifier, torch.device("cuda"), Ranks(0, 2)):
        within = dict(classifier.named_modules())
        assert all(isinstance(within[name], nn.SyncBatchNorm) for name in own)
        assert {name: value.data_ptr() for name, value in classifier.state_dict().items()} == state
        set_mode(classifier, training=True)
        with torch.no_grad():
            within["network.layers.1"].running_mean.add_(1.0)
    assert {n: m for n, m in classifier.named_modules() if n in own} == own
    assert {name: value.data_ptr() for name, value in classifier.state_dict().items()} == state
    assert all(layer.training for layer in own.values())
    assert not torch.equal(own["network.layers.1"].running_mean, champion().network.layers[1].running_mean)
    with synchronised_statistics(classifier, torch.device("cpu"), Ranks(0, 2)):
        assert not any(isinstance(m, nn.SyncBatchNorm) for m in classifier.modules())


# The whole job


@pytest.mark.slow
def test_mlflow_runs_a_job_on_two_processes_and_only_the_first_talks_to_mlflow(scene: Scene) -> None:
    cut = ["split.min_clean_images=800", "gate.min_repair_rate=0.1"]
    settings = ";".join([*OPTIONS, "training.epochs=2", "guard.mode=auto", *cut])
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


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_rank_is_the_outcome_of_its_job_and_the_same_job_goes_on(scene: Scene) -> None:
    """On two processes, of which the second one is killed in training; then alone."""
    options = [
        "repair",
        *shell_options([*OPTIONS, "training.epochs=12", "guard.mode=off", "style.name=radial_spectrum"]),
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "repairops"]
    settings = environment(scene) | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with (scene.folder / "ranks.log").open("w") as log:
        launcher = subprocess.Popen([*command, *options], env=settings, cwd=scene.folder, stdout=log, stderr=log)
        while not list(scene.home.glob("jobs/*/training.safetensors")):  # the first epoch is done
            assert launcher.poll() is None, (scene.folder / "ranks.log").read_text()[-2000:]
            time.sleep(0.01)
        ranks = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        os.kill(int(ranks[1]), signal.SIGKILL)
        assert launcher.wait(120) == 1
    (run,) = scene.repairs()
    said = scene.outcome(run.info.run_id)["message"]
    assert (run.info.status, run.data.tags["repairops.outcome"]) == ("FAILED", "error")
    assert said.startswith(("Another process of this training is", "The job was interrupted (SIGTERM)"))
    assert f"Error: {said}" in (scene.folder / "ranks.log").read_text()
    alone = subprocess.run(
        [sys.executable, "-m", "repairops", *options],
        env=settings, cwd=scene.folder, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert alone.returncode in (0, 3, 4), alone.stderr[-2000:]
    assert "Training goes on after epoch" in alone.stderr
    assert scene.repairs()[0].info.status == "FINISHED"


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
    line = in_processes(parse("repair_distributed", ["--nproc", "4"]))
    assert "--standalone" not in line
    monkeypatch.delenv("PET_NNODES")
    assert "--standalone" in in_processes(parse("repair_distributed", ["--nproc", "4"]))
