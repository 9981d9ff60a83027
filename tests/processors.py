"""The numeric tests again, as other processors round: `make test-numeric`, or `python tests/processors.py avx2 ...`.

PyTorch chooses its own kernels by the processor, and a variable makes it choose others. oneDNN, MKL and OpenBLAS have
such variables too, which are left alone.
"""

from __future__ import annotations

import os
import subprocess
import sys

import torch

VARIABLE = "ATEN_CPU_CAPABILITY"
PROCESSORS = ("default", "avx2", "avx512")  # from the oldest to the newest


def main(options: list[str]) -> int:
    """Runs the tests as every older processor than this one; returns pytest's first exit code that is not 0."""
    own = torch.backends.cpu.get_cpu_capability().lower()
    known = PROCESSORS[: PROCESSORS.index(own) + 1] if own in PROCESSORS else ()
    for name in PROCESSORS:
        if name == own:
            print(f"\n{name}: this processor, as which the default tests run", flush=True)
        elif name not in known:
            print(f"\n{name}: skipped, since this processor ({own}) cannot do it", flush=True)
    codes = [run_as(name, options) for name in known if name != own]
    return next((code for code in codes if code), 0)


def run_as(name: str, options: list[str]) -> int:
    """pytest's exit code, 5 where it found no test."""
    print(f"\n{name}: {VARIABLE}={name}", flush=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "numeric and not slow",
        "-n",
        "2",
        "--dist",
        "worksteal",
        *options,
    ]
    return subprocess.run(command, env={**os.environ, VARIABLE: name}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
