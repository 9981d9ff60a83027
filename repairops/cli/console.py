"""What all commands share: data on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from repairops.gate.evidence import Check

json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")  # of every command


def printable(text: str, keep: str = "") -> str:
    """The text with what moves a terminal's cursor, colours it, or turns its direction written out (`\\x1b`, `\\n`).

    Labels, classes and folders have names that others gave. keep: characters that pass as they are.
    """
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def answer(as_json: bool, value: Any, text: str) -> None:
    """What a command has to say, on stdout: plain JSON values, or the text for people, whose lines are its own."""
    click.echo(json.dumps(value, indent=1, default=str) if as_json else printable(text, "\n"))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows as aligned plain text with a heading, a line each; nothing but the heading where there are none."""
    cells = [[printable(str(cell)) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines)


def checks_table(checks: Iterable[Check]) -> str:
    """The checks of a verdict."""
    return table(("check", "level", "result", "why"), [(c.name, c.level, c.result, c.summary) for c in checks])


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), "\n")


def set_up_logging(quiet: bool) -> None:
    """Our own log lines go to stderr as they are; libraries speak up only from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(message)s"))
    logger = logging.getLogger("repairops")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
