"""Where a training stands: the epochs behind it, their validation figures, the best weights; on disk too."""

from __future__ import annotations

import json
import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repairops.core.training.averaging import AveragedWeights
from repairops.core.training.checkpoint import (
    Checkpoint,
    fingerprint_of,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    state_tensors,
    state_values,
)
from repairops.core.training.clock import memory_figures
from repairops.core.training.epoch import EpochRunner, Figures
from repairops.core.training.ranks import Ranks
from repairops.core.training.selection import Selection, ValidationCounts, select_epoch
from repairops.data.records import ImageSet
from repairops.model.device import set_mode
from repairops.model.network import Classifier, to_unit

logger = logging.getLogger("repairops")

ALONE = Ranks()
EVALUATED_AT_ONCE = 500  # images


@dataclass(frozen=True, eq=False)
class ValidationSets:
    """What is measured after each epoch: two sets that select, and the repair failures, which only inform.

    strict, remembered: see `select_epoch`.
    """

    clean: ImageSet
    failures: ImageSet
    repair_failures: ImageSet
    strict: bool = False
    remembered: bool = True

    def measure(self, classifier: Classifier, device: torch.device, ranks: Ranks) -> Figures:
        sets = (self.clean, self.failures, self.repair_failures)
        right = [ranks.total(count_right(classifier, s, device, ranks.rows(len(s)))) for s in sets]
        figures: Figures = {"validation_right": right[0], "validation_repaired": right[1]}
        names = ("validation_accuracy", "validation_repair_rate", "repair_failures_accuracy")
        totals = (len(self.clean), len(self.failures), len(self.repair_failures))
        return figures | {name: r / n for name, r, n in zip(names, right, totals, strict=True) if n}

    def select(self, history: list[Figures], max_clean_drop: float) -> Selection:
        counts = [ValidationCounts(int(h["validation_right"]), int(h["validation_repaired"])) for h in history]
        return select_epoch(
            counts,
            clean_images=len(self.clean),
            failures=len(self.failures),
            max_clean_drop=max_clean_drop,
            strict=self.strict,
            remembered=self.remembered,
            annealed=True,
        )


class TrainingState:
    """Where a training stands: the network, its optimizer, the epochs behind it and the best weights so far.

    Made from the checkpoint in work_dir where that has the same arguments, else from the champion (and writes the
    first checkpoint then, so that there always is one). Of several ranks the first reads and writes; the others
    take its state. With an average (`ema` above 0) that is what is measured, selected and kept as the best.
    """

    def __init__(
        self,
        classifier: Classifier,
        device: torch.device,
        validation: ValidationSets,
        optimizer: torch.optim.SGD,
        arguments: dict[str, Any],
        work_dir: Path,
        max_clean_drop: float,
        *,
        ema: float = 0.0,
        ranks: Ranks = ALONE,
    ) -> None:
        self.classifier, self.device, self.validation = classifier, device, validation
        self.optimizer, self.work_dir, self.max_clean_drop, self.ranks = optimizer, work_dir, max_clean_drop, ranks
        self.champion = state_tensors(classifier)
        self.fingerprint = fingerprint_of(arguments, self.champion)
        stored = load_checkpoint(work_dir, self.fingerprint) if ranks.leads else None
        self.history = self._history_of_first(stored)
        if stored:
            logger.info("Training goes on after epoch %d of an earlier run.", len(stored.history) - 1)
            load_tensors(classifier, stored.model)
            for name, parameter in self._trained():
                if name in stored.momentum:
                    optimizer.state[parameter]["momentum_buffer"] = stored.momentum[name].to(device)
        steps = int(sum(h["steps"] for h in self.history[1:]))
        self.average = AveragedWeights(classifier, ema, steps, stored.average if stored else None) if ema else None
        self.best = dict(stored.best) if stored else self.champion
        self._share_state(steps)
        if not self.history:
            self.history = [validation.measure(classifier, device, ranks)]
            self.selection = self._select()
            self._save(self.champion)
        self.selection = self._select()

    def record_epoch(self, runner: EpochRunner, deadline: float) -> None:
        """Trains and measures one more epoch, keeps its weights where they are the best, writes the checkpoint."""
        began, epoch = time.monotonic(), len(self.history)
        figures = runner.run(epoch, deadline)
        live = state_tensors(self.classifier)
        with self.average.in_place() if self.average else nullcontext():
            figures |= self.validation.measure(self.classifier, self.device, self.ranks)
            measured = state_tensors(self.classifier)
        figures |= memory_figures(self.device)
        self.history.append(self.ranks.of_first(figures | {"seconds": time.monotonic() - began}))
        self.selection = self._select()
        if self.selection.epoch == epoch:
            self.best = measured
        elif self.selection.epoch == 0:
            self.best = self.champion
        self._save(live)

    def finish(self) -> None:
        load_tensors(self.classifier, self.best)
        self.ranks.tensors_of_first(state_values(self.classifier))
        self.classifier.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        set_mode(self.classifier, training=False)

    def _select(self) -> Selection:
        return self.validation.select(self.history, self.max_clean_drop)

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.classifier.named_parameters() if p.requires_grad]

    def _history_of_first(self, stored: Checkpoint | None) -> list[Figures]:
        found: list[Figures] = json.loads(self.ranks.text_of_first(json.dumps(stored.history if stored else [])))
        return found

    def _share_state(self, steps: int) -> None:
        """Gives the other ranks what the first one read, so that all go on alike; the best weights are its alone."""
        self.ranks.tensors_of_first(state_values(self.classifier))
        if self.average:
            self.ranks.tensors_of_first(self.average.shadow.values())
        if not self.ranks.alone and steps:
            parameters = [p for _, p in self._trained()]
            for parameter in parameters:
                self.optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
            self.ranks.tensors_of_first(self.optimizer.state[p]["momentum_buffer"] for p in parameters)

    def _save(self, model: dict[str, Tensor]) -> None:
        if not self.ranks.leads:
            return
        buffers = ((name, self.optimizer.state[p].get("momentum_buffer")) for name, p in self._trained())
        momentum = {name: b.to("cpu", copy=True).contiguous() for name, b in buffers if b is not None}
        average = self.average.tensors() if self.average else {}
        save_checkpoint(self.work_dir, Checkpoint(self.fingerprint, model, self.best, momentum, self.history, average))


@torch.no_grad()
def count_right(classifier: Classifier, images: ImageSet, device: torch.device, rows: slice = slice(None)) -> int:
    """Images that the classifier, in eval mode without autocast, gets right; an answer that is not finite is wrong."""
    set_mode(classifier, training=False)
    right = 0
    labels = torch.from_numpy(images.labels)
    own = torch.arange(len(images))[rows]
    for start in range(0, len(own), EVALUATED_AT_ONCE):
        index = own[start : start + EVALUATED_AT_ONCE]
        logits = classifier(to_unit(images.pixels[index].to(device))).cpu()
        found = (logits.argmax(1) == labels[index]) & torch.isfinite(logits).all(1)
        right += int(found.sum())
    return right
