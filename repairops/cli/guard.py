"""`repairops guard score`."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from repairops.cli.console import answer, json_option, table

if TYPE_CHECKING:
    from repairops.stages.score import Scores

SHOWN = 20  # files that could not be read, named on stderr


@click.group()
def guard() -> None:
    """Ask a version's guard how far the failures' look has spread."""


@guard.command()
@click.argument("model")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the CSV into this file, and nothing to stdout.",
)
@click.option("--set", "overrides", multiple=True, metavar="STAGE.OPTION=VALUE", help="One option; repeatable.")
@json_option
@click.pass_obj
def score(
    tracking_uri: str | None, model: str, folder: Path, output: Path | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Ask the guard of MODEL about the images in FOLDER, at any depth: no labels are needed.

    A line for each image: file, the guard's probability that it has the failures' look, and who answers it: champion,
    repaired or both. On stderr a summary by source, which is the folder inside FOLDER, and the files that could not be
    read.
    """
    from repairops.config import load_config
    from repairops.errors import UsageError
    from repairops.stages.score import score_folder

    found = score_folder(model, folder, load_config(overrides=overrides), tracking_uri)
    if output:
        try:
            with output.open("w", newline="", encoding="utf-8") as file:
                _write(found, file)
        except OSError as error:
            raise UsageError(f"--output {output} cannot be written ({error.strerror}). Name another file.") from error
    if as_json:
        answer(True, found.to_dict(), "")
        return
    if not output:
        _write(found, sys.stdout)
    click.echo(_summary(found), err=True)


def _write(found: Scores, file: TextIO) -> None:
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(("file", "probability", "answers"))
    rows.writerows((image.file, f"{image.probability:.4f}", image.answers) for image in found.images)


def _summary(found: Scores) -> str:
    """Sources by their share of routed images, largest first, and what could not be read."""
    rows = [
        (part.source or "(none)", part.images, part.routed, f"{part.share:.1%}", f"{part.mean_probability:.3f}")
        for part in found.sources()
    ]
    text = table(("source", "images", "routed", "share", "mean probability"), rows)
    if not found.unreadable:
        return text
    named = [f"  {file}: {why}" for file, why in list(found.unreadable.items())[:SHOWN]]
    left = len(found.unreadable) - SHOWN
    named += [f"  and {left} more, which --json names"] if left > 0 else []
    count = len(found.unreadable)
    return "\n".join([text, f"{count} {'file' if count == 1 else 'files'} could not be read:", *named])
