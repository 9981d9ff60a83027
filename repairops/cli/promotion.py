"""`repairops promote` and `repairops rollback`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from repairops.cli.console import json_option, print_json

if TYPE_CHECKING:
    from repairops.store.moves import Promotion


@click.command()
@click.argument("model")
@click.option("--version", default="", help="Version to promote; default: the one under the alias challenger.")
@click.option("--by", default="", help="Who decides; default: the user that runs the command.")
@click.option("--reason", default="", help="Why, for the record.")
@click.option("--force", is_flag=True, help="Also without a passed gate; wants --reason and is recorded.")
@click.option("--stage", default="", help="Set this legacy stage of the version too, for example Production.")
@json_option
@click.pass_obj
def promote(
    tracking_uri: str | None, model: str, version: str, by: str, reason: str, force: bool, stage: str, as_json: bool
) -> None:
    """Move MODEL's production alias (prod/cls, or cls for its alias prod) to a repaired version.

    Refuses a version whose gate did not pass, or passed against another version than the alias is at, or judged other
    files than it has now.
    """
    from repairops.promotion.verbs import promote as move

    made = move(model, version=version, by=by, reason=reason, force=force, stage=stage, tracking_uri=tracking_uri)
    _show(made, as_json)


@click.command()
@click.argument("model")
@click.option("--by", default="", help="Who decides; default: the user that runs the command.")
@click.option("--reason", default="", help="Why, for the record.")
@json_option
@click.pass_obj
def rollback(tracking_uri: str | None, model: str, by: str, reason: str, as_json: bool) -> None:
    """Undo the last promotion of MODEL's production alias."""
    from repairops.promotion.verbs import rollback as move

    _show(move(model, by=by, reason=reason, tracking_uri=tracking_uri), as_json)


def _show(move: Promotion, as_json: bool) -> None:
    if as_json:
        print_json(vars(move))
    else:
        origin = f"from version {move.version_from} " if move.version_from else ""
        click.echo(f"The alias {move.alias} of {move.model} moved {origin}to version {move.version_to} (by {move.by}).")
