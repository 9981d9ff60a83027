"""The numeric tests again, as other processors round: `make test-numeric`, or `python tests/processors.py avx2 ...`.

PyTorch, oneDNN, MKL and OpenBLAS choose their kernels by the processor, and variables make them choose others. MKL
follows its variable on Intel's processors alone.
"""

from __future__ import annotations

import os
import subprocess
import sys

import torch

VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "OPENBLAS_CORETYPE")
PROCESSORS = {  # from the oldest to the newest
    "default": ("default", "SSE41", "SSE4_2", "Nehalem"),
    "avx2": ("avx2", "AVX2", "AVX2", "Haswell"),
    "avx512": ("avx512", "AVX512_CORE", "AVX512", "SkylakeX"),
}


def main(options: list[str]) -> int:
    """Runs the tests as every older processor than this one; returns pytest's first exit code that is not 0."""
    names, own = list(PROCESSORS), torch.backends.cpu.get_cpu_capability().lower()
    known = names[: names.index(own) + 1] if own in names else []
    for name in names:
        if name == own:
            print(f"\n{name}: this processor, as which the default tests run", flush=True)
        elif name not in known:
            print(f"\n{name}: skipped, since this processor ({own}) cannot do it", flush=True)
    codes = [run_as(name, options) for name in known if name != own]
    return next((code for code in codes if code), 0)


def run_as(name: str, options: list[str]) -> int:
    """pytest's exit code, 5 where it found no test."""
    settings = dict(zip(VARIABLES, PROCESSORS[name], strict=True))
    print(f"\n{name}: {' '.join(f'{key}={value}' for key, value in settings.items())}", flush=True)
    command = [sys.executable, "-m", "pytest", "-m", "numeric and not slow", "-n", "2", "--dist", "worksteal", *options]
    return subprocess.run(command, env={**os.environ, **settings}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
