"""`repairops clean`."""

from __future__ import annotations

import click

from repairops.cli.console import answer, json_option, table


@click.command()
@click.option(
    "--older-than", default=7.0, show_default=True, type=click.FloatRange(0), help="Days since the last change."
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@json_option
def clean(older_than: float, dry_run: bool, as_json: bool) -> None:
    """Remove what ended and interrupted jobs left on this machine, below REPAIROPS_HOME.

    An interrupted job whose folder is removed starts anew. The folder of a running job stays.
    """
    from repairops.store.room import clean as remove

    folders = remove(older_than, dry_run)
    gone = [folder for folder in folders if folder.state == "removed"]
    rows = [(each.path, _size(each.bytes), f"{each.days:.1f}", each.state) for each in folders]
    verb = "Would remove" if dry_run else "Removed"
    said = f"{verb} {len(gone)} of {len(folders)} folders, {_size(sum(each.bytes for each in gone))}."
    shown = [{**vars(each), "path": str(each.path)} for each in folders]
    answer(as_json, shown, f"{table(('folder', 'size', 'days', 'state'), rows)}\n\n{said}")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
