"""One tiny scene for end-to-end tests: a registered champion over scikit-learn's digits and its field failures.

The scene is made once for all workers; each test gets a copy of its registry in a temporary folder.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import multiprocessing
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import mlflow_at, new_database, take_few_trials
from filelock import FileLock
from torch import Tensor, nn

from repairops.config import Config, ImagesConfig, load_config
from repairops.data.records import ImageSet, InputSpec
from repairops.demo.data import DemoData, demo_data
from repairops.model.network import Classifier, to_unit
from repairops.store.connection import connect

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, ForkServerProcess

    from mlflow import MlflowClient
    from mlflow.entities import Run

ROOT = Path(__file__).parents[1]
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHOTS = 2  # of each field scan
# The gate has 808 clean images and a champion with 22,000 weights, so the margins are wide; what the tests look at is
# what the job does with a verdict. Data Docs, corruptions, comparing ONNX files, a look for wrong labels and a guard,
# which is two further exports, take time: a few tests have them.
OPTIONS = (
    "training.epochs=3",
    "training.least_steps=0",
    "training.batch_size=32",
    "training.learning_rate=0.01",
    "training.crop_padding=0",
    "training.device=cpu",
    "gate.margin_points=4",
    "gate.class_margin_points=15",
    "gate.latency=off",
    "gate.onnx_accuracy=off",
    "gate.corruptions=off",
    "guard.mode=off",
    "validation.data_docs=false",
    "validation.suspect_labels=off",
)


def options(*overrides: str) -> Config:
    return load_config(overrides=[*OPTIONS, *overrides])


def digits() -> DemoData:
    """The demo's train, clean and field scans (684, 808 and 305 of 16x16 pixels); class names that are no numbers."""
    data = demo_data(None, 0)
    train, clean, field = (
        dataclasses.replace(part, class_names=NAMES) for part in (data.train, data.clean, data.field)
    )
    return DemoData(train, clean, field, dataclasses.replace(data.spec, class_names=NAMES))


def overexposed(images: Tensor, generator: torch.Generator) -> Tensor:
    """The field's pattern: a quarter to half of the contrast is left, bright, with noise. (N, C, H, W) in 0..1."""
    contrast = 0.25 + 0.25 * torch.rand(len(images), 1, 1, 1, generator=generator)
    noise = 0.05 * torch.randn(images.shape, generator=generator)
    return (images * contrast + 0.8 * (1 - contrast) + noise).clamp(0, 1)


def train_network(data: DemoData, epochs: int = 15) -> nn.Module:
    """Two convolutions and a linear layer, trained to about 96% in two seconds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(512, 10),
        )  # fmt: skip
    classifier, labels = Classifier(network, data.spec), torch.from_numpy(data.train.labels)
    optimizer, generator = torch.optim.Adam(network.parameters(), lr=0.004), torch.Generator().manual_seed(1)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(data.train), generator=generator), 64):
            loss = F.cross_entropy(classifier(to_unit(data.train.pixels[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network.eval()


@dataclass(frozen=True, eq=False)
class Failures:
    """Field photographs that the champion gets wrong: pixels uint8 (N, 1, 16, 16), class indices, group names."""

    pixels: Tensor
    labels: np.ndarray
    predicted: np.ndarray
    groups: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, stop: int) -> Failures:
        rows = slice(start, stop)
        return Failures(self.pixels[rows], self.labels[rows], self.predicted[rows], self.groups[rows])

    def log(self, model: str = "prod/cls", tracking_uri: str | None = None) -> str:
        """Logs them as one batch; returns its digest."""
        from repairops import log_failures

        labels, predicted = ([NAMES[i] for i in indices] for indices in (self.labels, self.predicted))
        logged = log_failures(
            model, self.pixels, labels, predicted, groups=self.groups, sources="camera 1", tracking_uri=tracking_uri
        )
        return logged.digest


def photograph(network: nn.Module, data: DemoData) -> Failures:
    """The field's photographs that the champion gets wrong, by scan."""
    from repairops.model.evaluation import predict

    scans = np.repeat(np.arange(len(data.field)), SHOTS)
    generator = torch.Generator().manual_seed(3)
    pixels = overexposed(to_unit(data.field.pixels[torch.from_numpy(scans)]), generator).mul(255).round().byte()
    labels = data.field.labels[scans]
    answers = predict(Classifier(network, data.spec), pixels, labels)
    wrong = np.flatnonzero(~answers.right)
    groups = [f"scan {scan}" for scan in scans[wrong]]
    return Failures(pixels[torch.from_numpy(wrong)], labels[wrong], answers.labels[wrong], groups)


@dataclass(frozen=True, eq=False)
class Scene:
    """A registry with the champion cls (version 1, alias prod) and one batch of failures; `later` are not logged."""

    folder: Path
    uri: str
    data: DemoData
    logged: Failures
    later: Failures

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def client(self) -> MlflowClient:
        return connect(self.uri)

    def versions(self) -> list[str]:
        return sorted((str(v.version) for v in self.client.search_model_versions("name = 'cls'")), key=int)

    def version_at(self, alias: str) -> str:
        return str(self.client.get_model_version_by_alias("cls", alias).version)

    def repairs(self) -> list[Run]:
        """The runs of all repair jobs, newest first."""
        experiments = [e.experiment_id for e in self.client.search_experiments()]
        return list(
            self.client.search_runs(
                experiments, "tags.`repairops.kind` = 'repair'", order_by=["attributes.start_time DESC"]
            )
        )

    def artifacts(self, run_id: str, path: str = "") -> set[str]:
        """Paths of a run's artifact files below a folder."""
        found: set[str] = set()
        for entry in self.client.list_artifacts(run_id, path or None):
            found |= self.artifacts(run_id, entry.path) if entry.is_dir else {entry.path}
        return found

    def artifact(self, run_id: str, path: str) -> Path:
        return Path(self.client.download_artifacts(run_id, path, str(self.folder)))

    def outcome(self, run_id: str) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self.artifact(run_id, "outcome.json").read_text(encoding="utf-8"))
        return values


@pytest.fixture(scope="session", name="template")
def template_fixture(migrated_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the scene's registry, made by the first worker that wants it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "scene"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "done").exists():
            _make_template(migrated_database, folder)
            (folder / "done").touch()
    return folder


def _make_template(migrated: Path, folder: Path) -> None:
    data = digits()
    network = train_network(data)
    failures = photograph(network, data)
    uri = new_database(migrated, folder / "mlflow.db", (folder / "mlartifacts" / "Default").as_uri())
    with pytest.MonkeyPatch.context() as monkeypatch, mlflow_at(uri, folder / "home", monkeypatch):
        log_champion(network, data)
        failures.part(0, len(failures) * 2 // 3).log()
    np.savez(
        folder / "failures.npz",
        pixels=failures.pixels.numpy(),
        labels=failures.labels,
        predicted=failures.predicted,
        groups=np.array(failures.groups),
    )


def log_champion(network: nn.Module, data: DemoData, **arguments: Any) -> str:
    """Registers the network as cls under the alias prod; returns its version."""
    from repairops import log_model

    sets = {"train_set": data.train, "clean_set": data.clean}
    return log_model(network, "cls", data.spec, **{**sets, **arguments}).version


def copy_registry(template: Path, folder: Path) -> str:
    """A copy of the scene's database, whose new artifacts lie below `folder`; what was logged is read in place."""
    folder.mkdir(parents=True)
    shutil.copyfile(template / "mlflow.db", folder / "mlflow.db")
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        database.execute(
            "UPDATE experiments SET artifact_location = replace(artifact_location, ?, ?)",
            (template.as_uri(), folder.as_uri()),
        )
        database.commit()
    return f"sqlite:///{folder / 'mlflow.db'}"


def read_failures(template: Path) -> tuple[Failures, Failures]:
    """The failures that the template holds as a batch, and those that come later."""
    with np.load(template / "failures.npz") as kept:
        pixels = torch.from_numpy(kept["pixels"])
        failures = Failures(pixels, kept["labels"], kept["predicted"], kept["groups"].tolist())
    cut = len(failures) * 2 // 3
    return failures.part(0, cut), failures.part(cut, len(failures))


@pytest.fixture(name="scene")
def scene_fixture(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_trials: None) -> Iterator[Scene]:
    """The scene in a registry of the test's own, which MLflow and repairops use by default."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    uri = copy_registry(template, tmp_path / "registry")
    with mlflow_at(uri, tmp_path / "home", monkeypatch):
        yield Scene(tmp_path, uri, digits(), *read_failures(template))
    torch.set_num_threads(threads)


class Undecided(nn.Module):
    """A classifier whose Python control flow depends on pixels, which no exporter can follow."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        sign = -1 if images.sum().item() > 1e9 else 1  # never, but only the pixels tell
        logits: Tensor = self.network(sign * images)
        return logits


@contextmanager
def own_logging() -> Iterator[None]:
    """The logger of repairops as it was, after a command has set it up for itself."""
    logger = logging.getLogger("repairops")
    before = logger.handlers, logger.propagate, logger.level
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[0], before[1]
        logger.setLevel(before[2])


def call(*arguments: str) -> tuple[int, str]:
    """A repairops command in this process: (exit code, stdout)."""
    from repairops.cli import main

    stdout = io.StringIO()
    with own_logging(), redirect_stdout(stdout), pytest.raises(SystemExit) as exit_:
        main(list(arguments), prog_name="repairops")
    return int(exit_.value.code or 0), stdout.getvalue()


def environment(scene: Scene, **more: str) -> dict[str, str]:
    """For a process of its own: the scene's registry, and the tests' python first on the PATH."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "REPAIROPS_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    settings = {
        "MLFLOW_TRACKING_URI": scene.uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "REPAIROPS_HOME": str(scene.home),
        "OMP_NUM_THREADS": "1",
        "PATH": path,
    }
    return {**kept, **settings, **more}


PRELOADED = [
    "great_expectations",
    "mlflow.pyfunc",
    "mlflow.pytorch",
    "mlflow.store.tracking.sqlalchemy_store",
    "onnxruntime",
    "onnxscript.function_libs.torch_lib.ops",
    "repairops.pipeline",
    "networkx",
    "pywt",
    "sklearn.cluster",
    "torch._dynamo.convert_frame",
]


@pytest.fixture(scope="module", name="context")
def context_fixture() -> ForkServerContext:
    """Forks processes from a server process that has the libraries loaded, which takes each ten seconds otherwise."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def start_command(
    context: ForkServerContext, arguments: Sequence[str], settings: dict[str, str], log: Path
) -> ForkServerProcess:
    """A repairops command in a process of its own; all that it prints goes to `log`."""
    process = context.Process(target=_run_command, args=(list(arguments), settings, str(log)))
    process.start()
    return process


def _run_command(arguments: list[str], settings: dict[str, str], log: str) -> None:
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(settings)
    torch.set_num_threads(1)
    from repairops.cli import main

    take_few_trials()  # as in the process that asks
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    main(arguments, prog_name="repairops")


def shell_options(settings: Sequence[str] = OPTIONS) -> list[str]:
    return [f"--set={setting}" for setting in settings]


def subset(images: ImageSet, count: int) -> ImageSet:
    return images.subset(np.arange(count))


def cifar_scene(
    train_file: Path, test_file: Path, folder: Path
) -> tuple[Path, Path, nn.Module, InputSpec, tuple[Tensor, np.ndarray, np.ndarray]]:
    """CIFAR-10 small: (5,000 train images, 2,000 clean images as files, a network, its input, its failures).

    The failures (pixels uint8 (N, 3, 32, 32), class indices, the network's answers) are test images that are not in
    the clean set, under Gaussian noise.
    """
    import pyarrow.parquet as pq

    from repairops.data.sets import load_image_set
    from repairops.data.sources import peek_class_names
    from repairops.model.evaluation import predict

    files = {name: folder / f"{name}.parquet" for name in ("train", "clean", "field")}
    for file, cuts in ((train_file, {"train": (0, 5000)}), (test_file, {"clean": (0, 2000), "field": (2000, 3000)})):
        table = pq.read_table(file)
        order = np.random.default_rng(0).permutation(len(table))  # the files are sorted by class
        for name, (start, stop) in cuts.items():
            pq.write_table(table.take(order[start:stop]), files[name])
    names = tuple(peek_class_names(files["train"]) or ())
    spec = InputSpec(3, 32, 32, names, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
    train, field = (load_image_set(files[name], spec, ImagesConfig()) for name in ("train", "field"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
            nn.Conv2d(24, 48, 3, 2, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU(),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(768, 10),
        )  # fmt: skip
    classifier, labels = Classifier(network, spec).train(), torch.from_numpy(train.labels)
    optimizer, generator = torch.optim.Adam(network.parameters(), lr=0.003), torch.Generator().manual_seed(1)
    for _ in range(6):
        for batch in torch.split(torch.randperm(len(train), generator=generator), 100):
            loss = F.cross_entropy(classifier(to_unit(train.pixels[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    network.eval()
    noise = 0.2 * torch.randn(field.pixels.shape, generator=generator)
    noisy = (to_unit(field.pixels) + noise).clamp(0, 1).mul(255).round().byte()
    right = predict(classifier, field.pixels, field.labels).right
    answers = predict(classifier, noisy, field.labels)
    wrong = np.flatnonzero(right & ~answers.right)  # what the noise alone has broken
    failures = noisy[torch.from_numpy(wrong)], field.labels[wrong], answers.labels[wrong]
    return files["train"], files["clean"], network, spec, failures
