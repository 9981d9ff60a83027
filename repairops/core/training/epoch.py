"""One epoch of training: where its batches come from, its steps, the time limit, progress."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from repairops.config import TrainingConfig, derive_seed
from repairops.core.methods.base import Method
from repairops.core.training.clock import StepClock
from repairops.core.training.distributed import Ranks
from repairops.core.training.pace import PROBES, WARM_UP
from repairops.core.training.state import AveragedWeights, Figures
from repairops.data.records import ImageSet
from repairops.errors import LossNotFinite
from repairops.model.device import fits_on, seeded, set_mode
from repairops.model.network import Classifier, to_unit
from repairops.outcome.sections import Pace

logger = logging.getLogger("repairops")

ESTIMATE_AFTER = 5  # steps
COPIED_AT_ONCE = 4096  # images, on their way to the GPU
LARGE = 2**30  # bytes; more pixels than this may lie in a memory-mapped file, so they are read ahead
AUTO_WORKERS = 2

Batch = tuple[Tensor, Tensor]


def epoch_steps(train_images: int, config: TrainingConfig) -> int:
    """Whole batches of an epoch that takes `epoch_images` (0 = all); what is left over waits for another's shuffle.

    As many more as make `least_steps` of all epochs.
    """
    once = max(1, min(train_images, config.epoch_images or train_images) // config.batch_size)
    return max(once, math.ceil(config.least_steps / config.epochs))


def draw_batches(train_images: int, steps: int, batch_size: int, generator: Generator) -> list[Tensor]:
    """Positions of each step's images, int64 (batch,): shuffled, and again where all have had their turn."""
    size = min(batch_size, train_images)
    each = train_images // size * size
    passes = [torch.randperm(train_images, generator=generator)[:each] for _ in range(-(-steps * size // each))]
    return list(torch.split(torch.cat(passes)[: steps * size], size))


@dataclass(frozen=True, eq=False)
class BatchSource:
    """The training part of the train set; its pixels lie on the GPU where they fit, else batches are copied.

    pixels uint8 (N, C, H, W), labels int64 (N,) and index int64 (K,), the rows that belong to the part.
    workers: threads that fetch batches ahead; 0 = none. What they fetch does not depend on them.
    """

    pixels: Tensor
    labels: Tensor
    index: Tensor
    device: torch.device
    workers: int = 0

    def __len__(self) -> int:
        return len(self.index)

    def take(self, positions: Tensor) -> Batch:
        """Images float32 (B, C, H, W) in 0..1 and labels (B,) on the device, of positions 0..K-1."""
        rows = self.index[positions]
        found = self.pixels[rows.to(self.pixels.device)]
        if found.device != self.device:
            found = found.pin_memory().to(self.device, non_blocking=True)
        return to_unit(found), self.labels[rows].to(self.device)

    def stream(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        """`take` of each batch of positions, in order."""
        if not self.workers:
            yield from map(self.take, batches)
            return
        left = iter(batches)
        with ThreadPoolExecutor(self.workers, "batches") as pool:
            waiting: deque[Future[Batch]] = deque()
            waiting.extend(pool.submit(self.take, positions) for positions in islice(left, 2 * self.workers))
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(pool.submit(self.take, positions) for positions in islice(left, 1))
                yield batch


def make_batch_source(train_set: ImageSet, part: np.ndarray, device: torch.device, workers: int = -1) -> BatchSource:
    """workers: -1 = none where the pixels lie where they are needed, else AUTO_WORKERS."""
    index, labels = torch.from_numpy(part), torch.from_numpy(train_set.labels)
    pixels = train_set.pixels
    size = len(part) * pixels[0].numel()
    if not fits_on(device, size):
        ahead = AUTO_WORKERS if device.type == "cuda" or size > LARGE else 0
        return BatchSource(pixels, labels, index, device, ahead if workers < 0 else workers)
    copied = torch.empty((len(part), *pixels.shape[1:]), dtype=pixels.dtype, device=device)
    for start in range(0, len(part), COPIED_AT_ONCE):
        copied[start : start + COPIED_AT_ONCE] = pixels[index[start : start + COPIED_AT_ONCE]].to(device)
    return BatchSource(copied, labels[index], torch.arange(len(part)), device)


@dataclass(frozen=True, eq=False)
class EpochRunner:
    """Runs epochs by number; all randomness of an epoch comes from the seed and that number.

    network: the classifier as it is trained. checkpoint: named where the loss is not finite. ranks, clock: also inside
    `network`. Each rank draws and trains its share of each batch.
    """

    network: Classifier
    method: Method
    optimizer: torch.optim.Optimizer
    source: BatchSource
    jitter: Callable[[Tensor, Generator], Tensor]
    config: TrainingConfig
    seed: int
    checkpoint: Path
    ranks: Ranks
    clock: StepClock
    average: AveragedWeights | None = None

    @property
    def steps(self) -> int:
        """Of one epoch."""
        return epoch_steps(len(self.source), self.config)

    def probe(self) -> Iterator[list[Tensor]]:
        """The gradients of some batches, drawn by the seed, by parameter of the optimizer (zeros where it has none).

        Weights stay; running statistics move.
        """
        seed = derive_seed(self.seed, "training", "pace")
        generator = torch.Generator().manual_seed(seed)
        batches = draw_batches(len(self.source), min(PROBES, self.steps), self.config.batch_size, generator)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        set_mode(self.network, training=True)
        with torch.enable_grad(), seeded(derive_seed(seed, "rank", self.ranks.rank), self.source.device):
            for batch in batches:
                images, labels = self.source.take(self.ranks.share(batch))
                loss, _ = self.method.loss(self.network, self.jitter(images, generator), labels, generator)
                self.optimizer.zero_grad(set_to_none=True)
                if loss.requires_grad:
                    loss.backward()  # type: ignore[no-untyped-call]
                yield [torch.zeros_like(p) if p.grad is None else p.grad.detach() for p in parameters]
        self.optimizer.zero_grad(set_to_none=True)
        self.clock.take()

    def run(self, epoch: int, deadline: float, pace: Pace) -> Figures:
        """Trains epoch `epoch` (1 = the first), which ends early at `deadline` (of time.monotonic()).

        pace: its learning rate falls along half a cosine to a thousandth at the last step of the last epoch; with AdamW
        it rises before, over the first steps.

        Returns the means of the loss and the method's figures, learning_rate, steps, train_seconds and the timed
        steps' seconds by phase. Raises LossNotFinite, before a loss that is not finite reaches the weights.
        """
        seed = derive_seed(self.seed, "training", epoch)
        generator = torch.Generator().manual_seed(seed)
        whole = draw_batches(len(self.source), self.steps, self.config.batch_size, generator)
        sums: dict[str, float] = defaultdict(float)
        done, first_step = 0, (epoch - 1) * self.steps
        began = timed_from = time.monotonic()
        set_mode(self.network, training=True)
        own = seed
        if self.ranks.rank:  # the order is that of all ranks; what is drawn for the rows of each is its own
            own = derive_seed(seed, "rank", self.ranks.rank)
            generator.manual_seed(own)
        with torch.enable_grad(), seeded(own, self.source.device), self._progress(epoch) as advance:
            batches = self.source.stream([self.ranks.share(batch) for batch in whole])
            while (figures := self._step(batches, generator, first_step + done, pace)) is not None:
                for name, value in figures.items():
                    sums[name] += value
                done += 1
                advance()
                if epoch == 1 and done == 1:
                    timed_from = time.monotonic()  # the first step also warms up
                if epoch == 1 and done == 1 + ESTIMATE_AFTER:
                    self._log_estimate(time.monotonic() - timed_from)
                if math.isfinite(deadline) and self.ranks.mean([time.monotonic() > deadline])[0]:
                    break
        if not all(bool(torch.isfinite(p).all()) for g in self.optimizer.param_groups for p in g["params"]):
            raise LossNotFinite(first_step + done, math.nan, self.checkpoint, pace.learning_rate)
        means = {name: total / done for name, total in sums.items()}
        times = {"train_seconds": time.monotonic() - began, **self.clock.take()}
        return means | {"learning_rate": self._learning_rate(first_step + done - 1, pace), "steps": done, **times}

    def _step(self, batches: Iterator[Batch], generator: Generator, step: int, pace: Pace) -> Figures | None:
        """One step, None where no batch is left. A loss without a gradient (of batch_norm) changes no weight."""
        self.clock.begin_step(step)
        with self.clock.phase("augmentation"):
            batch = next(batches, None)
            if batch is None:
                return None
            images, labels = batch
            loss, figures = self.method.loss(self.network, self.jitter(images, generator), labels, generator)
        figures = {"loss": loss.item(), **figures}
        figures = dict(zip(figures, self.ranks.mean([*figures.values()]), strict=True))
        if not math.isfinite(figures["loss"]):
            raise LossNotFinite(step + 1, figures["loss"], self.checkpoint, pace.learning_rate)
        if loss.requires_grad:
            with self.clock.phase("backward"):
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
            with self.clock.phase("update"):
                for group in self.optimizer.param_groups:
                    group["lr"] = self._learning_rate(step, pace)
                    if pace.clip:
                        torch.nn.utils.clip_grad_norm_(group["params"], pace.clip)
                self.optimizer.step()
        if self.average:
            self.average.update()
        return figures

    def _learning_rate(self, step: int, pace: Pace) -> float:
        last = max(1, self.config.epochs * self.steps - 1)
        rising = min(1.0, (step + 1) / max(1, WARM_UP * last)) if isinstance(self.optimizer, torch.optim.AdamW) else 1.0
        return pace.learning_rate * rising * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * (step / last))))

    @contextmanager
    def _progress(self, epoch: int) -> Iterator[Callable[[], None]]:
        """A bar on stderr, only where that is a terminal, and gone after the epoch; called once a step.

        The time left is that of the whole training. What is written to stderr meanwhile appears above it.
        """
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        hidden = not (console.is_terminal and self.ranks.leads)
        with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
            task = bar.add_task(
                f"epoch {epoch}/{self.config.epochs}, steps",
                total=self.config.epochs * self.steps,
                completed=(epoch - 1) * self.steps,
            )
            yield lambda: bar.advance(task)

    def _log_estimate(self, seconds: float) -> None:
        """On the CPU, once: how long this training will take, from the time of ESTIMATE_AFTER steps."""
        if self.source.device.type == "cpu" and self.ranks.leads:
            steps = self.config.epochs * self.steps
            logger.info(
                "Training on the CPU: about %.1f minutes for %d epochs of %d steps (%.0f train images/s).",
                seconds / ESTIMATE_AFTER * steps / 60, self.config.epochs, self.steps,
                ESTIMATE_AFTER * self.config.batch_size / max(seconds, 1e-9),
            )  # fmt: skip
