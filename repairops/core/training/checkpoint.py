"""A training after an epoch as one safetensors file: tensors, and JSON in its header.

One file, replaced in one step, so that a reader finds the last epoch or the one before, never a mixture.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repairops.data.sets import whole_file
from repairops.outcome.sections import Pace

NAME = "training.safetensors"
PARTS = ("model", "best", "momentum", "average")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """fingerprint: names the arguments; another fingerprint is another training.

    model, best: state dictionaries after the last and the selected epoch. momentum: the optimizer's state
    (`optimizer_tensors`). average: the moving average of the state, where there is one. history: the figures of each
    epoch, the champion's (epoch 0) first. pace: what it goes on at; None before it is found. Tensors on the CPU.
    """

    fingerprint: str
    model: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    momentum: Mapping[str, Tensor]
    history: list[dict[str, float]]
    average: Mapping[str, Tensor] = field(default_factory=dict)
    pace: Pace | None = None


def checkpoint_path(work_dir: Path) -> Path:
    return work_dir / NAME


def save_checkpoint(work_dir: Path, checkpoint: Checkpoint) -> Path:
    """Writes beside the target, then replaces it."""
    from safetensors.torch import save_file

    path = checkpoint_path(work_dir)
    parts = {name: getattr(checkpoint, name) for name in PARTS}
    tensors = {f"{part}/{name}": t.clone() for part, state in parts.items() for name, t in state.items()}
    header = {"fingerprint": checkpoint.fingerprint, "history": json.dumps(checkpoint.history)}
    if checkpoint.pace:
        header["pace"] = json.dumps(asdict(checkpoint.pace))
    with whole_file(path) as part:
        save_file(tensors, part, metadata=header)
        with part.open("rb") as written:
            os.fsync(written.fileno())
    return path


def load_checkpoint(work_dir: Path, fingerprint: str) -> Checkpoint | None:
    """The checkpoint of the training with this fingerprint; None where there is none, or it cannot be read."""
    from safetensors import SafetensorError, safe_open

    parts: dict[str, dict[str, Tensor]] = {name: {} for name in PARTS}
    try:
        with safe_open(checkpoint_path(work_dir), framework="pt") as stored:
            header = stored.metadata() or {}
            if header.get("fingerprint") != fingerprint:
                return None
            for key in stored.keys():  # noqa: SIM118  (not a dict)
                part, name = key.split("/", 1)
                parts[part][name] = stored.get_tensor(key)
            pace = Pace(**json.loads(header["pace"])) if "pace" in header else None
            return Checkpoint(fingerprint, **parts, history=json.loads(header["history"]), pace=pace)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError):
        return None


def state_tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of the module's parameters and buffers, contiguous, on the CPU."""
    return {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in module.state_dict().items()
        if isinstance(value, Tensor)
    }


def load_tensors(module: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts `state_tensors` back; whatever else the module's state holds stays."""
    module.load_state_dict({**module.state_dict(), **tensors})


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, trained: Sequence[tuple[str, nn.Parameter]]
) -> dict[str, Tensor]:
    """A copy on the CPU of what the optimizer keeps of each parameter, by `KIND:NAME`."""
    return {
        f"{kind}:{name}": value.to("cpu", copy=True).contiguous()
        for name, parameter in trained
        for kind, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, trained: Sequence[tuple[str, nn.Parameter]], tensors: Mapping[str, Tensor]
) -> None:
    """Puts `optimizer_tensors` back; what it keeps beside them is forgotten."""
    optimizer.state.clear()
    parameters = dict(trained)
    for key, value in tensors.items():
        kind, _, name = key.partition(":")
        if name in parameters:
            optimizer.state[parameters[name]][kind] = value.to(parameters[name].device, copy=True)


def fingerprint_of(arguments: Mapping[str, Any], *states: Mapping[str, Tensor]) -> str:
    """sha256 over JSON values and tensors, in a fixed order."""
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode())
    for state in states:
        for name in sorted(state):
            value = state[name]
            digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
