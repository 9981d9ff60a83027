"""`repairops review`, `promote`, `rollback` and `history`: what a reviewer reads and decides, and what came of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from repairops.cli.console import answer, checks_table, json_option, table

if TYPE_CHECKING:
    from repairops.promotion.history import Promotion
    from repairops.promotion.review import Review

by_option = click.option("--by", default="", help="Who decides; default: the user that runs the command.")
reason_option = click.option("--reason", default="", help="Why, for the record.")


@click.command()
@click.argument("model")
@click.option("--version", default="", help="Version to review; default: the one under the alias challenger.")
@click.option("--open", "open_page", is_flag=True, help="Show its report in the browser too.")
@json_option
@click.pass_obj
def review(tracking_uri: str | None, model: str, version: str, open_page: bool, as_json: bool) -> None:
    """Show what speaks for and against promoting a version of MODEL (prod/cls, or cls for its alias prod).

    The verdict is computed again from the counts of the repair's outcome.json.
    """
    from repairops.promotion import review as reviews

    found = reviews.review(model, version=version, tracking_uri=tracking_uri)
    answer(as_json, asdict(found), _account(found))
    if open_page:
        import tempfile
        import webbrowser
        from pathlib import Path

        page = reviews.fetch_report(found, Path(tempfile.mkdtemp(prefix="repairops-review-")), tracking_uri)
        if not webbrowser.open(page.as_uri()):
            click.echo(f"No browser was found; the report is {page}", err=True)


@click.command()
@click.argument("model")
@click.option("--version", default="", help="Version to promote; default: the one under the alias challenger.")
@by_option
@reason_option
@click.option("--force", is_flag=True, help="Also without a passed gate; wants --reason and is recorded.")
@click.option("--stage", default="", help="Set this legacy stage of the version too, for example Production.")
@json_option
@click.pass_obj
def promote(tracking_uri: str | None, /, model: str, as_json: bool, **how: Any) -> None:
    """Move MODEL's production alias (prod/cls, or cls for its alias prod) to a repaired version.

    Refuses a version whose gate did not pass, or passed against another version than the alias is at, or judged other
    files than it has now.
    """
    from repairops.promotion import move

    made = move.promote(model, **how, tracking_uri=tracking_uri)
    answer(as_json, vars(made), _moved(made))


@click.command()
@click.argument("model")
@by_option
@reason_option
@json_option
@click.pass_obj
def rollback(tracking_uri: str | None, model: str, by: str, reason: str, as_json: bool) -> None:
    """Undo the last promotion of MODEL's production alias."""
    from repairops.promotion import move

    made = move.rollback(model, by=by, reason=reason, tracking_uri=tracking_uri)
    answer(as_json, vars(made), _moved(made))


@click.command()
@click.argument("model")
@json_option
@click.pass_obj
def history(tracking_uri: str | None, model: str, as_json: bool) -> None:
    """List every move of MODEL's production alias: who, when, from, to, and on what evidence.

    A move that repairops did not make is listed as made outside repairops.
    """
    from repairops.promotion import history as record

    moves = record.history(model, tracking_uri=tracking_uri)
    head = ("when", "from", "to", "by", "how", "evidence", "reason")
    answer(as_json, [vars(move) for move in moves], table(head, map(_row, moves)))


def _moved(move: Promotion) -> str:
    origin = f"from version {move.version_from} " if move.version_from else ""
    return f"The alias {move.alias} of {move.model} moved {origin}to version {move.version_to} (by {move.by})."


def _account(found: Review) -> str:
    where = f"version {found.champion} under {found.alias!r}" if found.champion else f"no version under {found.alias!r}"
    command = f"repairops promote {found.alias}/{found.model} --version {found.challenger} --by NAME --reason TEXT"
    lines = [
        f"{found.model}: challenger version {found.challenger} against {where}",
        f"{found.message}\n",
        checks_table(found.checks),
        f"\nVerdict: {found.recomputed}; recorded: {found.recorded}",
        *(f"{what.capitalize()}: {link}" for what, link in found.links.items()),
        f"Not to be promoted now: {found.hindrance}" if found.hindrance else f"Promote: {command}",
    ]
    return "\n".join(lines)


def _row(move: Promotion) -> tuple[str, ...]:
    from datetime import UTC, datetime

    when = datetime.fromtimestamp(move.at / 1000, UTC).isoformat(timespec="seconds") if move.at else "not known"
    how = f"{move.kind}, forced" if move.forced and move.kind == "promotion" else move.kind
    gate = f"gate {move.verdict}" if move.verdict else "none"
    evidence = f"{gate}, run {move.evidence_run}" if move.evidence_run else gate
    evidence = "-" if move.kind == "outside" else evidence
    return when, move.version_from or "-", move.version_to or "-", move.by, how, evidence, move.reason or "-"
