"""Where batches come from: the GPU's memory, this machine's, or a file, read ahead by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from repairops.data.records import ImageSet
from repairops.model.device import fits_on
from repairops.model.network import to_unit

COPIED_AT_ONCE = 4096  # images, on their way to the GPU
LARGE = 2**30  # bytes; more pixels than this may lie in a memory-mapped file, so they are read ahead
AUTO_WORKERS = 2

Batch = tuple[Tensor, Tensor]


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
