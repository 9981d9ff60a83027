"""`repairops failures log|list|show`."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import click

from repairops.cli.console import answer, json_option, printable, table


@click.group()
def failures() -> None:
    """Log, list and show failure batches."""


@failures.command("log")
@click.argument("model")
@click.argument("path", type=click.Path(exists=True))
@click.option("--csv", "table", type=click.Path(exists=True), help="The CSV; default: failures.csv in the folder.")
@click.option("--source", default="", help="Where the images come from, for example the camera.")
@click.option(
    "--field",
    is_flag=True,
    help="They are a labelled sample of the traffic, right and wrong answers alike: the right ones judge a repair.",
)
@json_option
@click.pass_obj
def log_command(
    tracking_uri: str | None, model: str, path: str, table: str | None, source: str, field: bool, as_json: bool
) -> None:
    """Log field images that MODEL got wrong, with their true labels, as one batch.

    PATH is a folder with a CSV (columns file and label; also predicted, confidence, captured_at, source, group, field),
    or a parquet with an image column and the same columns. The same rows twice are one batch. With --field, or true in
    the column field, images that MODEL got right are taken too; they are never trained on.
    """
    from repairops.store.batch_pages import said
    from repairops.store.batches import log_rows
    from repairops.store.failure_files import rows_from_path

    rows = rows_from_path(path, table, source, field=field)
    batch = log_rows(model, rows, tracking_uri=tracking_uri)
    verb = "Logged" if batch.created else "Already logged:"
    text = f"{verb} {said(rows)} of {batch.model} as batch {batch.digest[:8]} (run {batch.run_id})."
    answer(as_json, vars(batch), text)


@failures.command("list")
@click.argument("model")
@json_option
@click.pass_obj
def list_command(tracking_uri: str | None, model: str, as_json: bool) -> None:
    """List the failure batches of MODEL, oldest first."""
    from repairops.store.batches import list_failures

    batches = list_failures(model, tracking_uri=tracking_uri)
    rows = [(b.digest[:8], b.rows, b.model_version or "-", _moment(b.logged_at), b.run_id) for b in batches]
    text = table(("batch", "rows", "model version", "logged at", "run"), rows)
    answer(as_json, [vars(batch) for batch in batches], text)


def _moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


@failures.command("show")
@click.argument("model")
@click.argument("batch")
@json_option
@click.pass_obj
def show_command(tracking_uri: str | None, model: str, batch: str, as_json: bool) -> None:
    """Show what one BATCH of MODEL (digest or run id) holds: labels, sources, groups."""
    from repairops.store.batches import choose_batches, fetch_rows, list_failures
    from repairops.store.connection import connect

    chosen = choose_batches(list_failures(model, tracking_uri=tracking_uri), batch)
    rows = fetch_rows(connect(tracking_uri), chosen)
    columns = {"labels": rows.label, "predicted": rows.predicted, "sources": rows.source}
    shown = {
        "batch": chosen[0].digest,
        "run": chosen[0].run_id,
        "rows": len(rows),
        **{name: dict(sorted(Counter(column).items())) for name, column in columns.items()},
        "groups": len(set(rows.group) - {""}),
        "bytes": sum(map(len, rows.image)),
        **({"field": sum(rows.field)} if any(rows.field) else {}),
    }
    texts = {
        name: ", ".join(f"{printable(k) or '(none)'}: {v}" for k, v in value.items())
        if isinstance(value, dict)
        else value
        for name, value in shown.items()
    }
    answer(as_json, shown, "\n".join(f"{name:<10} {text}" for name, text in texts.items()))
