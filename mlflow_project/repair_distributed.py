"""Entry point `repair_distributed`: `repairops repair` in several processes that train together.

torchrun's own variables (PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR, ...) make it a part of a training on several
machines; without them all processes are on this one.
"""

import os
import subprocess
import sys

from mlflow_project.arguments import parse, refuse
from mlflow_project.main import NAMES, repair_arguments
from repairops.errors import InvalidOption


def command(values: dict[str, str]) -> list[str]:
    """The torchrun command line."""
    if not values["nproc"].isdecimal() or int(values["nproc"]) < 1:
        refuse(InvalidOption("nproc", values["nproc"], "a number of processes, 1 or more"))
    here = [] if "PET_NNODES" in os.environ else ["--standalone"]
    start = [sys.executable, "-m", "torch.distributed.run", *here, f"--nproc-per-node={values['nproc']}"]
    return [*start, "-m", "repairops", "repair", *repair_arguments(values)]


if __name__ == "__main__":
    values = parse(sys.argv[1:], ("nproc", *NAMES))
    sys.exit(subprocess.run(command(values), check=False).returncode)
