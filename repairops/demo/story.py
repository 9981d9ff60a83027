"""The demo from end to end, with the very command that a user would run, and what it says at its end."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repairops.demo.champion import train_champion
from repairops.demo.data import DemoData, demo_data, photograph
from repairops.errors import RepairError, UsageError
from repairops.outcome import Outcome, read_outcome
from repairops.store.connection import connect, experiment_id
from repairops.store.runs import all_runs

log = logging.getLogger("repairops")

MARK = ".repairops-demo"
EXPERIMENT = "demo"
STDERR = 2  # the file descriptor
CONFIG = """\
training:  # small steps for a small train set
  epochs: 30
  learning_rate: 0.01
  batch_size: 50
  crop_padding: 1
  ema: 0.95
"""


@dataclass(frozen=True)
class DemoResult:
    """What the demo shows at its end."""

    outcome: Outcome
    tracking_uri: str
    report: Path
    command: str
    environment: dict[str, str]
    seconds: float


def run_demo(folder: Path, *, data: Path | None = None, seed: int = 0, tracking_uri: str = "") -> DemoResult:
    """Trains and registers a champion, lets the field photograph, logs its failures, and repairs.

    folder: made anew; a folder that another demo did not make is refused. tracking_uri: an MLflow server instead of
    the embedded sqlite registry. Raises UsageError, RepairError.
    """
    start = time.perf_counter()
    folder = _fresh(folder)
    uri = tracking_uri or f"sqlite:///{folder / 'mlflow.db'}"
    environment = _environment(folder, uri)
    (folder / "repair.yaml").write_text(CONFIG, encoding="utf-8")
    with _environ(environment):
        experiment_id(connect(uri, create=True), EXPERIMENT)
        images = demo_data(data, seed)
        failures = _production(images, seed)
        log.info("Logged %d failures as one batch. Now the repair:\n", failures)
        command = repair_command()
        log.info("    %s\n", shown(command))
        # What the repair prints is progress here: the demo's own answer, JSON on request, stands alone on stdout.
        subprocess.run(command, env=os.environ.copy(), stdout=STDERR, check=False)
        outcome, report = _result(folder)
    settings = {name: value for name, value in environment.items() if name != "PATH"}
    return DemoResult(outcome, uri, report, shown(command), settings, time.perf_counter() - start)


def summary(result: DemoResult) -> str:
    """Before and after, the verdict, the version, where the report is, and how to go on."""
    record = result.outcome.record
    evidence, registered = record.evidence, record.registered
    if evidence is None or record.verdict is None or record.policy is None:
        return f"The repair came to no verdict: {record.message}"
    clean, total, repaired = evidence.clean, evidence.heldout_total, evidence.heldout_repaired
    before, after = clean.champion_right / clean.n, clean.challenger_right / clean.n
    version = "nothing was registered"
    if registered:
        version = f"version {registered.version} of {registered.name}, alias {registered.alias}"
    margin = record.policy.margin_points
    served = result.tracking_uri.startswith("http")
    browse = result.tracking_uri if served else f"mlflow ui --backend-store-uri {result.tracking_uri}"
    lines = [
        "",
        f"{'':<28}{'before':>12}{'after':>12}",
        f"{'held-out failures right':<28}{f'0 / {total}':>12}{f'{repaired} / {total}':>12}",
        f"{'clean accuracy':<28}{before:>12.1%}{after:>12.1%}   ({clean.n} images, margin {margin:g} points)",
        "",
        f"verdict   {record.verdict.result}",
        f"version   {version}",
        f"report    {result.report}",
        f"browse    {browse}",
        f"time      {result.seconds:.0f} s",
    ]
    if registered:
        lines += [
            "",
            "To go on, in a shell with the demo's settings (the demo's commands are in the environment's bin folder):",
            *(f"    export {name}={value}" for name, value in result.environment.items()),
            f"    {result.command}    # does nothing: the job is done",
            "    repairops promote prod/cls --by you --reason 'read the report'",
            "    repairops rollback prod/cls",
        ]
    return "\n".join(lines)


def repair_command() -> list[str]:
    """`mlflow run` of the checkout that this package lies in; without one (a wheel), the same job by `repairops`."""
    root = Path(__file__).parents[2]
    python = sys.executable
    if (root / "MLproject").is_file():
        return [python, "-m", "mlflow", "run", str(root), "-P", "model=prod/cls", "--env-manager=local"]
    return [python, "-m", "repairops", "repair", "--model=prod/cls"]


def shown(command: list[str]) -> str:
    """A command as a user would type it in the checkout."""
    import shlex

    words = ["." if word == str(Path(__file__).parents[2]) else word for word in command[2:]]
    return shlex.join(words)


def _production(data: DemoData, seed: int) -> int:
    """The champion goes into production, the field fails it; returns how many failures were logged."""
    import torch

    from repairops import log_failures, log_model
    from repairops.model.evaluation import predict
    from repairops.model.network import Classifier

    log.info("Training a champion on %d clean images ...", len(data.train))
    network = train_champion(data.train, data.spec, seed)
    classifier = Classifier(network, data.spec)
    clean = predict(classifier, data.clean.pixels, data.clean.labels)
    log.info("The champion gets %.1f%% of %d clean images right.", 100 * clean.accuracy, len(data.clean))
    ref = log_model(network, "cls", data.spec, train_set=data.train, clean_set=data.clean, alias="prod")
    log.info("Registered as version %s of cls, alias prod.", ref.version)
    photographs, scans = photograph(data.field, seed)
    answers = predict(classifier, photographs, data.field.labels[scans])
    wrong = np.flatnonzero(~answers.right)
    log.info("A failing scanner in the field: %d of %d photographs come out wrong.", len(wrong), len(photographs))
    names = data.spec.class_names
    log_failures(
        "prod/cls",
        photographs[torch.from_numpy(wrong)],
        [names[label] for label in data.field.labels[scans[wrong]]],
        [names[label] for label in answers.labels[wrong]],
        confidences=answers.confidence[wrong].tolist(),
        sources="scanner 3",
        groups=[f"scan {scan}" for scan in scans[wrong]],
    )
    return len(wrong)


def _fresh(folder: Path) -> Path:
    folder = folder.expanduser().resolve()
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).exists():
            raise UsageError(f"The folder {folder} holds something else. Give an empty one with --folder.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
    return folder


def _environment(folder: Path, uri: str) -> dict[str, str]:
    return {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_EXPERIMENT_NAME": EXPERIMENT,
        "REPAIROPS_HOME": str(folder / "work"),
        "REPAIROPS_CONFIG": str(folder / "repair.yaml"),
        # --env-manager=local runs the PATH's python, which is another one where no environment is activated.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }


@contextlib.contextmanager
def _environ(values: dict[str, str]) -> Iterator[None]:
    """The process's environment with some values set, and as it was afterwards."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _result(folder: Path) -> tuple[Outcome, Path]:
    """The job's outcome and report, fetched from its run into the folder."""
    import mlflow

    runs = all_runs(connect(), EXPERIMENT, "tags.`repairops.kind` = 'repair'")
    if not runs:
        raise RepairError("The repair left no run. Its own messages above say why.")
    for name in ("outcome.json", "report.html"):
        mlflow.artifacts.download_artifacts(run_id=runs[-1].info.run_id, artifact_path=name, dst_path=str(folder))
    return read_outcome(folder / "outcome.json"), folder / "report.html"
