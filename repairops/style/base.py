"""The protocol of all styles."""

from __future__ import annotations

from typing import Protocol

from torch import Generator, Tensor


class Style(Protocol):
    """A style fitted to a set of references; applying it is batched and needs no gradients."""

    def apply(self, content: Tensor, reference: Tensor, generator: Generator) -> Tensor:
        """Content in the look of one reference each.

        content: float32 (B, C, H, W) in 0..1. reference: int64 (B,), index into the references that the style
        was fitted to. generator: source of all randomness, on the CPU. Returns float32 (B, C, H, W) in 0..1,
        finite, on the content's device.
        """
        ...
