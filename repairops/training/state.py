"""Where a training stands: the epochs behind it, their validation figures, the best weights; on disk too."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repairops.device import set_mode
from repairops.network import Classifier, to_unit
from repairops.records import ImageSet
from repairops.training.checkpoint import (
    Checkpoint,
    fingerprint_of,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    state_tensors,
)
from repairops.training.epoch import EpochRunner, Figures
from repairops.training.selection import Selection, ValidationCounts, select_epoch

logger = logging.getLogger("repairops")


@dataclass(frozen=True, eq=False)
class ValidationSets:
    """What is measured after each epoch: two sets that select, and the repair failures, which only inform."""

    clean: ImageSet
    failures: ImageSet
    repair_failures: ImageSet

    def measure(self, classifier: Classifier, device: torch.device) -> Figures:
        right = [count_right(classifier, s, device) for s in (self.clean, self.failures, self.repair_failures)]
        figures: Figures = {"validation_right": right[0], "validation_repaired": right[1]}
        names = ("validation_accuracy", "validation_repair_rate", "repair_failures_accuracy")
        totals = (len(self.clean), len(self.failures), len(self.repair_failures))
        return figures | {name: r / n for name, r, n in zip(names, right, totals, strict=True) if n}

    def select(self, history: list[Figures], max_clean_drop: float) -> Selection:
        counts = [ValidationCounts(int(h["validation_right"]), int(h["validation_repaired"])) for h in history]
        return select_epoch(
            counts, clean_images=len(self.clean), failures=len(self.failures), max_clean_drop=max_clean_drop
        )


class TrainingState:
    """Where a training stands: the network, its optimizer, the epochs behind it and the best weights so far.

    Made from the checkpoint in work_dir where that has the same arguments, else from the champion (and writes the
    first checkpoint then, so that there always is one).
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
    ) -> None:
        self.classifier, self.device, self.validation = classifier, device, validation
        self.optimizer, self.work_dir, self.max_clean_drop = optimizer, work_dir, max_clean_drop
        self.champion = state_tensors(classifier)
        self.fingerprint = fingerprint_of(arguments, self.champion)
        stored = load_checkpoint(work_dir, self.fingerprint)
        classifier.to(device)
        if stored:
            logger.info("Training goes on after epoch %d of an earlier run.", len(stored.history) - 1)
            load_tensors(classifier, stored.model)
            for name, parameter in self._trained():
                if name in stored.momentum:
                    optimizer.state[parameter]["momentum_buffer"] = stored.momentum[name].to(device)
            self.best, self.history = dict(stored.best), stored.history
            self.selection = self._select()
        else:
            self.best, self.history = self.champion, [validation.measure(classifier, device)]
            self.selection = self._select()
            self._save(self.champion)

    def record_epoch(self, runner: EpochRunner, deadline: float) -> None:
        """Trains and measures one more epoch, keeps its weights where they are the best, writes the checkpoint."""
        began, epoch = time.monotonic(), len(self.history)
        figures = runner.run(epoch, deadline)
        figures |= self.validation.measure(self.classifier, self.device)
        self.history.append(figures | {"seconds": time.monotonic() - began})
        self.selection = self._select()
        model = state_tensors(self.classifier)
        if self.selection.epoch == epoch:
            self.best = model
        elif self.selection.epoch == 0:
            self.best = self.champion
        self._save(model)

    def finish(self) -> None:
        load_tensors(self.classifier, self.best)
        self.classifier.to("cpu")
        set_mode(self.classifier, training=False)

    def _select(self) -> Selection:
        return self.validation.select(self.history, self.max_clean_drop)

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.classifier.named_parameters() if p.requires_grad]

    def _save(self, model: dict[str, Tensor]) -> None:
        buffers = ((name, self.optimizer.state[p].get("momentum_buffer")) for name, p in self._trained())
        momentum = {name: b.to("cpu", copy=True).contiguous() for name, b in buffers if b is not None}
        checkpoint = Checkpoint(self.fingerprint, model, self.best, momentum, self.history)
        save_checkpoint(self.work_dir, checkpoint)


@torch.no_grad()
def count_right(classifier: Classifier, images: ImageSet, device: torch.device, batch_size: int = 500) -> int:
    """Images that the classifier, in eval mode and float32, gets right; an answer that is not finite is wrong."""
    set_mode(classifier, training=False)
    right = 0
    labels = torch.from_numpy(images.labels)
    for start in range(0, len(images), batch_size):
        logits = classifier(to_unit(images.pixels[start : start + batch_size].to(device))).cpu()
        found = (logits.argmax(1) == labels[start : start + batch_size]) & torch.isfinite(logits).all(1)
        right += int(found.sum())
    return right
