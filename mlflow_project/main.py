"""Entry point `main`: `repairops repair`."""

import sys

from mlflow_project.arguments import call, flag, options, parse

NAMES = ("model", "failures", "train-set", "clean-set", "config", "set", "method", "seed", "device", "promote", "rerun")

if __name__ == "__main__":
    values = parse(sys.argv[1:], NAMES)
    overrides = [f"--set={part.strip()}" for part in values["set"].split(";") if part.strip()]
    call(
        "repair", *options(values, *(n for n in NAMES if n not in ("set", "rerun"))), *overrides, *flag(values, "rerun")
    )
