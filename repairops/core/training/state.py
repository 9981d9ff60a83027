"""Where a training stands: the network, what has been measured, the best weights, and what it goes on from."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repairops.config import TrainingConfig
from repairops.core.parts import TrainingParts
from repairops.core.training.checkpoint import (
    Checkpoint,
    fingerprint_of,
    load_checkpoint,
    load_optimizer,
    load_tensors,
    optimizer_tensors,
    save_checkpoint,
    state_tensors,
)
from repairops.core.training.clock import memory_figures
from repairops.core.training.distributed import Ranks
from repairops.core.training.pace import MOST, slower
from repairops.core.training.selection import FORGOTTEN, Selection, ValidationCounts, select_epoch
from repairops.data.records import ImageSet
from repairops.errors import LossNotFinite
from repairops.model.device import set_mode
from repairops.model.network import Classifier, to_unit
from repairops.outcome.sections import Pace

logger = logging.getLogger("repairops")

EVALUATED_AT_ONCE = 500  # images

Figures = dict[str, float]


class AveragedWeights:
    """A running mean of the floating-point state of a module, updated after each step.

    The decay grows from 0.1 to `decay` as (1 + n) / (10 + n) over the first n steps, so that the start is forgotten.
    Source: Polyak averaging as in Tarvainen and Valpola, Mean teachers (NeurIPS 2017); BatchNorm statistics too.
    """

    def __init__(self, module: nn.Module, decay: float, steps: int = 0, start: Mapping[str, Tensor] | None = None):
        self.module, self.decay, self.steps = module, decay, steps
        live = self._live()
        self.shadow = {name: (start or live)[name].to(value, copy=True) for name, value in live.items()}

    def restore(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """As it was after so many steps; see `tensors`."""
        self.steps = steps
        for name, value in self.shadow.items():
            value.copy_(tensors[name])

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
    first checkpoint then, so that there always is one); its pace is None until it is found. With an average (`ema`
    above 0) that is what is measured, selected and kept as the best. Of several ranks the first alone measures,
    chooses, reads and writes, so the BatchNorm statistics that count are its own.
    """

    classifier: Classifier
    optimizer: torch.optim.Optimizer
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
        self.pace = stored.pace if stored else None
        if stored:
            if self.ranks.leads:
                logger.info("Training goes on after epoch %d of an earlier run.", len(stored.history) - 1)
            load_tensors(self.classifier, stored.model)
            load_optimizer(self.optimizer, self._trained(), stored.momentum)
        start = stored.average if stored else None
        decay = self.config.ema
        self.average = AveragedWeights(self.classifier, decay, self._steps(), start) if decay else None
        if not self.history:
            self.history = [self.ranks.of_first(self._measure)]
            self._save(self.champion)
        self.selection = choose_epoch(self.history, self.parts, self.config)

    def record_epoch(self, train_epoch: Callable[[int, float, Pace], Figures], deadline: float) -> None:
        """Trains and measures one more epoch, keeps its weights where they are the best, writes the checkpoint.

        Where a loss is not finite the epoch begins again, from the weights before it and at a slower pace, at most MOST
        times in a training. Raises LossNotFinite.
        """
        began, epoch = time.monotonic(), len(self.history)
        trained = self._trained_epoch(train_epoch, epoch, deadline)
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

    def _trained_epoch(
        self, train_epoch: Callable[[int, float, Pace], Figures], epoch: int, deadline: float
    ) -> Figures:
        assert self.pace is not None, "the pace is found before the first epoch"
        model, momentum = state_tensors(self.classifier), optimizer_tensors(self.optimizer, self._trained())
        average = self.average.tensors() if self.average else {}
        while True:
            try:
                return train_epoch(epoch, deadline, self.pace)
            except LossNotFinite as error:
                if self.pace.lowered == MOST:
                    raise
                self.pace = slower(self.pace)
                if self.ranks.leads:
                    logger.warning("Warning: %s", error.going_on(self.pace.learning_rate))
                load_tensors(self.classifier, model)
                load_optimizer(self.optimizer, self._trained(), momentum)
                if self.average:
                    self.average.restore(average, self._steps())

    def _steps(self) -> int:
        return int(sum(h["steps"] for h in self.history[1:]))

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
        momentum = optimizer_tensors(self.optimizer, self._trained())
        average = self.average.tensors() if self.average else {}
        found = Checkpoint(self.fingerprint, model, self.best, momentum, self.history, average, self.pace)
        save_checkpoint(self.work_dir, found)


def choose_epoch(history: list[Figures], parts: TrainingParts, config: TrainingConfig) -> Selection:
    """`select_epoch` for a falling learning rate; without allowance on images that the champion was not trained on, and
    with a limit to what may be forgotten of others, unless the line between the weights offers what the epochs lost.
    """
    line = config.interpolation > 0 and len(parts.validation) > 0
    return select_epoch(
        [ValidationCounts(int(h["validation_right"]), int(h["validation_repaired"])) for h in history],
        clean_images=len(parts.choosing),
        failures=len(parts.validation),
        max_clean_drop=config.max_clean_drop,
        strict=parts.unseen and not line,
        remembered=not parts.unseen,
        annealed=True,
        max_forgotten=100.0 if line else FORGOTTEN,
    )


def count_right(classifier: Classifier, images: ImageSet, device: torch.device) -> int:
    """Of `right_answers`."""
    return int(right_answers(classifier, images, device).sum())


@torch.no_grad()
def right_answers(classifier: Classifier, images: ImageSet, device: torch.device) -> np.ndarray:
    """Which images, bool (N,), the classifier gets right in eval mode without autocast; an answer that is not finite is
    wrong.
    """
    set_mode(classifier, training=False)
    right, labels = np.zeros(len(images), bool), torch.from_numpy(images.labels)
    for start in range(0, len(images), EVALUATED_AT_ONCE):
        index = torch.arange(start, min(start + EVALUATED_AT_ONCE, len(images)))
        logits = classifier(to_unit(images.pixels[index].to(device))).cpu()
        right[index] = (logits.argmax(1) == labels[index]) & torch.isfinite(logits).all(1)
    return right
