"""Where a figure was measured, and what it cost there."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from repairops import __version__
from repairops.core.training.clock import memory_figures
from repairops.model.device import device_name


def environment(device: torch.device) -> dict[str, Any]:
    """commit ('' outside a checkout; with '+' where files differ from it), machine, device and versions."""
    return {
        "version": __version__,
        "commit": _commit(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device": device_name(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _commit() -> str:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    commands = (["git", "rev-parse", "--short=12", "HEAD"], ["git", "status", "--porcelain", "--", "repairops"])
    try:
        commit, changed = (
            subprocess.run(c, cwd=root, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
            for c in commands
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit + ("+" if changed else "")


@dataclass
class Costs:
    """Seconds by the clock and of this process's CPU time, and the peak memory, from here to `measured`.

    Memory is the process's on a CPU (Linux: since the start of the measurement, elsewhere of the process's life), and
    PyTorch's on a GPU.
    """

    device: torch.device
    _wall: float = field(default_factory=time.monotonic)
    _cpu: float = field(default_factory=time.process_time)

    def __post_init__(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the peak

    def measured(self) -> dict[str, float]:
        seconds, cpu = time.monotonic() - self._wall, time.process_time() - self._cpu
        return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "peak_memory_mb": round(self._memory())}

    def _memory(self) -> float:
        figures = memory_figures(self.device)
        if "gpu_memory_mb" in figures:
            return figures["gpu_memory_mb"]
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
            return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) / 1024
        except OSError:
            return figures["memory_mb"]
