"""`repairops review` and `repairops history`: what a reviewer reads before and after he decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from repairops.cli.console import json_option, print_json, print_table

if TYPE_CHECKING:
    from repairops.promotion.reviews import Review
    from repairops.store.moves import Promotion


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
    from repairops.promotion.reviews import review as look

    found = look(model, version=version, tracking_uri=tracking_uri)
    if as_json:
        print_json(found.to_dict())
    else:
        _show(found)
    if open_page:
        _open(found, tracking_uri)


@click.command()
@click.argument("model")
@json_option
@click.pass_obj
def history(tracking_uri: str | None, model: str, as_json: bool) -> None:
    """List every move of MODEL's production alias: who, when, from, to, and on what evidence.

    A move that repairops did not make is listed as made outside repairops.
    """
    from repairops.promotion.verbs import history as read

    moves = read(model, tracking_uri=tracking_uri)
    if as_json:
        print_json([vars(move) for move in moves])
    else:
        print_table([_row(move) for move in moves], ["when", "from", "to", "by", "how", "evidence", "reason"])


def _show(found: Review) -> None:
    where = f"version {found.champion} under {found.alias!r}" if found.champion else f"no version under {found.alias!r}"
    click.echo(f"{found.model}: challenger version {found.challenger} against {where}")
    click.echo(f"{found.message}\n")
    rows = [{"check": c.name, "level": c.level, "result": c.result, "why": c.summary} for c in found.checks]
    print_table(rows, ["check", "level", "result", "why"])
    click.echo(f"\nVerdict: {found.recomputed}; recorded: {found.recorded}")
    for what, link in found.links.items():
        click.echo(f"{what.capitalize()}: {link}")
    if found.hindrance:
        click.echo(f"Not to be promoted now: {found.hindrance}")
    else:
        promote = f"repairops promote {found.alias}/{found.model} --version {found.challenger}"
        click.echo(f"Promote: {promote} --by NAME --reason TEXT")


def _open(found: Review, tracking_uri: str | None) -> None:
    import tempfile
    import webbrowser
    from pathlib import Path

    from repairops.promotion.reviews import fetch_report

    page = fetch_report(found, Path(tempfile.mkdtemp(prefix="repairops-review-")), tracking_uri)
    if not webbrowser.open(page.as_uri()):
        click.echo(f"No browser was found; the report is {page}", err=True)


def _row(move: Promotion) -> dict[str, str]:
    from datetime import UTC, datetime

    when = datetime.fromtimestamp(move.at / 1000, UTC).isoformat(timespec="seconds") if move.at else "not known"
    gate = f"gate {move.verdict}" if move.verdict else "none"
    run = f", run {move.evidence_run}" if move.evidence_run else ""
    return {
        "when": when,
        "from": move.version_from or "-",
        "to": move.version_to or "-",
        "by": move.by,
        "how": f"{move.kind}, forced" if move.forced and move.kind == "promotion" else move.kind,
        "evidence": "-" if move.kind == "outside" else gate + run,
        "reason": move.reason or "-",
    }
