"""MLproject parameters are all text, and '' means 'not given'; the command line has options."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

from repairops.cli import main
from repairops.errors import InvalidOption, UnknownOption, UsageError


def parse(arguments: Sequence[str], known: Iterable[str]) -> dict[str, str]:
    """`--name value` pairs by name, '' where not given. An unknown name stops with exit code 2."""
    values = dict.fromkeys(known, "")
    pairs = list(arguments)
    for flag, value in zip(pairs[::2], pairs[1::2], strict=False):
        name = flag.removeprefix("--").replace("_", "-")
        if name not in values:
            refuse(UnknownOption(name, values))
        values[name] = value
    return values


def options(values: dict[str, str], *names: str) -> list[str]:
    """`--name=value` for each name that has a value."""
    return [f"--{name}={values[name]}" for name in names if values[name].strip()]


def flag(values: dict[str, str], name: str) -> list[str]:
    """`--name` where its value is 'true'; other words than true and false are refused."""
    value = values[name].strip().lower() or "false"
    if value not in ("true", "false"):
        refuse(InvalidOption(name, values[name], "true or false"))
    return [f"--{name}"] if value == "true" else []


def refuse(error: UsageError) -> NoReturn:
    sys.stderr.write(f"Error: {error}\n")
    sys.exit(error.exit_code)


def call(*command: str) -> None:
    """Runs a repairops command in this process; exits with its exit code."""
    main(list(command), prog_name="repairops")
