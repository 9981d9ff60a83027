"""The same budget for every rival: the time that plain fine-tuning takes for so many steps, turned into whole steps.

A limit in seconds would make a cell's figures depend on the machine and on what else it does. So what a step costs is
counted in steps of plain fine-tuning, to a tenth: measured once for each network and rival, and kept in the grid's
folder. The steps that follow from it are among a cell's arguments, so a cell can be repeated bit for bit, and cells of
two machines stand in one table.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from repairops.bench.champions import digest_of, input_spec
from repairops.bench.corruptions import corrupt_pixels
from repairops.bench.data import kept
from repairops.bench.networks import build_network
from repairops.bench.rivals import Rival, make_rival, rival_style
from repairops.config import ClusteringConfig, TrainingConfig
from repairops.core.clustering import cluster_failures
from repairops.core.looks import fit_to_failures
from repairops.core.methods import STYLED, MethodData
from repairops.core.parts import TrainingParts
from repairops.core.training.distributed import use_channels_last
from repairops.core.training.loop import make_jitter
from repairops.data.records import FailureBatch, ImageSet
from repairops.data.sets import from_arrays
from repairops.errors import RepairError
from repairops.model.device import MixedPrecision, resolve_device, seeded, set_mode, use_bfloat16
from repairops.model.network import Classifier, to_unit

WARM_UP, MEASURED, REPEATS = 2, 4, 3  # steps, steps, times; the median counts
FAILURES = 320  # of the stand-in failure batch


@dataclass(frozen=True)
class StepTime:
    """seconds: of one training step; NaN where the rival does not run on this network, and error says why."""

    seconds: float
    error: str = ""


def step_time(network: str, chosen: Rival, train_set: ImageSet, training: TrainingConfig, folder: Path) -> StepTime:
    """From the grid's folder, or measured now and kept there: one measurement for all processes that share it.

    Rivals whose steps cost the same by their settings, as with another learning rate, share it too.
    """
    arguments = {
        "network": network, "method": dataclasses.asdict(chosen.config),
        "style": dataclasses.asdict(chosen.style_config), "twist": chosen.twist, "batch_size": training.batch_size,
        "amp": training.amp, "device": training.device, "shape": list(train_set.pixels.shape[1:]),
    }  # fmt: skip
    path = folder / f"{network}-{chosen.method}-{digest_of(arguments)}.json"

    def write(part: Path) -> None:
        try:
            found = StepTime(_measure(network, chosen, train_set, training))
        except RepairError as error:
            found = StepTime(math.nan, str(error))
        part.write_text(json.dumps({**arguments, **dataclasses.asdict(found)}), encoding="utf-8")

    stored = json.loads(kept(path, write).read_text(encoding="utf-8"))
    return StepTime(stored["seconds"], stored["error"])


def within_budget(
    training: TrainingConfig, cost: float, budget: float, train_images: int, checks: int
) -> TrainingConfig:
    """The training configuration whose epochs make up the budget, to a step an epoch.

    cost: of a step, in the budget's unit. train_images: how many the loop could use. There are at least `checks`
    epochs, since the checkpoint is chosen between them; where the budget is less than that many passes, each epoch
    draws a part of the train set.
    """
    steps = max(checks, int(budget / cost))
    pool = min(training.max_train_images or train_images, train_images)
    epochs = max(checks, math.ceil(steps * training.batch_size / pool))
    images = max(1, round(steps / epochs)) * training.batch_size
    return dataclasses.replace(training, epochs=epochs, epoch_images=min(images, pool), least_steps=0)


def _measure(network: str, chosen: Rival, train_set: ImageSet, training: TrainingConfig) -> float:
    """Seconds of one step on a fresh network, with train images as failures: CPU time of this process, or a GPU's."""
    device = resolve_device(training.device)
    spec = input_spec(train_set)
    bare = Classifier(build_network(network, spec, 0), spec).to(device)
    amp = use_bfloat16(training.amp, device)
    use_channels_last(bare, device, amp)
    classifier = MixedPrecision(bare.network, spec) if amp else bare
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(train_set), generator=generator)
    parts = _stand_in(train_set, rows.numpy())
    style = rival_style(chosen, "gaussian_noise")
    if style is None and chosen.method in STYLED:
        style = fit_to_failures(parts, bare, chosen.style_config, device, seed=0)
    jitter = make_jitter(train_set, training.crop_padding, training.horizontal_flip)
    champion = partial(copy.deepcopy, bare)
    data = MethodData(parts.sample, parts.failures, parts.clusters, jitter, device, champion, style)
    with seeded(0, device), torch.enable_grad():
        method = make_rival(chosen, 0, chosen.config, data, generator)
        parameters = [p for p in classifier.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, nesterov=True)
        batch = rows[: training.batch_size]
        images = to_unit(train_set.pixels[batch]).to(device)
        labels = torch.from_numpy(train_set.labels)[batch].to(device)

        def steps(count: int) -> float:
            began = _clock(device)
            for _ in range(count):
                loss, _figures = method.loss(classifier, jitter(images, generator), labels, generator)
                if loss.requires_grad:
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
            return (_clock(device) - began) / count

        set_mode(classifier, training=True)
        steps(WARM_UP)
        return float(np.median([steps(MEASURED) for _ in range(REPEATS)]))


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def _stand_in(train_set: ImageSet, rows: np.ndarray) -> TrainingParts:
    """Train images under noise in the place of failures; nothing chooses."""
    failed = train_set.subset(rows[-FAILURES:])
    pixels = corrupt_pixels(failed.pixels, "gaussian_noise", 3, torch.Generator().manual_seed(1))
    images = from_arrays(pixels, failed.labels, train_set.class_names)
    blank = np.full(len(images), "")
    batch = FailureBatch(
        images, (images.labels + 1) % len(images.class_names), np.ones(len(images), np.float32), blank, blank
    )
    clusters = cluster_failures(batch, **dataclasses.asdict(ClusteringConfig(by="pixels", restarts=1)), seed=0)
    none = np.arange(0)
    return TrainingParts(train_set, rows, train_set.subset(none), False, batch, batch.subset(none), clusters)
