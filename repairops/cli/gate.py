"""`repairops gate`: a verdict checked again, offline."""

from __future__ import annotations

import sys

import click

from repairops.cli.console import json_option, print_json, print_table


@click.command()
@click.argument("outcome", type=click.Path(exists=True, dir_okay=False))
@json_option
def gate(outcome: str, as_json: bool) -> None:
    """Recompute the verdict of an OUTCOME (outcome.json) from its counts and policy.

    Exits like the repair: 0 PASS, 3 FAIL, 4 INCONCLUSIVE; 1 where the recorded verdict is another one.
    """
    from repairops.outcome import EXIT_CODES, OF_VERDICT, read_outcome, recompute
    from repairops.outcome.plain import to_plain

    found = read_outcome(outcome)
    verdict = recompute(found)
    recorded = found.record.verdict.result if found.record.verdict else None
    if as_json:
        print_json({**to_plain(verdict), "recorded": recorded})
    else:
        rows = [{"check": c.name, "level": c.level, "result": c.result, "why": c.summary} for c in verdict.checks]
        print_table(rows, ["check", "level", "result", "why"])
        click.echo(f"\nVerdict: {verdict.result}; recorded: {recorded}")
    sys.exit(EXIT_CODES[OF_VERDICT[verdict.result]] if verdict.result == recorded else 1)
