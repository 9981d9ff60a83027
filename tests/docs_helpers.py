"""What the documentation says, as data: code blocks, tables, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from repairops.cli import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def shell_lines(page: Path) -> list[str]:
    """The lines of a page's shell blocks, continued lines joined, comments left out."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def words(line: str) -> list[str]:
    """A shell line as words; a shell variable stays as it is written."""
    return shlex.split(line, comments=True)


def table_rows(page: Path, heading: str = "") -> list[list[str]]:
    """The cells of a page's table rows, below `heading` up to the next heading of any level where one is given."""
    text = page.read_text(encoding="utf-8")
    if heading:
        text = re.split(r"^#+ ", text.split(f"\n{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")] for line in lines]
    return [row for row in rows if not set("".join(row)) <= set("- |")]


def commands(
    group: click.Group | None = None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands below `repairops` as (words, command), groups too."""
    group = group or main
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def flags(command: click.Command) -> set[str]:
    """The option flags that a command takes."""
    return {flag for option in command.params if isinstance(option, click.Option) for flag in option.opts}
