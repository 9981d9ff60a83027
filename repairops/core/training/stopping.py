"""When a training ends."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from repairops.core.training.epoch import Figures


@dataclass(frozen=True)
class StoppingRule:
    """When a training ends. patience: epochs without a better choice; max_seconds: 0 = no limit."""

    epochs: int
    patience: int
    max_seconds: float

    def reached(self, history: list[Figures], selected: int) -> bool:
        trained = len(history) - 1
        waited = trained - selected
        return trained >= self.epochs or 0 < self.patience <= waited or self._left(history) <= 0

    def deadline(self, history: list[Figures]) -> float:
        """Of time.monotonic(): where the epoch that comes next has to end."""
        return time.monotonic() + self._left(history)

    def out_of_time(self, history: list[Figures]) -> bool:
        return self._left(history) <= 0

    def _left(self, history: list[Figures]) -> float:
        return self.max_seconds - sum(h["seconds"] for h in history[1:]) if self.max_seconds else math.inf
