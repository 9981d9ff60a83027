"""`repairops triage`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from repairops.cli.console import answer, json_option, table

if TYPE_CHECKING:
    from repairops.stages.triage import Triage

SCORES = ("confidence", "margin", "gini", "lsa", "dsa", "mahalanobis", "guard")
SHOWN = 20  # files that could not be read, named in the summary


@click.command()
@click.argument("model")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--count", default=200, show_default=True, type=click.IntRange(1), help="Images to choose.")
@click.option("--score", default="gini", show_default=True, type=click.Choice(SCORES), help="What they are chosen by.")
@click.option("--layers", default="", help="Whose output surprise is measured in, by comma; default: before the last.")
@click.option(
    "--clusters",
    default=20,
    show_default=True,
    type=click.IntRange(1),
    help="Over which the choice is spread; 1: by the score alone.",
)
@click.option("--train-set", help="ImageFolder or parquet; default: the one logged with the model.")
@click.option(
    "--reference", default=2000, show_default=True, type=click.IntRange(1), help="Train images to measure surprise by."
)
@click.option(
    "--output",
    default="triage.csv",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The CSV to fill in.",
)
@click.option(
    "--sheet",
    default="triage.html",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The contact sheet.",
)
@click.option("--set", "overrides", multiple=True, metavar="STAGE.OPTION=VALUE", help="One option; repeatable.")
@click.option("--seed", default=0, show_default=True, help="Of the train images and of the clusters.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@json_option
@click.pass_obj
def triage(
    tracking_uri: str | None,
    /,
    model: str,
    folder: Path,
    layers: str,
    output: Path,
    sheet: Path,
    overrides: tuple[str, ...],
    seed: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Choose which of the unlabelled images in FOLDER, at any depth, are most worth a label for MODEL.

    Writes a CSV, best first, whose column label is to be filled in; `repairops failures log MODEL FOLDER --csv CSV`
    takes it then. Beside it a page with the images. A CSV in which labels stand is never overwritten.
    """
    from repairops.config import load_config
    from repairops.errors import InvalidOption, UsageError
    from repairops.report.sheet import render_sheet
    from repairops.stages.triage import TriageOptions, has_labels, sheet_of, triage_folder, write_table

    if has_labels(output):
        raise InvalidOption("--output", str(output), "another file: labels stand in this one. Log it, or move it")
    options = TriageOptions(layers=tuple(name.strip() for name in layers.split(",") if name.strip()), **given)
    config = load_config(overrides=[*overrides, f"seed={seed}"])
    found = triage_folder(model, folder, options, config, tracking_uri)
    page = render_sheet(sheet_of(found, model, str(output), config))
    for option, file in (("--output", output), ("--sheet", sheet)):
        try:
            with file.open("w", newline="", encoding="utf-8") as opened:
                opened.write(page) if option == "--sheet" else write_table(found, opened)
        except OSError as error:
            raise UsageError(f"{option} {file} cannot be written ({error.strerror}). Name another file.") from error
    files = {"csv": str(output), "sheet": str(sheet)}
    answer(as_json, {**found.to_dict(), **files}, _summary(found, files))


def _summary(found: Triage, files: Mapping[str, str]) -> str:
    """Chosen images by source, where they are, and what could not be read."""
    rows = [(source or "(none)", images, chosen) for source, images, chosen in found.by_source()]
    images = sum(found.sources.values())
    lines = [
        table(("source", "images", "chosen"), rows),
        f"{len(found.chosen)} of {images} images chosen by {found.score}, activations of {', '.join(found.layers)}.",
        f"Fill in the column label of {files['csv']}; {files['sheet']} shows the images.",
    ]
    if found.copies:
        verbs = ("has", "is") if found.copies == 1 else ("have", "are")
        lines.append(f"{found.copies} {verbs[0]} the pixels of another and {verbs[1]} not chosen.")
    if found.unreadable:
        count = len(found.unreadable)
        lines.append(f"{count} {'file' if count == 1 else 'files'} could not be used:")
        lines += [f"  {file}: {why}" for file, why in list(found.unreadable.items())[:SHOWN]]
        lines += [f"  and {count - SHOWN} more, which --json names"] if count > SHOWN else []
    return "\n".join(lines)
