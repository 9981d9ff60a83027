"""One repair on several processes: rank 0 runs the job, the others train with it and do nothing else.

Only rank 0 talks to MLflow and reads data sets; what the others need for the training comes from it. They hold it in
memory, or in a file of their own where it is larger than `images.memory_limit_mb`.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from repairops.config import Config, MethodConfig, TrainingConfig, derive_seed
from repairops.core.looks import fit_look
from repairops.core.methods import AUTO, RepairData, make_method
from repairops.core.methods.base import Method
from repairops.core.styles import Style
from repairops.core.training import TrainingResult, train
from repairops.core.training.epoch import Figures
from repairops.core.training.ranks import Ranks, current_ranks
from repairops.core.trials import choose_by_trial
from repairops.data.records import Clusters, FailureBatch, ImageSet
from repairops.errors import RepairError
from repairops.model.device import resolve_device
from repairops.model.network import Classifier

logger = logging.getLogger("repairops")

SENT_AT_ONCE = 8192  # images
STYLED = (AUTO, "style_guided")  # methods that take a style


@dataclass(frozen=True, eq=False)
class Work:
    """What a training needs, the same on every rank.

    style: fitted to `failures` already, on the device that trains; it is not sent, see `_with_style`.
    """

    classifier: Classifier
    train_set: ImageSet
    failures: FailureBatch
    validation: FailureBatch
    clusters: Clusters
    config: Config
    style: Style | None = None
    unseen: ImageSet | None = None  # clean images that the champion was not trained on, to choose by


def fine_tune_everywhere(
    work: Work, work_dir: Path, on_epoch: Callable[[int, Figures], None] | None = None
) -> tuple[TrainingResult, list[dict[str, Any]]]:
    """Fine-tunes `work.classifier` in place on all ranks; called by rank 0, or by the only process there is.

    Also returns the trials by which `method.name=auto` chose, else none.
    """
    ranks = current_ranks()
    if not ranks.alone:
        _send(work)
    return _fine_tune(work, work_dir, on_epoch)


def follow() -> None:
    """What every rank but the first does: trains whenever the first one does, until it has done its job."""
    with tempfile.TemporaryDirectory(prefix="repairops-") as folder:
        while (work := _receive(Path(folder))) is not None:
            try:
                _fine_tune(work, Path(folder))
            except RepairError as error:  # rank 0 has the same one, and says so
                logger.debug("%s", error)


@contextmanager
def leading(ranks: Ranks) -> Iterator[None]:
    """Rank 0's job inside; afterwards the others may go. After an error torchrun ends them."""
    yield
    if not ranks.alone:
        dist.broadcast_object_list([None], 0)


def _fine_tune(
    work: Work, work_dir: Path, on_epoch: Callable[[int, Figures], None] | None = None
) -> tuple[TrainingResult, list[dict[str, Any]]]:
    work = _with_style(work)
    method, training = work.config.method, work.config.training
    trials: list[dict[str, Any]] = []
    if method.name == AUTO:

        def run(number: int, candidate: MethodConfig, short: TrainingConfig) -> TrainingResult:
            return _train(work, copy.deepcopy(work.classifier), candidate, short, work_dir / f"trial-{number}")

        method, training, trials = choose_by_trial(method, training, len(work.train_set), run)
    return _train(work, work.classifier, method, training, work_dir, on_epoch), trials


def _train(
    work: Work,
    classifier: Classifier,
    method: MethodConfig,
    training: TrainingConfig,
    work_dir: Path,
    on_epoch: Callable[[int, Figures], None] | None = None,
) -> TrainingResult:
    style, seed = work.config.style, work.config.seed

    def factory(data: RepairData) -> Method:
        data = dataclasses.replace(data, style=work.style)
        return make_method(method, style, data, torch.Generator().manual_seed(derive_seed(seed, "method")))

    # All that the fitted style depends on stands in the checkpoint: the sets, the seed, the champion's weights and the
    # parts of the train set by the training's own arguments, and here the part's size, which a trial's can be below.
    return train(
        classifier,
        factory,
        work.train_set,
        work.failures,
        work.validation,
        work.clusters,
        training,
        seed=seed,
        work_dir=work_dir,
        method_key=_digest(method, style, work.config.training.max_train_images),
        unseen=work.unseen,
        on_epoch=on_epoch,
    )


def _with_style(work: Work) -> Work:
    """With the job's style, where its method takes one: fitted here on every rank but the first, which has it.

    A style is tensors on rank 0's device, with wct2 a network and up to a gigabyte of statistics; the same images and
    draws give the same style anywhere. One for all trials of `auto` too, however few images a trial trains on.
    """
    if work.style is not None or work.config.method.name not in STYLED:
        return work
    device = resolve_device(work.config.training.device)
    style = fit_look(work.failures, work.clusters, work.train_set, work.classifier, work.config, device)
    return dataclasses.replace(work, style=style)


def _digest(*values: Any) -> str:
    """sha256 of plain values and of stages' options."""
    text = json.dumps(values, default=dataclasses.asdict, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _send(work: Work) -> None:
    """The train set's pixels go in parts, since they may lie in a memory-mapped file larger than the memory."""
    pixels = work.train_set.pixels
    without = dataclasses.replace(work.train_set, pixels=pixels[:0].clone())
    dist.broadcast_object_list([dataclasses.replace(work, train_set=without, style=None)], 0)
    for start in range(0, len(pixels), SENT_AT_ONCE):
        dist.broadcast(pixels[start : start + SENT_AT_ONCE].clone(), 0)


def _receive(folder: Path) -> Work | None:
    box: list[Work | None] = [None]
    dist.broadcast_object_list(box, 0)
    work = box[0]
    if work is None:
        return None
    count, shape = len(work.train_set), work.train_set.pixels.shape[1:]
    size = count * shape.numel()
    if size > work.config.images.memory_limit_mb * 2**20:
        pixels = torch.from_file(str(folder / "train"), shared=True, size=size, dtype=torch.uint8).view(count, *shape)
    else:
        pixels = torch.empty((count, *shape), dtype=torch.uint8)
    for start in range(0, count, SENT_AT_ONCE):
        dist.broadcast(pixels[start : start + SENT_AT_ONCE], 0)
    return dataclasses.replace(work, train_set=dataclasses.replace(work.train_set, pixels=pixels))
