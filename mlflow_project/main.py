"""Entry point `main`: `repairops repair`."""

import sys

from mlflow_project.arguments import call, flag, options, parse

NAMES = (
    "model", "failures", "train-set", "clean-set", "validation-set", "config", "set", "method", "preset", "max-minutes",
    "seed", "device", "promote", "rerun",
)  # fmt: skip


def repair_arguments(values: dict[str, str]) -> list[str]:
    """The options of `repairops repair`."""
    overrides = [f"--set={part.strip()}" for part in values["set"].split(";") if part.strip()]
    named = options(values, *(n for n in NAMES if n not in ("set", "rerun")))
    return [*named, *overrides, *flag(values, "rerun")]


if __name__ == "__main__":
    call("repair", *repair_arguments(parse(sys.argv[1:], NAMES)))
