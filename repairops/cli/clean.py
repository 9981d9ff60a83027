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
    """Remove what jobs left on this machine, below REPAIROPS_HOME: folders, and image sets as they were decoded.

    An interrupted job whose folder is removed starts anew. The folder of a running job stays. A data set whose decoded
    images are removed is decoded again.
    """
    from repairops.store.room import clean as remove

    found = remove(older_than, dry_run)
    gone = [each for each in found if each.state == "removed"]
    rows = [(each.path, _size(each.bytes), f"{each.days:.1f}", each.state) for each in found]
    verb = "Would remove" if dry_run else "Removed"
    said = f"{verb} {len(gone)} of {len(found)} folders and files, {_size(sum(each.bytes for each in gone))}."
    shown = [{**vars(each), "path": str(each.path)} for each in found]
    answer(as_json, shown, f"{table(('place', 'size', 'days', 'state'), rows)}\n\n{said}")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
