"""Where a training stands after an epoch, in memory and in one safetensors file: tensors, and JSON in its header.

One file, replaced in one step, so that a reader finds the last epoch or the one before, never a mixture.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repairops.config import TrainingConfig
from repairops.core.parts import TrainingParts
from repairops.core.training.clock import memory_figures
from repairops.core.training.distributed import Ranks
from repairops.core.training.selection import Selection, ValidationCounts, select_epoch
from repairops.data.records import ImageSet
from repairops.data.sets import whole_file
from repairops.model.device import set_mode
from repairops.model.network import Classifier, to_unit

logger = logging.getLogger("repairops")

EVALUATED_AT_ONCE = 500  # images
NAME = "training.safetensors"
PARTS = ("model", "best", "momentum", "average")

Figures = dict[str, float]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """fingerprint: names the arguments; another fingerprint is another training.

    model, best: state dictionaries after the last and the selected epoch. momentum: the optimizer's buffers by
    parameter name. average: the moving average of the state, where there is one. history: the figures of each
    epoch, the champion's (epoch 0) first. Tensors on the CPU.
    """

    fingerprint: str
    model: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    momentum: Mapping[str, Tensor]
    history: list[dict[str, float]]
    average: Mapping[str, Tensor] = field(default_factory=dict)


def checkpoint_path(work_dir: Path) -> Path:
    return work_dir / NAME


def save_checkpoint(work_dir: Path, checkpoint: Checkpoint) -> Path:
    """Writes beside the target, then replaces it."""
    from safetensors.torch import save_file

    path = checkpoint_path(work_dir)
    parts = {name: getattr(checkpoint, name) for name in PARTS}
    tensors = {f"{part}/{name}": t.clone() for part, state in parts.items() for name, t in state.items()}
    header = {"fingerprint": checkpoint.fingerprint, "history": json.dumps(checkpoint.history)}
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
            return Checkpoint(fingerprint, **parts, history=json.loads(header["history"]))
    except (OSError, SafetensorError, ValueError, KeyError):
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


def fingerprint_of(arguments: Mapping[str, Any], *states: Mapping[str, Tensor]) -> str:
    """sha256 over JSON values and tensors, in a fixed order."""
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode())
    for state in states:
        for name in sorted(state):
            value = state[name]
            digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class AveragedWeights:
    """A running mean of the floating-point state of a module, updated after each step.

    The decay grows from 0.1 to `decay` as (1 + n) / (10 + n) over the first n steps, so that the start is forgotten.
    Source: Polyak averaging as in Tarvainen and Valpola, Mean teachers (NeurIPS 2017); BatchNorm statistics too.
    """

    def __init__(self, module: nn.Module, decay: float, steps: int = 0, start: Mapping[str, Tensor] | None = None):
        self.module, self.decay, self.steps = module, decay, steps
        live = self._live()
        self.shadow = {name: (start or live)[name].to(value, copy=True) for name, value in live.items()}

    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for name, value in self._live().items():
                self.shadow[name].lerp_(value, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averaged state in the module inside, the live one outside."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def tensors(self) -> dict[str, Tensor]:
        """A copy on the CPU, for a checkpoint."""
        return {name: value.to("cpu", copy=True).contiguous() for name, value in self.shadow.items()}

    def _swap(self) -> None:
        with torch.no_grad():
            for name, value in self._live().items():
                kept = value.clone()
                value.copy_(self.shadow[name])
                self.shadow[name].copy_(kept)

    def _live(self) -> dict[str, Tensor]:
        state = self.module.state_dict()
        return {n: v for n, v in state.items() if isinstance(v, Tensor) and v.dtype.is_floating_point}


@dataclass(eq=False)
class TrainingState:
    """Where a training stands: the network, its optimizer, the epochs behind it and the best weights so far.

    Made from the checkpoint in work_dir where that has the same arguments, else from the champion (and writes the
    first checkpoint then, so that there always is one). With an average (`ema` above 0) that is what is measured,
    selected and kept as the best. Of several ranks the first alone measures, chooses, reads and writes, so the
    BatchNorm statistics that count are its own.
    """

    classifier: Classifier
    optimizer: torch.optim.SGD
    parts: TrainingParts
    config: TrainingConfig
    arguments: InitVar[Mapping[str, Any]]
    work_dir: Path
    device: torch.device
    ranks: Ranks

    def __post_init__(self, arguments: Mapping[str, Any]) -> None:
        self.champion = state_tensors(self.classifier)
        self.fingerprint = fingerprint_of(arguments, self.champion)
        stored = self.ranks.of_first(lambda: load_checkpoint(self.work_dir, self.fingerprint))
        self.history = stored.history if stored else []
        self.best = stored.best if stored else self.champion
        if stored:
            if self.ranks.leads:
                logger.info("Training goes on after epoch %d of an earlier run.", len(stored.history) - 1)
            load_tensors(self.classifier, stored.model)
            for name, parameter in self._trained():
                if name in stored.momentum:
                    self.optimizer.state[parameter]["momentum_buffer"] = stored.momentum[name].to(self.device)
        steps = int(sum(h["steps"] for h in self.history[1:]))
        start = stored.average if stored else None
        decay = self.config.ema
        self.average = AveragedWeights(self.classifier, decay, steps, start) if decay else None
        if not self.history:
            self.history = [self.ranks.of_first(self._measure)]
            self._save(self.champion)
        self.selection = choose_epoch(self.history, self.parts, self.config)

    def record_epoch(self, train_epoch: Callable[[int, float], Figures], deadline: float) -> None:
        """Trains and measures one more epoch, keeps its weights where they are the best, writes the checkpoint."""
        began, epoch = time.monotonic(), len(self.history)
        trained = train_epoch(epoch, deadline)
        live = state_tensors(self.classifier)
        with self.average.in_place() if self.average else nullcontext():
            figures = self.ranks.of_first(lambda: trained | self._measure() | memory_figures(self.device))
            measured = state_tensors(self.classifier)
        self.history.append(self.ranks.of_first(lambda: figures | {"seconds": time.monotonic() - began}))
        self.selection = choose_epoch(self.history, self.parts, self.config)
        if self.selection.epoch == epoch:
            self.best = measured
        elif self.selection.epoch == 0:
            self.best = self.champion
        self._save(live)

    def finish(self) -> None:
        load_tensors(self.classifier, self.ranks.of_first(lambda: self.best))
        self.classifier.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        set_mode(self.classifier, training=False)

    def _measure(self) -> Figures:
        """Two sets that select, and the repair failures, which only inform."""
        sets = (self.parts.choosing, self.parts.validation.images, self.parts.failures.images)
        right = [count_right(self.classifier, images, self.device) for images in sets]
        figures: Figures = {"validation_right": right[0], "validation_repaired": right[1]}
        names = ("validation_accuracy", "validation_repair_rate", "repair_failures_accuracy")
        return figures | {name: r / len(s) for name, r, s in zip(names, right, sets, strict=True) if len(s)}

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.classifier.named_parameters() if p.requires_grad]

    def _save(self, model: Mapping[str, Tensor]) -> None:
        if not self.ranks.leads:
            return
        buffers = ((name, self.optimizer.state[p].get("momentum_buffer")) for name, p in self._trained())
        momentum = {name: b.to("cpu", copy=True).contiguous() for name, b in buffers if b is not None}
        average = self.average.tensors() if self.average else {}
        save_checkpoint(self.work_dir, Checkpoint(self.fingerprint, model, self.best, momentum, self.history, average))


def choose_epoch(history: list[Figures], parts: TrainingParts, config: TrainingConfig) -> Selection:
    """`select_epoch` for a falling learning rate; without allowance on images that the champion was not trained on,
    unless the line between the weights offers what the epochs lost.
    """
    return select_epoch(
        [ValidationCounts(int(h["validation_right"]), int(h["validation_repaired"])) for h in history],
        clean_images=len(parts.choosing),
        failures=len(parts.validation),
        max_clean_drop=config.max_clean_drop,
        strict=parts.unseen and not (config.interpolation and len(parts.validation)),
        remembered=not parts.unseen,
        annealed=True,
    )


@torch.no_grad()
def count_right(classifier: Classifier, images: ImageSet, device: torch.device) -> int:
    """Images that the classifier, in eval mode without autocast, gets right; an answer that is not finite is wrong."""
    set_mode(classifier, training=False)
    right, labels = 0, torch.from_numpy(images.labels)
    for start in range(0, len(images), EVALUATED_AT_ONCE):
        index = torch.arange(start, min(start + EVALUATED_AT_ONCE, len(images)))
        logits = classifier(to_unit(images.pixels[index].to(device))).cpu()
        found = (logits.argmax(1) == labels[index]) & torch.isfinite(logits).all(1)
        right += int(found.sum())
    return right
