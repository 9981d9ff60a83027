"""MLproject's entry points: `python -m mlflow_project NAME --parameter value ...` is a `repairops` command.

MLproject parameters are all text, and 'unset', or '', means 'not given'; the command line has options. MLflow shows
every parameter on the run's page, where an empty text would say nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from repairops.cli import main
from repairops.errors import InvalidOption, UnknownOption, UsageError

JOB = (
    "failures", "train-set", "clean-set", "validation-set", "config", "set", "preset", "max-minutes", "seed", "device",
    "promote", "rerun",
)  # fmt: skip
UNSET = "unset"
REPAIR = ("model", "method", *JOB)
# By entry point: the command's words, and which of its parameters are arguments and which are options.
COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "main": (("repair",), (), REPAIR),
    "repair_distributed": (("repair",), (), ("nproc", *REPAIR)),
    "consolidate": (("consolidate",), ("model",), JOB),
    "log_failures": (("failures", "log"), ("model", "path"), ("csv", "source")),
    "triage": (
        ("triage",),
        ("model", "folder"),
        ("count", "score", "layers", "clusters", "train-set", "reference", "output", "sheet", "set", "seed", "device"),
    ),
    "promote": (("promote",), ("model",), ("version", "by", "reason")),
    "rollback": (("rollback",), ("model",), ("by", "reason")),
    "demo": (("demo",), (), ("folder", "seed")),
}


def parse(entry: str, given: Sequence[str]) -> list[str]:
    """The words of the `repairops` command for the entry point's `--name value` pairs. Raises UsageError."""
    words, arguments, options = COMMANDS[entry]
    values = dict.fromkeys((*arguments, *options), "")
    for flag, value in zip(given[::2], given[1::2], strict=False):
        name = flag.removeprefix("--").replace("_", "-")
        if name not in values:
            raise UnknownOption(name, values)
        values[name] = "" if value.strip() == UNSET else value
    command = [*words, *(word for name in options for word in _option(name, values[name]))]
    return [*command, "--", *(values[name] for name in arguments)] if arguments else command


def _option(name: str, value: str) -> list[str]:
    """The option as the command line has it: none where there is no value, one for each part of `set`."""
    if name == "set":
        return [f"--set={part.strip()}" for part in value.split(";") if part.strip()]
    if name == "rerun":
        if (word := value.strip().lower() or "false") not in ("true", "false"):
            raise InvalidOption(name, value, "true or false")
        return ["--rerun"] if word == "true" else []
    if name == "nproc" and not (value.isdecimal() and int(value)):
        raise InvalidOption(name, value, "a number of processes, 1 or more")
    return [f"--{name}={value}"] if value.strip() else []


def in_processes(command: Sequence[str]) -> list[str]:
    """The same repair in `--nproc` processes that train together.

    torchrun's own variables (PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR, ...) make it a part of a training on several
    machines; without them all processes are on this one.
    """
    repair, nproc, *options = command
    here = [] if "PET_NNODES" in os.environ else ["--standalone"]
    processes = nproc.replace("--nproc=", "--nproc-per-node=")
    return [sys.executable, "-m", "torch.distributed.run", *here, processes, "-m", "repairops", repair, *options]


if __name__ == "__main__":
    entry, *given = sys.argv[1:]
    try:
        command = parse(entry, given)
    except UsageError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(error.exit_code)
    if entry == "repair_distributed":
        sys.exit(subprocess.run(in_processes(command), check=False).returncode)
    main(command, prog_name="repairops")
