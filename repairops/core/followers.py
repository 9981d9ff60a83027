"""One repair on several processes: rank 0 runs the job, the others train with it and do nothing else.

Only rank 0 talks to MLflow and reads data sets; what the others need for the training comes from it. They hold it in
memory, or in a file of their own where it is larger than `images.memory_limit_mb`.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from repairops.config import Config
from repairops.core.parts import RepairInputs
from repairops.core.repair import repair_network
from repairops.core.training.distributed import Ranks, current_ranks
from repairops.errors import RepairError
from repairops.model.network import Classifier

logger = logging.getLogger("repairops")

SENT_AT_ONCE = 8192  # images

Work = tuple[Classifier, RepairInputs, Config]


def call_followers(champion: Classifier, inputs: RepairInputs, config: Config) -> None:
    """Has the other ranks call `repair_network` with these; rank 0 calls it itself, right after this.

    The failures and their split stay here, with rank 0. The train set's pixels go in parts, since they may lie in a
    memory-mapped file larger than the memory.
    """
    if current_ranks().alone:
        return
    pixels = inputs.train_set.pixels
    without = dataclasses.replace(inputs.train_set, pixels=pixels[:0].clone())
    none = inputs.failures.subset(np.arange(0))
    sent = dataclasses.replace(inputs, train_set=without, failures=none, split=None, earlier=None)
    dist.broadcast_object_list([(champion, sent, config)], 0)
    for start in range(0, len(pixels), SENT_AT_ONCE):
        dist.broadcast(pixels[start : start + SENT_AT_ONCE].clone(), 0)


def follow() -> None:
    """What every rank but the first does: repairs whenever the first one does, until it has done its job."""
    with tempfile.TemporaryDirectory(prefix="repairops-") as folder:
        while (work := _receive(Path(folder))) is not None:
            try:
                repair_network(*work, work_dir=Path(folder))
            except RepairError as error:  # rank 0 has the same one, and says so
                logger.debug("%s", error)


@contextmanager
def leading(ranks: Ranks) -> Iterator[None]:
    """Rank 0's job inside; afterwards the others may go. After an error torchrun ends them."""
    yield
    if not ranks.alone:
        dist.broadcast_object_list([None], 0)


def _receive(folder: Path) -> Work | None:
    box: list[Work | None] = [None]
    dist.broadcast_object_list(box, 0)
    if box[0] is None:
        return None
    champion, inputs, config = box[0]
    count, shape = len(inputs.train_set), inputs.train_set.pixels.shape[1:]
    size = count * shape.numel()
    if size > config.images.memory_limit_mb * 2**20:
        pixels = torch.from_file(str(folder / "train"), shared=True, size=size, dtype=torch.uint8).view(count, *shape)
    else:
        pixels = torch.empty((count, *shape), dtype=torch.uint8)
    for start in range(0, count, SENT_AT_ONCE):
        dist.broadcast(pixels[start : start + SENT_AT_ONCE], 0)
    received = dataclasses.replace(inputs.train_set, pixels=pixels)
    return champion, dataclasses.replace(inputs, train_set=received), config
