"""Where the time of training steps goes, and the memory that they took."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

PHASES = ("augmentation", "forward", "backward", "update")
SAMPLED = 10  # on a GPU one step in so many is timed, since timing waits for the GPU


class StepClock:
    """Seconds by phase, summed over the timed steps: all of them on the CPU, one in SAMPLED on a GPU.

    `forward` is measured inside `augmentation` (a method's loss calls the network) and taken off it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.timed = device, False
        self.seconds = dict.fromkeys(PHASES, 0.0)

    def begin_step(self, step: int) -> None:
        self.timed = self.device.type != "cuda" or step % SAMPLED == SAMPLED - 1

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        if not self.timed:
            yield
            return
        began = self._now()
        yield
        spent = self._now() - began
        self.seconds[name] += spent
        if name == "forward":
            self.seconds["augmentation"] -= spent

    def take(self) -> dict[str, float]:
        """The seconds so far as `<phase>_seconds`, and starts anew."""
        taken = {f"{name}_seconds": max(0.0, spent) for name, spent in self.seconds.items()}
        self.seconds = dict.fromkeys(PHASES, 0.0)
        return taken

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def step_shares(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The share of each phase in the timed steps of all epochs; empty where nothing was timed."""
    sums = {name: sum(h.get(f"{name}_seconds", 0.0) for h in history) for name in PHASES}
    total = sum(sums.values())
    return {name: spent / total for name, spent in sums.items()} if total else {}


def memory_figures(device: torch.device) -> dict[str, float]:
    """Peak memory in MB: `memory_mb` of this process since it started, `gpu_memory_mb` of torch on the GPU."""
    figures: dict[str, float] = {}
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, else KiB
        figures["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    if device.type == "cuda":
        figures["gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    return figures
