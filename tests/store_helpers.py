"""Tiny classifiers, digit images, bare registry entries and real processes for tests of what talks to MLflow."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from torch import Tensor, nn

from repairops.config import ModelConfig
from repairops.data.records import ImageSet, InputSpec
from repairops.data.sets import from_arrays
from repairops.model.onnx import export_onnx
from repairops.promotion.log_model import log_model
from repairops.store.champion import Champion, fetch_champion
from repairops.store.flavors import model_digests
from repairops.store.models import ModelRef
from repairops.store.registry import register_repair

CLASSES = ("zero", "one", "two", "three")
SPEC = InputSpec(channels=1, height=8, width=8, class_names=CLASSES, mean=(0.3,), std=(0.35,))
COLOUR_SPEC = InputSpec(channels=3, height=8, width=8, class_names=CLASSES, mean=(0.3, 0.2, 0.1), std=(0.5, 0.4, 0.3))


class TinyNet(nn.Module):
    """Convolution, BatchNorm and a linear layer; the weights depend on `seed` alone."""

    def __init__(self, channels: int = 1, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.convolution = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4 * 8 * 8, len(CLASSES))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            self.norm.get_buffer("running_mean").fill_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(torch.relu(self.norm(self.convolution(x))).flatten(1))
        return logits


class DictNet(TinyNet):
    """Logits beside features, as detection toolkits return them."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"features": x.flatten(1), "logits": super().forward(x)}


class WideNet(nn.Module):
    """Weights of another shape than TinyNet's."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, len(CLASSES))


def digits(count: int = 12, start: int = 0, channels: int = 0) -> np.ndarray:
    """`count` different real digits, uint8 (N, 8, 8), or (N, 8, 8, C)."""
    from sklearn.datasets import load_digits

    images = (load_digits().images[start : start + count] * 255 / 16).round().astype(np.uint8)
    return np.repeat(images[..., None], channels, axis=-1) if channels else images


def digit_set(count: int = 12, start: int = 0) -> ImageSet:
    """Digits as an image set whose labels go through the classes in turn."""
    return from_arrays(digits(count, start), np.arange(count) % len(CLASSES), CLASSES)


def unit_images(channels: int = 1, count: int = 5) -> Tensor:
    """Images in 0..1, float32 (N, C, 8, 8), as a classifier takes them."""
    return torch.from_numpy(digits(count)).float().div(255)[:, None].expand(-1, channels, -1, -1)


def add_version(client: MlflowClient, name: str, *aliases: str, **options: Any) -> ModelVersion:
    """A new version without a model behind it: enough for everything that only reads the registry."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    version = client.create_model_version(name, "s3://nowhere/model", **options)
    for alias in aliases:
        client.set_registered_model_alias(name, alias, version.version)
    return version


def judged_version(
    client: MlflowClient, name: str, parent: str, *aliases: str, verdict: str = "PASS", **tags: str
) -> ModelVersion:
    """A new version as a repair leaves it, with two small files for weights and ONNX, and their digests as tags."""
    run_id = client.create_run("0").info.run_id
    with tempfile.TemporaryDirectory() as folder:
        for path in ("data/model.pth", "onnx/model.onnx"):
            (Path(folder) / path).parent.mkdir()
            (Path(folder) / path).write_text(f"{path} of {run_id}")
        client.log_artifacts(run_id, folder, "model")
        digests = model_digests(Path(folder))
    tags = {
        "repairops.kind": "repair",
        "repairops.verdict": verdict,
        "repairops.parent_version": parent,
        "repairops.run_id": run_id,
        "repairops.weights_sha256": digests["weights"],
        "repairops.onnx_sha256": digests["onnx"],
        **tags,
    }
    source = f"{client.get_run(run_id).info.artifact_uri}/model"
    version = client.create_model_version(name, source, run_id, tags={k: v for k, v in tags.items() if v})
    for alias in aliases:
        client.set_registered_model_alias(name, alias, version.version)
    return version


def load(ref: ModelRef, folder: Path, config: ModelConfig | None = None, classes: tuple[str, ...] = ()) -> Champion:
    return fetch_champion(ref, config or ModelConfig(), folder, classes)


def champion_in_registry(name: str, folder: Path, serialization_format: str = "pickle", **options: Any) -> Champion:
    """A tiny champion, logged as version 1 under the alias prod, and loaded."""
    ref = log_model(TinyNet(), name, SPEC, serialization_format=serialization_format, **options)
    return load(ref, folder / f"{name}-champion")


@functools.cache
def exported(seed: int) -> bytes:
    """The ONNX export of TinyNet(seed=seed); the exporter takes seconds, so once."""
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(TinyNet(seed=seed), SPEC, Path(folder) / "model.onnx")
        return (Path(folder) / "model.onnx").read_bytes()


def register(
    client: MlflowClient, champion: Champion, network: TinyNet, folder: Path, run_id: str, **options: Any
) -> ModelVersion:
    """Registers `network` with its real ONNX export as a repair that passed the gate."""
    file = folder / "challenger.onnx"
    file.write_bytes(exported(network.seed))
    values: dict[str, Any] = {
        "job_key": "a" * 64,
        "tags": {"repairops.verdict": "PASS", "repairops.parent_version": champion.ref.version},
        "describe": lambda number: f"# Version {number} repairs field failures",
        "alias": "challenger",
        "step": 1,
    }
    return register_repair(client, champion, network, file, run_id=run_id, **{**values, **options})


def artifact_paths(client: MlflowClient, run_id: str, folder: str | None = None) -> list[str]:
    """All artifact files of a run."""
    found: list[str] = []
    for entry in client.list_artifacts(run_id, folder):
        found += artifact_paths(client, run_id, entry.path) if entry.is_dir else [entry.path]
    return sorted(found)


def rewrite_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


PRELOADED = [
    "mlflow.pytorch",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "pyarrow.parquet",
    "repairops.model.onnx",
    "repairops.data.sets",
    "repairops.store.batches",
    "repairops.promotion.log_model",
    "repairops.store.registry",
    "sklearn.datasets",
]

# Real processes. A fork server imports torch and MLflow once; each process then starts in a moment.


def in_processes(function: Callable[..., str], arguments: Sequence[tuple[Any, ...]], seconds: float = 60) -> list[str]:
    """`function(*arguments)` in one new process each, all at once; their answers in that order.

    An exception's answer is 'ClassName: message'. The environment is the caller's.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    receivers, processes = [], []
    for given in arguments:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_answer, args=(function, given, sender, dict(os.environ)), daemon=True)
        process.start()
        sender.close()
        receivers.append(receiver)
        processes.append(process)
    try:
        answers = []
        for receiver in receivers:
            if not receiver.poll(seconds):
                raise TimeoutError(f"{function.__name__} did not answer in {seconds} seconds.")
            answers.append(receiver.recv())
        return answers
    finally:
        for process in processes:
            process.join(5)
            process.kill()


def _answer(function: Callable[..., str], given: tuple[Any, ...], sender: Any, settings: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(settings)
    try:
        sender.send(function(*given))
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}")
