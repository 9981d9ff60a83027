"""What all commands share: data on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from repairops.gate.evidence import Check

COLOURS = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow"}
_VERDICTS = re.compile(r"\b(PASS|FAIL|INCONCLUSIVE)(ED)?\b")

json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")  # of every command


def printable(text: str, keep: str = "") -> str:
    """The text with what moves a terminal's cursor, colours it, or turns its direction written out (`\\x1b`, `\\n`).

    Labels, classes and folders have names that others gave. keep: characters that pass as they are.
    """
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def answer(as_json: bool, value: Any, text: str) -> None:
    """What a command has to say, on stdout: plain JSON values, or the text for people, whose lines are its own.

    Verdicts have their colour where stdout is a terminal, and NO_COLOR is not set.
    """
    if as_json:
        click.echo(json.dumps(value, indent=1, default=str))
        return
    text = printable(text, "\n")
    if not os.environ.get("NO_COLOR"):  # and click takes colours out of what is piped
        text = _VERDICTS.sub(lambda word: click.style(word[0], fg=COLOURS[word[1]], bold=True), text)
    click.echo(text)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows as aligned plain text with a heading; nothing but the heading where there are none.

    A line each, whatever its length; where stdout is a terminal, cells are folded so that lines fit it.
    """
    cells = [[printable(str(cell)) for cell in row] for row in (head, *rows)]
    if sys.stdout.isatty():
        return _folded(cells, shutil.get_terminal_size().columns)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines)


def _folded(cells: Sequence[Sequence[str]], width: int) -> str:
    """Rows of cells, the first row the heading, in lines of at most so many characters."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in cells[0]:
        found.add_column(Text(title), overflow="fold")
    for row in cells[1:]:
        found.add_row(*map(Text, row))
    console = Console(width=width, color_system=None)
    with console.capture() as shown:
        console.print(found)
    return "\n".join(line.rstrip() for line in shown.get().splitlines())


def checks_table(checks: Iterable[Check]) -> str:
    """The checks of a verdict."""
    return table(("check", "level", "result", "why"), [(c.name, c.level, c.result, c.summary) for c in checks])


class _Stderr(logging.StreamHandler[Any]):
    """What sys.stderr is when a line is written: while a progress bar shows, that puts lines above it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, stream: Any) -> None: ...


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), "\n")


def set_up_logging(quiet: bool) -> None:
    """Our own log lines go to stderr as they are; libraries speak up only from warnings on."""
    handler = _Stderr()
    handler.setFormatter(_Printable("%(message)s"))
    logger = logging.getLogger("repairops")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
