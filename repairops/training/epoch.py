"""One epoch of training: batches, steps of SGD, the time limit, progress."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from repairops.config import derive_seed
from repairops.device import fits_on, seeded, set_mode
from repairops.errors import LossNotFinite
from repairops.methods.base import Method
from repairops.network import Classifier, to_unit
from repairops.records import ImageSet
from repairops.training.averaging import AveragedWeights
from repairops.training.clock import StepClock
from repairops.training.ranks import Ranks

logger = logging.getLogger("repairops")

ESTIMATE_AFTER = 5  # steps
COPIED_AT_ONCE = 4096  # images, on their way to the GPU

Figures = dict[str, float]


@dataclass(frozen=True, eq=False)
class BatchSource:
    """The training part of the train set; its pixels lie on the GPU where they fit, else batches are copied.

    pixels uint8 (N, C, H, W), labels int64 (N,) and index int64 (K,), the rows that belong to the part.
    """

    pixels: Tensor
    labels: Tensor
    index: Tensor
    device: torch.device

    def __len__(self) -> int:
        return len(self.index)

    def take(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Images float32 (B, C, H, W) in 0..1 and labels (B,) on the device, of positions 0..K-1."""
        rows = self.index[positions]
        return to_unit(self.pixels[rows.to(self.pixels.device)].to(self.device)), self.labels[rows].to(self.device)


def make_batch_source(train_set: ImageSet, part: np.ndarray, device: torch.device) -> BatchSource:
    index, labels = torch.from_numpy(part), torch.from_numpy(train_set.labels)
    pixels = train_set.pixels
    if not fits_on(device, len(part) * pixels[0].numel()):
        return BatchSource(pixels, labels, index, device)
    copied = torch.empty((len(part), *pixels.shape[1:]), dtype=pixels.dtype, device=device)
    for start in range(0, len(part), COPIED_AT_ONCE):
        copied[start : start + COPIED_AT_ONCE] = pixels[index[start : start + COPIED_AT_ONCE]].to(device)
    return BatchSource(copied, labels[index], torch.arange(len(part)), device)


@dataclass(frozen=True, eq=False)
class EpochRunner:
    """Runs epochs by number; all randomness of an epoch comes from the seed and that number.

    network: the classifier, or its mixed-precision form. learning_rate: at the first step; it falls along half a
    cosine to a thousandth at the last step of the last epoch. checkpoint: named where the loss is not finite.
    ranks, clock: also inside `network`, which shares a batch out and times its forward passes.
    """

    network: Classifier
    method: Method
    optimizer: torch.optim.SGD
    source: BatchSource
    jitter: Callable[[Tensor, Generator], Tensor]
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    checkpoint: Path
    ranks: Ranks
    clock: StepClock
    average: AveragedWeights | None = None

    @property
    def steps(self) -> int:
        """Steps of one epoch; what is left over after whole batches waits for another epoch's shuffle."""
        return max(1, len(self.source) // self.batch_size)

    def run(self, epoch: int, deadline: float) -> Figures:
        """Trains epoch `epoch` (1 = the first), which ends early at `deadline` (of time.monotonic()).

        Returns the means of the loss and the method's figures, learning_rate, steps, train_seconds and the timed
        steps' seconds by phase. Raises LossNotFinite, before a loss that is not finite reaches the weights.
        """
        seed = derive_seed(self.seed, "training", epoch)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.source), generator=generator)
        sums: dict[str, float] = defaultdict(float)
        done, rate, first_step = 0, 0.0, (epoch - 1) * self.steps
        began = timed_from = time.monotonic()
        set_mode(self.network, training=True)
        own = derive_seed(seed, "rank", self.ranks.rank) if self.ranks.rank else seed  # dropout, of its own rows
        with torch.enable_grad(), seeded(own, self.source.device), self._progress(epoch) as bar:
            for positions in torch.split(order[: self.steps * self.batch_size], self.batch_size):
                rate = self._learning_rate(first_step + done)
                for name, value in self._step(positions, rate, generator, first_step + done).items():
                    sums[name] += value
                done += 1
                bar.update()
                if epoch == 1 and done == 1:
                    timed_from = time.monotonic()  # the first step also warms up
                if epoch == 1 and done == 1 + ESTIMATE_AFTER:
                    self._log_estimate(time.monotonic() - timed_from)
                if math.isfinite(deadline) and self.ranks.total(self.ranks.leads and time.monotonic() > deadline):
                    break
        if not all(bool(torch.isfinite(p).all()) for g in self.optimizer.param_groups for p in g["params"]):
            raise LossNotFinite(first_step + done, math.nan, self.checkpoint)
        means = {name: total / done for name, total in sums.items()}
        times = {"train_seconds": time.monotonic() - began, **self.clock.take()}
        return means | {"learning_rate": rate, "steps": done, **times}

    def _step(self, positions: Tensor, rate: float, generator: Generator, step: int) -> Figures:
        """One step; a loss without a gradient (a method that only renews statistics) changes no weight."""
        self.clock.begin_step(step)
        with self.clock.phase("augmentation"):
            images, labels = self.source.take(positions)
            loss, figures = self.method.loss(self.network, self.jitter(images, generator), labels, generator)
        value = loss.item()
        if not math.isfinite(value):
            raise LossNotFinite(step + 1, value, self.checkpoint)
        if loss.requires_grad:
            with self.clock.phase("backward"):
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                self.ranks.sum_gradients(self.network.parameters())
            with self.clock.phase("update"):
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                self.optimizer.step()
        if self.average:
            self.average.update()
        return {"loss": value, **figures}

    def _learning_rate(self, step: int) -> float:
        fraction = step / max(1, self.epochs * self.steps - 1)
        return self.learning_rate * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * fraction)))

    def _progress(self, epoch: int) -> Any:
        """On stderr, only where that is a terminal; the time left is that of the whole training."""
        from tqdm import tqdm

        return tqdm(
            desc=f"epoch {epoch}/{self.epochs}",
            total=self.epochs * self.steps,
            initial=(epoch - 1) * self.steps,
            unit="step",
            disable=None if self.ranks.leads else True,
            leave=epoch == self.epochs,
        )

    def _log_estimate(self, seconds: float) -> None:
        """On the CPU, once: how long this training will take, from the time of ESTIMATE_AFTER steps."""
        if self.source.device.type == "cpu" and self.ranks.leads:
            steps = self.epochs * self.steps
            logger.info(
                "Training on the CPU: about %.1f minutes for %d epochs of %d steps (%.0f train images/s).",
                seconds / ESTIMATE_AFTER * steps / 60, self.epochs, self.steps,
                ESTIMATE_AFTER * self.batch_size / max(seconds, 1e-9),
            )  # fmt: skip
