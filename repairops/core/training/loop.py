"""The training loop: one pass from a champion to its selected fine-tuned weights."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor

from repairops.config import TrainingConfig, derive_seed
from repairops.core.augment.geometry import random_crop_flip
from repairops.core.methods.base import Method, MethodData
from repairops.core.parts import TrainingParts
from repairops.core.training.checkpoint import checkpoint_path, fingerprint_of, load_tensors, state_tensors
from repairops.core.training.clock import StepClock, memory_figures, step_shares
from repairops.core.training.distributed import (
    current_ranks,
    synchronised_statistics,
    training_network,
    use_channels_last,
)
from repairops.core.training.epoch import EpochRunner, epoch_steps, make_batch_source
from repairops.core.training.pace import choose_optimizer, fit_pace, make_optimizer
from repairops.core.training.selection import is_over, seconds_left
from repairops.core.training.state import Figures, TrainingState
from repairops.data.records import ImageSet
from repairops.errors import DatasetNotFound, InvalidOption, NetworkFails, NoGradient
from repairops.model.device import device_name, resolve_device, seeded, set_mode, use_bfloat16
from repairops.model.network import Classifier, in_network, own_copy
from repairops.outcome.sections import Pace


@dataclass(frozen=True)
class TrainingResult:
    """What a training did; the classifier holds the weights of `best_epoch` (0 = the champion's own).

    champion: the champion's figures on the validation parts. history: one entry for each trained epoch: loss, the
    method's own figures, learning_rate (of the last step), steps, seconds, train_seconds, and as for the champion
    the shares (0..1) validation_accuracy, validation_repair_rate and repair_failures_accuracy with the counts
    validation_right and validation_repaired. A share of nothing is left out. repair_failures_accuracy near 1
    beside a low validation_repair_rate is overfitting.
    note: empty, or what a reviewer must know of the choice.
    seconds: of this call. images_per_second: clean train images, whatever the method adds to them. step_shares: of
    the steps' time, by phase (`clock.PHASES`). peak_memory_mb: of the process, and of the GPU where there is one.
    optimizer, pace: by which it was trained, 'sgd' or 'adamw', and how fast.
    """

    best_epoch: int
    champion: Figures
    history: list[Figures]
    note: str
    seconds: float
    images_per_second: float
    device: str
    train_images: int
    validation_images: int
    validation_failures: int
    step_shares: dict[str, float]
    peak_memory_mb: dict[str, float]
    channels_last: bool
    bfloat16: bool
    ranks: int
    validation_unseen: bool = False
    optimizer: str = "sgd"
    pace: Pace = field(default_factory=lambda: Pace(0.0))


def train(
    classifier: Classifier,
    method_factory: Callable[[MethodData], Method],
    parts: TrainingParts,
    config: TrainingConfig,
    *,
    seed: int,
    work_dir: Path,
    method_key: str,
    on_epoch: Callable[[int, Figures], None] = lambda epoch, figures: None,
    teacher: Classifier | None = None,
) -> TrainingResult:
    """Fine-tunes the champion in place, and leaves the selected epoch's weights in it, on the CPU, in eval mode.

    The validation failures and the clean images that choose pick the epoch (`selection.select_epoch`). Nothing here
    sees the images that judge. Under torchrun all processes call this with the same arguments.
    work_dir: takes one checkpoint after each epoch. A later call with the same arguments (the champion's weights
    too) goes on after it; on the CPU it then ends with the same weights, bit for bit, as without a stop.
    method_key: names the method and all its settings, for that comparison.
    on_epoch: called with (epoch, figures) once its checkpoint is written, epoch 0 being the champion; a resumed
    training repeats the calls for the epochs that it has behind it.
    teacher: what `MethodData.champion` copies; None: the champion that is fine-tuned.

    Raises DeviceNotAvailable, InvalidOption, DatasetNotFound, NotFineTunable, NetworkFails, LossNotFinite.
    """
    _check(config, parts)
    began, device, ranks = time.monotonic(), resolve_device(config.device), current_ranks()
    amp = use_bfloat16(config.amp, device)
    classifier.to(device)
    channels_last = use_channels_last(classifier, device, amp)
    optimizer = make_optimizer(classifier, config)
    arguments = _arguments(parts, config, device, amp, seed, method_key)
    if teacher is not None:
        arguments["teacher"] = fingerprint_of({}, state_tensors(teacher))
    run = TrainingState(classifier, optimizer, parts, config, arguments, work_dir, device, ranks)
    for epoch, figures in enumerate(run.history):
        on_epoch(epoch, figures)

    if not is_over(run.history, run.selection.epoch, config):
        jitter = make_jitter(parts.train_set, config.crop_padding, config.horizontal_flip)
        clock = StepClock(device)
        as_trained = partial(training_network, clock=clock, amp=amp, compiled=config.compile)

        def champion() -> Classifier:
            if teacher is None:
                return as_trained(frozen_copy(classifier, run.champion))
            return as_trained(frozen_copy(teacher, state_tensors(teacher)).to(device))

        with seeded(derive_seed(seed, "training", "method"), device):
            data = MethodData(parts.sample, parts.failures, parts.clusters, jitter, device, champion)
            method = method_factory(dataclasses.replace(data, replayed=parts.replayed))
        with synchronised_statistics(classifier, device, ranks), _large_enough(config.batch_size):
            runner = EpochRunner(
                network=as_trained(classifier, ranks=ranks),
                method=method,
                optimizer=optimizer,
                source=make_batch_source(parts.train_set, parts.rows, device, config.workers),
                jitter=jitter,
                config=config,
                seed=seed,
                checkpoint=checkpoint_path(work_dir),
                ranks=ranks,
                clock=clock,
                average=run.average,
            )
            if run.pace is None:
                run.pace = _find_pace(runner, run)
            while not is_over(run.history, run.selection.epoch, config):
                run.record_epoch(runner.run, time.monotonic() + seconds_left(run.history, config))
                on_epoch(len(run.history) - 1, run.history[-1])
    run.finish()
    return _result(run, time.monotonic() - began, channels_last=channels_last, bfloat16=amp)


def check_trainable(champion: Classifier) -> None:
    """Tries a copy of the champion on two images, in train mode, forward and backward, on the CPU.

    What would stop a training is known before anything is fitted to the failures. Raises NotCopyable, NotAClassifier,
    NetworkFails, NoGradient.
    """
    spec, tried = champion.spec, own_copy(champion)
    images = torch.linspace(0, 1, 2 * spec.channels * spec.height * spec.width)
    set_mode(tried, training=True)
    with torch.enable_grad(), seeded(0, torch.device("cpu")):
        answers = tried(images.view(2, spec.channels, spec.height, spec.width))
        if not answers.requires_grad:
            raise NoGradient("The model", "its answers carry no gradient")
        with in_network("in its backward pass"):
            answers.sum().backward()


@contextmanager
def _large_enough(batch_size: int) -> Iterator[None]:
    """Raises InvalidOption where a BatchNorm layer refuses the batches; one image is enough for some layers."""
    try:
        yield
    except NetworkFails as error:
        if "more than 1 value per channel" not in str(error):
            raise
        wanted = "more: a BatchNorm layer of the model needs more than one image in each process"
        raise InvalidOption("training.batch_size", batch_size, wanted) from error


def make_jitter(train_set: ImageSet, padding: int, flip: bool) -> Callable[[Tensor, Generator], Tensor]:
    """The loop's random crop and flip; padding -1 = an eighth of the shorter side, in pixels."""
    pixels = min(train_set.pixels.shape[2:]) // 8 if padding < 0 else padding
    return lambda images, generator: random_crop_flip(images, pixels, flip, generator)


def _find_pace(runner: EpochRunner, run: TrainingState) -> Pace:
    """The configured rate, or one that fits; the weights are the champion's before and after."""
    if run.config.learning_rate:
        return Pace(run.config.learning_rate)
    found = fit_pace(runner.optimizer, runner.probe(), run.config.momentum)
    load_tensors(run.classifier, run.champion)
    return run.ranks.of_first(lambda: found)


def frozen_copy(classifier: Classifier, tensors: Mapping[str, Tensor]) -> Classifier:
    """A copy with other weights, in eval mode and without gradients: the champion beside what becomes of it."""
    other = own_copy(classifier)
    load_tensors(other, tensors)
    set_mode(other.requires_grad_(False), training=False)
    return other


def _result(run: TrainingState, seconds: float, *, channels_last: bool, bfloat16: bool) -> TrainingResult:
    config, parts, trained, note = run.config, run.parts, run.history[1:], run.selection.note
    steps = sum(h["steps"] for h in trained)
    planned = config.epochs * epoch_steps(len(parts.rows), config)
    if seconds_left(run.history, config) <= 0 and steps < planned:
        note = f"{note} Training stopped after {steps:.0f} of {planned} steps: max_minutes was reached.".strip()
    if run.pace and run.pace.lowered:
        times = "once" if run.pace.lowered == 1 else "twice"
        note = f"{note} The loss was not finite {times}; training went on at a tenth of the learning rate.".strip()
    images = steps * run.ranks.world * (min(config.batch_size, len(parts.rows)) // run.ranks.world)
    return TrainingResult(
        best_epoch=run.selection.epoch,
        champion=run.history[0],
        history=trained,
        note=note,
        seconds=seconds,
        images_per_second=images / max(sum(h["train_seconds"] for h in trained), 1e-9),
        device=device_name(run.device),
        train_images=len(parts.rows),
        validation_images=len(parts.choosing),
        validation_failures=len(parts.validation),
        step_shares=step_shares(trained),
        peak_memory_mb={name.removesuffix("_mb"): value for name, value in memory_figures(run.device).items()},
        channels_last=channels_last,
        bfloat16=bfloat16,
        ranks=run.ranks.world,
        validation_unseen=parts.unseen,
        optimizer=choose_optimizer(run.classifier, config.optimizer),
        pace=run.pace or Pace(config.learning_rate),
    )


def _arguments(
    parts: TrainingParts, config: TrainingConfig, device: torch.device, amp: bool, seed: int, method_key: str
) -> dict[str, object]:
    """All that a training depends on beside the champion's weights, as plain values."""
    settings = dataclasses.asdict(config) | {"device": device.type, "amp": amp, "workers": 0}
    images = [parts.train_set, parts.choosing, parts.failures.images, parts.validation.images]
    images += [parts.replayed.images] if parts.replayed is not None else []
    clusters = hashlib.sha256(parts.clusters.assignments.tobytes() + parts.clusters.probabilities.tobytes()).hexdigest()
    sets = [found.digest for found in images]
    return {"settings": settings, "seed": seed, "method": method_key, "sets": sets, "clusters": clusters}


def _check(config: TrainingConfig, parts: TrainingParts) -> None:
    if config.compile and not current_ranks().alone:
        raise InvalidOption("training.compile", config.compile, "false under torchrun")
    if not len(parts.train_set):
        raise DatasetNotFound("train set", "it holds no images", "Give a train set with images.")
