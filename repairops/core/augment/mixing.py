"""StyleAug: chains of operations, mixed; without a style it is AugMix.

Source: the DeepRepair paper, Algorithm 1, and Hendrycks et al., AugMix (ICLR 2020). Differs from the listing,
which assigns each chain over the last one: the weighted chains are summed. alpha = 1 throughout, so that the
Dirichlet weights are normalised exponential draws and the Beta blend is a uniform draw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from repairops.core.augment.operations import OPERATIONS, apply_operations

STYLE = len(OPERATIONS)  # the number that stands for 'a style operation' among a chain's operations
DEPTH = 3  # operations in the longest chain


@dataclass(frozen=True, eq=False)
class MixingDraws:
    """All random draws for B images with M chains each, on the CPU.

    operations: int64 (B, M, DEPTH), index into OPERATIONS, STYLE (first place only), or -1 for none.
    levels: float32 (B, M, DEPTH), 0.1..severity. signs: float32 (B, M, DEPTH), +1 or -1.
    weights: float32 (B, M), sums to 1 over M. blend: float32 (B,), 0..1, share of the mixed chains.
    """

    operations: Tensor
    levels: Tensor
    signs: Tensor
    weights: Tensor
    blend: Tensor


def draw_mixing(
    count: int, generator: Generator, *, chains: int = 3, severity: float = 3.0, styles: int = 0
) -> MixingDraws:
    """The draws for `count` images.

    A chain's first operation is drawn uniformly from the general operations and `styles` style operations, the
    others from the general ones; a chain has 1 to DEPTH operations. severity: highest level, up to 10.
    """
    shape = (count, chains, DEPTH)
    operations = torch.randint(0, len(OPERATIONS), shape, generator=generator)
    first = torch.randint(0, len(OPERATIONS) + styles, (count, chains), generator=generator)
    operations[..., 0] = first.clamp(max=STYLE)
    depth = torch.randint(1, DEPTH + 1, (count, chains, 1), generator=generator)
    operations[torch.arange(DEPTH) >= depth] = -1
    levels = 0.1 + (severity - 0.1) * torch.rand(shape, generator=generator)
    signs = 1.0 - 2.0 * torch.randint(0, 2, shape, generator=generator)
    weights = torch.empty(count, chains).exponential_(generator=generator)
    weights = weights / weights.sum(1, keepdim=True)
    return MixingDraws(operations, levels, signs, weights, torch.rand(count, generator=generator))


def mix_chains(images: Tensor, draws: MixingDraws, style: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """StyleAug of images, float32 (B, C, H, W) in 0..1; returns the same kind on the same device.

    style: restyles a stack of contents (K, C, H, W) in 0..1 at once; contents come in the order of (image, chain).
    It is needed where the draws hold a STYLE operation.
    """
    return blend_chains(images, run_chains(images, draws, style), draws.weights, draws.blend)


def run_chains(images: Tensor, draws: MixingDraws, style: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Each image after each of its chains, float32 (B, M, C, H, W) in 0..1; see `mix_chains`."""
    batch, chains, depth = draws.operations.shape
    operations = draws.operations.view(-1, depth)
    mixed = _to_levels(images).repeat_interleave(chains, 0)
    styled = (operations[:, 0] == STYLE).nonzero().squeeze(1)
    if len(styled):
        if style is None:
            raise ValueError("the draws hold style operations, but no style was given")
        index = styled.to(images.device)
        mixed[index] = _to_levels(style(mixed[index] / 255))
        operations = operations.clone()
        operations[styled, 0] = -1
    mixed = apply_operations(mixed, operations, draws.levels.view(-1, depth), draws.signs.view(-1, depth))
    return mixed.view(batch, chains, *images.shape[1:]) / 255


def blend_chains(images: Tensor, chains: Tensor, weights: Tensor, blend: Tensor) -> Tensor:
    """Images (B, C, H, W) blended with their weighted chains (B, M, C, H, W); weights (B, M), blend (B,)."""
    augmented = (chains * weights.to(images.device).view(*weights.shape, 1, 1, 1)).sum(1)
    return torch.lerp(images, augmented, blend.to(images.device).view(-1, 1, 1, 1))


def _to_levels(images: Tensor) -> Tensor:
    """0..1 to whole numbers 0..255, still float32."""
    return (images * 255).round().clamp(0, 255)
