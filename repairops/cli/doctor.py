"""`repairops doctor`: one line for each thing that a repair needs, with the mend."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from repairops.cli.console import answer, json_option

if TYPE_CHECKING:
    from mlflow import MlflowClient

PACKAGES = ("mlflow", "torch", "torchvision", "onnx", "scikit-learn", "pywavelets", "great-expectations")
MIN_DISK_GB = 2.0
ASKED = 20  # registered models; a server with passwords takes half a second for each


@dataclass(frozen=True)
class Line:
    """One line of the examination: ok, warn (it works, less well) or error (mend it first)."""

    what: str
    state: Literal["ok", "warn", "error"]
    value: str
    mend: str = ""


def examine(tracking_uri: str | None = None) -> list[Line]:
    """All lines; a check that breaks is itself a line."""
    lines: list[Line] = []
    for check in (_python, _packages, _device, _onnxruntime, lambda: _registry(tracking_uri), _disk):
        try:
            lines += check()
        except Exception as error:  # the examination goes on whatever a broken installation raises
            lines.append(Line("check", "error", f"{type(error).__name__}: {error}", "Install repairops again."))
    return lines


def _python() -> list[Line]:
    mend = "" if (3, 11) <= sys.version_info[:2] <= (3, 13) else "Use Python 3.11, 3.12 or 3.13."
    return [Line("python", "error" if mend else "ok", platform.python_version(), mend)]


def _packages() -> list[Line]:
    found = [(name, _version(name)) for name in PACKAGES]
    return [
        Line(name, "ok", number) if number else Line(name, "error", "not installed", f"pip install {name}")
        for name, number in found
    ]


def _version(name: str) -> str:
    """The version of an installed package, else ''."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _device() -> list[Line]:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return [Line("gpu", "ok", f"{torch.cuda.get_device_name()}, {free >> 30} of {total >> 30} GiB free")]
    mend = "Small networks repair in minutes on a CPU; for large ones use a machine with a GPU."
    return [Line("gpu", "warn", f"none; training runs on {torch.get_num_threads()} CPU threads", mend)]


def _onnxruntime() -> list[Line]:
    found = [f"{name} {number}" for name in ("onnxruntime-gpu", "onnxruntime") if (number := _version(name))]
    if not found:
        return [Line("onnxruntime", "error", "not installed", "pip install onnxruntime-gpu")]
    if len(found) > 1:
        mend = "They share a folder: uninstall both, then install one."
        return [Line("onnxruntime", "error", " and ".join(found), mend)]
    return [Line("onnxruntime", "ok", found[0])]


def _registry(tracking_uri: str | None) -> list[Line]:
    from repairops.errors import RegistryNotFound, RepairError
    from repairops.store.connection import connect, talking

    try:
        client = connect(tracking_uri)
        import mlflow

        with talking("list the registered models"):
            names = [model.name for model in client.search_registered_models(max_results=100)]
        found = Line("registry", "ok", f"{mlflow.get_tracking_uri()}, {len(names)} registered models")
        return [found, *_right_to_write(client), *_right_to_register(client, names[:ASKED])]
    except RegistryNotFound as error:
        return [Line("registry", "warn", str(error), "A new registry is made by `repairops log` or `repairops demo`.")]
    except RepairError as error:
        return [Line("registry", "error", str(error), "Set MLFLOW_TRACKING_URI or give --tracking-uri.")]


def _right_to_write(client: MlflowClient) -> list[Line]:
    from repairops.errors import RepairError
    from repairops.store.connection import experiment_id, talking

    try:
        with talking("write a run"):
            run = client.create_run(experiment_id(client, "repairops/doctor"), tags={"repairops.kind": "doctor"})
            client.set_terminated(run.info.run_id)
            client.delete_run(run.info.run_id)
    except RepairError as error:
        return [Line("rights", "error", str(error), "Ask for the right to write and delete runs there.")]
    return [Line("rights", "ok", "runs can be written")]


def _right_to_register(client: MlflowClient, names: Sequence[str]) -> list[Line]:
    """A line on the registered models, where there are some: whether a repair of each could be registered."""
    from repairops.errors import RegistryRefused, listing
    from repairops.store.registry import check_right_to_register

    refused = []
    for name in names:
        try:
            check_right_to_register(client, name)
        except RegistryRefused:
            refused.append(name)
    may = f"repairs of {len(names) - len(refused)} of {len(names)} registered models can be registered"
    mend = f"Ask for EDIT on {listing(refused)} to repair them." if refused else ""
    return [Line("models", "warn" if refused else "ok", may, mend)] if names else []


def _disk() -> list[Line]:
    home = os.environ.get("REPAIROPS_HOME") or os.environ.get("XDG_CACHE_HOME") or str(Path.home())
    path = Path(home)
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free / 2**30
    mend = "" if free >= MIN_DISK_GB else f"Free {MIN_DISK_GB:.0f} GiB, or set REPAIROPS_HOME to another disk."
    return [Line("disk", "ok" if not mend else "error", f"{free:.1f} GiB free at {path}", mend)]


@click.command()
@json_option
@click.pass_obj
def doctor(tracking_uri: str | None, as_json: bool) -> None:
    """Check versions, GPU, registry, rights and disk; exits 1 where something must be mended."""
    lines = examine(tracking_uri)
    texts = [f"{line.state:<5} {line.what}: {line.value}" + f"  ->  {line.mend}" * bool(line.mend) for line in lines]
    answer(as_json, [vars(line) for line in lines], "\n".join(texts))
    sys.exit(1 if any(line.state == "error" for line in lines) else 0)
