"""The protocol of all styles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Generator, Tensor, nn


class Style(Protocol):
    """A style fitted to a set of references; applying it is batched and needs no gradients."""

    def apply(self, content: Tensor, reference: Tensor, generator: Generator) -> Tensor:
        """Content in the look of one reference each.

        content: float32 (B, C, H, W) in 0..1. reference: int64 (B,), index into the references that the style
        was fitted to. generator: source of all randomness, on the CPU. Returns float32 (B, C, H, W) in 0..1,
        finite, on the content's device.
        """
        ...


@dataclass(frozen=True, eq=False)
class Witness:
    """What `auto` asks: the champion, and what is known of the images that a style is fitted to.

    champion: float images (N, C, H, W) in 0..1 to logits, on the images' device. clusters, labels: int64 (R,), of
    the references. clean_labels: int64 (M,), of the clean images; all three on the CPU.
    """

    champion: nn.Module
    clusters: Tensor
    labels: Tensor
    clean_labels: Tensor
