"""`repairops bench run` and `report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from repairops.cli.console import answer, json_option

FOLDER = "bench-out"
FOUND, ANY = click.Path(exists=True, path_type=Path), click.Path(path_type=Path)


def _split(_context: click.Context, _option: click.Parameter, text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


@click.group()
def bench() -> None:
    """Compare repair methods on corrupted images, as the paper does."""


@bench.command()
@click.option(
    "--preset", default="cpu-mini", show_default=True, help="digits, cpu-mini, cpu, cpu-accurate, gpu or paper."
)
@click.option(
    "--data", nargs=2, type=FOUND, metavar="TRAIN CLEAN", help="Train and clean set: ImageFolders or parquet files."
)
@click.option("--cifar10", type=ANY, help="CIFAR-10 in this folder; downloaded if it is not.")
@click.option(
    "--cifar10-c",
    "published",
    type=FOUND,
    help="Folder of CIFAR-10-C's .npy files, used in place of corruptions made here.",
)
@click.option("--out", default=FOLDER, show_default=True, type=ANY, help="The grid's folder.")
@click.option(
    "--cells", "filters", multiple=True, help="Only cells with one of these parts, by comma; may be repeated to narrow."
)
@click.option("--networks", default="", callback=_split, help="By comma, in place of the preset's.")
@click.option("--rivals", default="", callback=_split, help="By comma, in place of the preset's.")
@click.option("--seeds", default="", callback=_split, help="By comma, in place of the preset's.")
@click.option(
    "--budget",
    type=click.IntRange(min=0),
    default=0,
    help="For each rival, in training steps of plain fine-tuning; default: the preset's.",
)
@click.option(
    "--failures", type=click.IntRange(min=0), default=0, help="Size of the failure batch; default: the preset's."
)
@click.option(
    "--others",
    type=click.IntRange(min=0),
    help="Also measure the preset's other corruptions, on so many images each (0 = all).",
)
@click.option("--device", default="", help="auto, cpu, cuda or cuda:N; default: the preset's.")
@click.option("--workers", type=int, default=0, help="Processes; default: one for each core on a CPU, one on a GPU.")
@json_option
def run(seeds: tuple[str, ...], others: int | None, workers: int, as_json: bool, **how: Any) -> None:
    """Compute the cells of a preset: those that are not done yet, as far as nobody else is computing them.

    May be stopped and started again at any time, and started several times at once on one folder.
    """
    from repairops.bench.run import Request
    from repairops.bench.run import run as run_cells
    from repairops.errors import InvalidOption

    if not all(seed.isdigit() for seed in seeds):
        raise InvalidOption("--seeds", ",".join(seeds), "whole numbers by comma")
    numbers = tuple(map(int, seeds))
    states = run_cells(Request(seeds=numbers, others=-1 if others is None else others, **how), workers)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    answer(as_json, dict(states), f"{counts}\nTables and plots: repairops bench report --from {how['out']}")
    sys.exit(1 if states["failed"] == sum(states.values()) else 0)


@bench.command()
@click.option(
    "--from", "source", default=FOLDER, show_default=True, type=FOUND, help="A grid's folder, or a file of JSON lines."
)
@click.option("--to", "folder", type=ANY, help="Folder of the report; default: the grid's own.")
@click.option("--mlflow", "experiment", default="", help="Also log it to this MLflow experiment, with the champions.")
@json_option
@click.pass_obj
def report(tracking_uri: str | None, source: Path, folder: Path | None, experiment: str, as_json: bool) -> None:
    """Write the paper's tables and plots from the cells that are done, beside the paper's own figures."""
    from repairops.bench.report import write_report

    folder = folder or (source / "report" if source.is_dir() else source.parent / "report")
    page, tables = write_report(source, folder)
    run = ""
    if experiment:
        from repairops.store.benchmarks import log_benchmark

        run = log_benchmark(folder, source, experiment, tracking_uri)
    found = {t.name: [dict(zip(t.columns, row, strict=True)) for row in t.rows] for t in tables}
    text = f"{page.read_text(encoding='utf-8')}\nWritten to {folder}" + (f", logged as run {run}" if run else "")
    answer(as_json, {"report": str(page), "mlflow_run": run, "tables": found}, text)
