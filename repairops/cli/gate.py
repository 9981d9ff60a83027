"""`repairops gate`: a verdict checked again, offline."""

from __future__ import annotations

import sys

import click

from repairops.cli.console import answer, checks_table, json_option


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
    text = f"{checks_table(verdict.checks)}\n\nVerdict: {verdict.result}; recorded: {recorded}"
    answer(as_json, {**to_plain(verdict), "recorded": recorded}, text)
    sys.exit(EXIT_CODES[OF_VERDICT[verdict.result]] if verdict.result == recorded else 1)
