"""One batch's forward pass, shared out among ranks, with BatchNorm statistics of the whole batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from repairops.core.training.ranks import Ranks, gather_rows, sum_ranks
from repairops.errors import InvalidOption
from repairops.model.network import Classifier

BatchNorm = nn.modules.batchnorm._BatchNorm


class Sharded(Classifier):
    """The same network: takes the whole batch on every rank, computes this rank's rows, returns all logits.

    A batch with fewer rows than ranks is computed on each rank; that is possible without gradients alone.
    """

    def __init__(self, inner: Classifier, ranks: Ranks) -> None:
        super().__init__(inner.network, inner.spec)
        self._inner, self._ranks = [inner], ranks  # in a list: not a submodule of its own

    def forward(self, images: Tensor) -> Tensor:
        inner = self._inner[0]
        if len(images) < self._ranks.world:
            if torch.is_grad_enabled():
                raise InvalidOption("training.batch_size", len(images), f"at least the {self._ranks.world} processes")
            return inner(images)  # type: ignore[no-any-return]
        return gather_rows(inner(images[self._ranks.rows(len(images))]), self._ranks, len(images))


@contextmanager
def synchronised_statistics(module: nn.Module, ranks: Ranks) -> Iterator[None]:
    """BatchNorm layers in train mode use the statistics of all ranks' rows inside.

    torch's SyncBatchNorm is for GPUs alone and replaces the layers; this works on the CPU too and leaves them in
    place. BatchNorm that a graph was traced with (pt2) is frozen anyway.
    """
    layers = [] if ranks.alone else [m for m in module.modules() if isinstance(m, BatchNorm)]
    for layer in layers:
        layer.forward = partial(_batch_norm, layer, layer.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _batch_norm(layer: BatchNorm, plain: object, images: Tensor) -> Tensor:
    """BatchNorm of this rank's rows (B, C, ...) by the mean and variance of all ranks' rows, in float32."""
    if not layer.training and layer.running_mean is not None:
        return plain(images)  # type: ignore[operator,no-any-return]
    values = images.float()
    axes, shape = [0, *range(2, images.ndim)], [1, -1, *[1] * (images.ndim - 2)]
    own_count = values.new_full((1,), values.numel() / max(values.shape[1], 1))
    sums = sum_ranks(torch.cat((values.sum(axes), own_count)))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = values - mean.view(shape)
    variance = sum_ranks(centred.square().sum(axes)) / count
    if layer.training and layer.track_running_stats:
        _track(layer, mean.detach(), variance.detach() * (count / (count - 1).clamp(min=1)))
    result = centred * torch.rsqrt(variance + layer.eps).view(shape)
    if layer.affine:
        result = result * layer.weight.view(shape) + layer.bias.view(shape)
    return result.to(images.dtype)


@torch.no_grad()
def _track(layer: BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Moves the running statistics as nn.BatchNorm does; momentum None is the mean over all batches."""
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
    momentum = layer.momentum
    if momentum is None:
        momentum = 1 / float(layer.num_batches_tracked or 1)
    if layer.running_mean is not None and layer.running_var is not None:
        layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), momentum)
        layer.running_var.lerp_(variance.to(layer.running_var.dtype), momentum)
