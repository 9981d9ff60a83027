"""`repairops methods`."""

from __future__ import annotations

import click

from repairops.cli.console import json_option, print_json, print_table


@click.command()
@json_option
def methods(as_json: bool) -> None:
    """List the repair methods, their sources, and what differs from them."""
    from repairops.core.methods import METHODS

    rows = [
        {"method": name, "what": entry.summary, "source": entry.source, "differs": entry.differs}
        for name, entry in METHODS.items()
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(rows, ["method", "what", "source", "differs"])
