"""`repairops methods`."""

from __future__ import annotations

import click

from repairops.cli.console import answer, json_option, table


@click.command()
@json_option
def methods(as_json: bool) -> None:
    """List the repair methods, their sources, and what differs from them."""
    from repairops.core.methods import METHODS

    rows = [
        {"method": name, "what": entry.summary, "source": entry.source, "differs": entry.differs}
        for name, entry in METHODS.items()
    ]
    answer(as_json, rows, table(rows, ["method", "what", "source", "differs"]))
