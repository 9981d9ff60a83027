"""The network as a training runs it: memory format, mixed precision, compilation, and several processes.

The processes are torchrun's, and DistributedDataParallel gives each of them the mean of all their gradients.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from repairops.core.training.clock import StepClock
from repairops.errors import InvalidOption, NetworkFails, RanksNotStarted
from repairops.model.device import MixedPrecision, set_mode
from repairops.model.network import Classifier

WAIT = timedelta(hours=12)  # for rank 0, which pulls, validates and clusters before the others have work

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's number among `world` of them; one alone needs no communication."""

    rank: int = 0
    world: int = 1

    @property
    def alone(self) -> bool:
        return self.world == 1

    @property
    def leads(self) -> bool:
        """Rank 0 measures, writes checkpoints and talks to MLflow; the others only train."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This rank's rows of a batch. All ranks have as many, so that each row weighs the same in the mean of their
        gradients; what is left over is not trained on. Raises InvalidOption for fewer rows than ranks.
        """
        size = len(batch) // self.world
        if not size:
            raise InvalidOption("training.batch_size", len(batch), f"at least the {self.world} processes")
        return batch[self.rank * size : (self.rank + 1) * size]

    def mean(self, values: Sequence[float]) -> list[float]:
        """The means of numbers over the ranks."""
        if self.alone:
            return list(values)
        box = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(box)
        means: list[float] = (box / self.world).tolist()
        return means

    def of_first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every rank, so that all go on alike; the others make nothing."""
        if self.alone:
            return make()
        box = [make() if self.leads else None]
        dist.broadcast_object_list(box, 0)
        return box[0]  # type: ignore[return-value]


ALONE = Ranks()


def current_ranks() -> Ranks:
    """Those of torch.distributed where that is initialised, else this process alone."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return ALONE


def start_ranks() -> Ranks:
    """Joins the processes that torchrun started, each with its own GPU where there are enough of them.

    Where processes share a GPU, which NCCL refuses, gloo carries the GPU's tensors too.
    Raises RanksNotStarted where the processes do not find each other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        return ALONE
    if not dist.is_initialized():
        backend = "gloo"
        if torch.cuda.is_available():
            gpus = torch.cuda.device_count()
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % gpus)
            if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= gpus:
                backend = "cpu:gloo,cuda:nccl"
        try:
            dist.init_process_group(backend, timeout=WAIT)
        except (RuntimeError, ValueError) as error:
            raise RanksNotStarted(os.environ.get("MASTER_ADDR", ""), str(error)) from error
    return current_ranks()


class Timed(Classifier):
    """The same network, with the time of its forward passes; with `ranks`, its gradients are the mean of theirs.

    A pass without gradients goes past DistributedDataParallel, so each rank may make as many as it likes. Before the
    others, rank 0's buffers (BatchNorm's running statistics) are sent to all.

    It is given images in NCHW order whatever a style returned: from others a convolution makes features in
    channels_last order, on which some networks' `view` fails. `reshape` and `view` set the strides of an axis of
    length 1 too (grey images), which `contiguous` leaves.
    """

    def __init__(self, inner: Classifier, clock: StepClock, ranks: Ranks = ALONE) -> None:
        super().__init__(inner.network, inner.spec)
        joined: nn.Module = inner
        if not ranks.alone:  # a network may have parameters that its answers do not depend on
            joined = DistributedDataParallel(inner, find_unused_parameters=True)
        self._ways, self._clock = (inner, joined), clock  # in a tuple: not submodules of its own

    def forward(self, images: Tensor) -> Tensor:
        with self._clock.phase("forward"):
            return self._ways[torch.is_grad_enabled()](images.reshape(-1).view(images.shape))  # type: ignore[no-any-return]


def training_network(
    classifier: Classifier, clock: StepClock, *, amp: bool, compiled: bool, ranks: Ranks = ALONE
) -> Classifier:
    """What a method's loss calls; it shares the classifier's weights."""
    network: nn.Module = torch.compile(classifier.network) if compiled else classifier.network  # type: ignore[assignment]
    kind = MixedPrecision if amp else Classifier
    return Timed(kind(network, classifier.spec) if amp or compiled else classifier, clock, ranks)


@contextmanager
def synchronised_statistics(classifier: Classifier, device: torch.device, ranks: Ranks) -> Iterator[None]:
    """On GPUs, BatchNorm layers in train mode use the statistics of all ranks' rows inside (SyncBatchNorm).

    SyncBatchNorm does not run on the CPU; there each rank's layers use its own rows. Afterwards the network has its own
    layers back; parameters and statistics were theirs all the time.
    """
    layers: list[tuple[nn.Module, str, nn.Module]] = []
    if device.type == "cuda" and not ranks.alone:
        kind = nn.modules.batchnorm._BatchNorm
        named = ((parent, *found) for parent in classifier.modules() for found in parent.named_children())
        layers = [place for place in named if isinstance(place[2], kind)]
        nn.SyncBatchNorm.convert_sync_batchnorm(classifier)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for parent, name, layer in layers:
            setattr(parent, name, layer.train(getattr(parent, name).training))


def use_channels_last(classifier: Classifier, device: torch.device, amp: bool) -> bool:
    """Puts convolutions' weights in channels_last order, where the network has some and still computes the same.

    A network that calls `view` on its features may refuse that order; then it stays as it was. So does every network in
    float32 (no `amp`) on a GPU.
    """
    if not (amp or device.type == "cpu") or not any(isinstance(m, nn.Conv2d) for m in classifier.modules()):
        return False
    spec = classifier.spec
    probe = torch.linspace(0, 1, 2 * spec.channels * spec.height * spec.width, device=device)
    probe = probe.view(2, spec.channels, spec.height, spec.width)
    set_mode(classifier, training=False)
    with torch.no_grad():
        wanted = classifier(probe)
        classifier.to(memory_format=torch.channels_last)
        try:
            found = classifier(probe)
            if torch.allclose(found, wanted, rtol=1e-2, atol=1e-2):
                return True
        except NetworkFails:
            pass
        classifier.to(memory_format=torch.contiguous_format)
    return False
