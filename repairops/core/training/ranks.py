"""The processes of one training (`torchrun`): who this one is, and what they tell each other.

Every rank draws the same batch and the same augmentations from the same seeds, computes its own rows of the
network, and gathers all logits. So every method's loss is that of the whole batch on every rank, whatever the number
of ranks; only the network's forward and backward pass is shared out. Collectives run on the tensors' own device:
gloo on the CPU, NCCL on GPUs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from repairops.errors import RanksNotStarted

WAIT = timedelta(hours=12)  # for rank 0, which pulls, validates and clusters before the others have work


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
        """Rank 0 writes checkpoints and talks to MLflow; the others only compute."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """This rank's share of `count` rows; shares differ by one row at most."""
        return slice(self.rank * count // self.world, (self.rank + 1) * count // self.world)

    def total(self, value: float) -> float:
        """The sum of one number over the ranks, exact for counts up to 2**53."""
        if self.alone:
            return value
        box = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(box)
        return float(box.item())

    def of_first(self, values: dict[str, float]) -> dict[str, float]:
        """Rank 0's figures on every rank, so that all decide alike."""
        found: dict[str, float] = json.loads(self.text_of_first(json.dumps(values)))
        return found

    def text_of_first(self, text: str) -> str:
        if self.alone:
            return text
        data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        size = torch.tensor([len(data)])
        dist.broadcast(size, 0)
        if not self.leads:
            data = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(data, 0)
        return data.numpy().tobytes().decode()

    def tensors_of_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites tensors, in the same order on every rank, with rank 0's."""
        if not self.alone:
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, 0)
                tensor.detach().copy_(whole)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Each rank has the gradient of its own rows; their sum is the batch's."""
        if self.alone:
            return
        trained = [p for p in parameters if p.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in trained if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def current_ranks() -> Ranks:
    """Those of torch.distributed where that is initialised, else this process alone."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks()


def start_ranks() -> Ranks:
    """Joins the processes that torchrun started, each with its own GPU where there are enough of them.

    Where processes share a GPU, which NCCL refuses, gloo carries the GPU's tensors too.
    Raises RanksNotStarted where the processes do not find each other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        return Ranks()
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


class _Gather(torch.autograd.Function):
    """Rows of all ranks, in order. Each rank keeps the gradient of its own rows: the loss is one, not one a rank."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks, count: int) -> Tensor:
        ctx.rows = ranks.rows(count)
        longest = -(-count // ranks.world)
        padded = own.new_zeros(longest, *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(ranks.world)]
        dist.all_gather(parts, padded)
        sizes = [Ranks(rank, ranks.world).rows(count) for rank in range(ranks.world)]
        return torch.cat([part[: rows.stop - rows.start] for part, rows in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.rows], None, None


class _Sum(torch.autograd.Function):
    """The sum over the ranks. Its gradient is the sum of what each rank's rows make of it."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def gather_rows(own: Tensor, ranks: Ranks, count: int) -> Tensor:
    """All `count` rows (count, K) from each rank's own share of them (`ranks.rows`); differentiable."""
    found: Tensor = _Gather.apply(own, ranks, count)
    return found


def sum_ranks(own: Tensor) -> Tensor:
    """Differentiable sum over the ranks."""
    total: Tensor = _Sum.apply(own)
    return total
