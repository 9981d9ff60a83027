"""`repairops methods`."""

from __future__ import annotations

import click

from repairops.cli.console import answer, json_option, table


@click.command()
@json_option
def methods(as_json: bool) -> None:
    """List the repair methods, their sources, and what differs from them."""
    from repairops.core.methods import METHODS

    head = ("method", "what", "source", "differs")
    rows = [(name, entry.summary, entry.source, entry.differs) for name, entry in METHODS.items()]
    answer(as_json, [dict(zip(head, row, strict=True)) for row in rows], table(head, rows))
