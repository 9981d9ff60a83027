"""Exponential moving average of a network's weights and statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class AveragedWeights:
    """A running mean of the floating-point state of a module, updated after each step.

    The decay grows from 0.1 to `decay` as (1 + n) / (10 + n) over the first n steps, so that the start is forgotten.
    Source: Polyak averaging as in Tarvainen and Valpola, Mean teachers (NeurIPS 2017); BatchNorm statistics too.
    """

    def __init__(self, module: nn.Module, decay: float, steps: int = 0, start: Mapping[str, Tensor] | None = None):
        self.module, self.decay, self.steps = module, decay, steps
        live = self._live()
        self.shadow = {name: (start or live)[name].to(value, copy=True) for name, value in live.items()}

    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for name, value in self._live().items():
                self.shadow[name].lerp_(value, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averaged state in the module inside, the live one outside."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def tensors(self) -> dict[str, Tensor]:
        """A copy on the CPU, for a checkpoint."""
        return {name: value.to("cpu", copy=True).contiguous() for name, value in self.shadow.items()}

    def _swap(self) -> None:
        with torch.no_grad():
            for name, value in self._live().items():
                kept = value.clone()
                value.copy_(self.shadow[name])
                self.shadow[name].copy_(kept)

    def _live(self) -> dict[str, Tensor]:
        state = self.module.state_dict()
        return {n: v for n, v in state.items() if isinstance(v, Tensor) and v.dtype.is_floating_point}
