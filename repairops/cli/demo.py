"""`repairops demo`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from repairops.cli.console import answer, json_option


@click.command()
@click.option("--folder", default="demo-out", show_default=True, help="Where the demo keeps its registry and files.")
@click.option("--data", type=click.Path(exists=True), help="ImageFolder or parquet instead of scikit-learn's digits.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
@json_option
@click.pass_obj
def demo(tracking_uri: str | None, folder: str, data: str | None, seed: int, as_json: bool) -> None:
    """Run the whole story on real images: train and register a champion, let a failing scanner fool it, repair it.

    Uses an embedded sqlite registry in its own folder, or the server of --tracking-uri.
    """
    from repairops.demo.story import run_demo, summary

    result = run_demo(Path(folder), data=Path(data) if data else None, seed=seed, tracking_uri=tracking_uri or "")
    values = {**result.outcome.values, "report": str(result.report), "tracking_uri": result.tracking_uri}
    answer(as_json, values, summary(result))
    sys.exit(result.outcome.exit_code)
