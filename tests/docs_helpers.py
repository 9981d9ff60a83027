"""What the documentation says, as data: code blocks, tables, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import yaml

from repairops.cli import main
from repairops.config import option_names

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


def crontab(page: Path) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Settings and (times, command) of a page's cron blocks, as cron reads a user's table: a line is an entry."""
    settings, entries = {}, []
    for line in "\n".join(blocks(page, "cron")).splitlines():
        if re.match(r"\w+ *=", line):
            name, _, value = line.partition("=")
            settings[name.strip()] = value.strip()
        elif line.strip() and not line.lstrip().startswith("#"):
            entries.append((" ".join(line.split()[:5]), line.split(maxsplit=5)[5]))
    return settings, entries


def check_command(line: str) -> None:
    """A shell line with `repairops` names a command and options that it has; one with `mlflow run`, parameters."""
    known = {" ".join(path): command for path, command in commands()}
    points = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))["entry_points"]
    parts = [Path(part).name if part.endswith(("/repairops", "/mlflow")) else part for part in words(line)]
    if "mlflow" in parts and "run" in parts:
        entry = parts[parts.index("-e") + 1] if "-e" in parts else "main"
        given = [parts[i + 1].partition("=")[0] for i, part in enumerate(parts) if part == "-P"]
        assert set(given) <= set(points[entry]["parameters"]), line
    elif parts[0] == "repairops":
        rest = parts[1:]
        while rest and rest[0] in ("--traceback", "--quiet"):
            rest.pop(0)
        command = next(known[" ".join(rest[:n])] for n in (2, 1) if " ".join(rest[:n]) in known)
        used = {part.partition("=")[0] for part in rest if part.startswith("--")}
        assert used <= flags(command), line
        sets = [rest[i + 1] for i, part in enumerate(rest) if part == "--set"]
        prefix = "model." if rest[0] == "log" else ""
        assert {prefix + value.partition("=")[0] for value in sets} <= set(option_names()), line
