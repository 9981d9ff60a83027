"""What all commands share: data on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class Fail(click.ClickException):
    """A known error: one line on stderr and its own exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it on the class


def json_option(function: F) -> F:
    """The option --json of every reading command."""
    return click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")(function)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1, default=str))


def answer(as_json: bool, value: Any, text: str) -> None:
    """What a command has to say, on stdout: plain JSON values, or the text for people."""
    if as_json:
        print_json(value)
    else:
        click.echo(text)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as aligned plain text with a heading; nothing but the heading where there are none."""
    cells = [[column.replace("_", " ") for column in columns], *[[str(row[c]) for c in columns] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines)


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    click.echo(table(rows, columns))


def set_up_logging(quiet: bool) -> None:
    """Our own log lines go to stderr as they are; libraries speak up only from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("repairops")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
