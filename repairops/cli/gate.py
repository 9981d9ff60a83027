"""`repairops gate`: a verdict checked again; of a file offline."""

from __future__ import annotations

import os
import sys

import click

from repairops.cli.console import answer, checks_table, json_option

FILE = click.Path(exists=True, dir_okay=False)


@click.command()
@click.argument("outcome")
@json_option
@click.pass_context
def gate(ctx: click.Context, outcome: str, as_json: bool) -> None:
    """Recompute the verdict of an OUTCOME from its counts and policy.

    OUTCOME is an outcome.json, the run of a repair (runs:/ID), or the version that it registered (cls@challenger,
    models:/cls/2). Exits like the repair: 0 PASS, 3 FAIL, 4 INCONCLUSIVE; 1 where the recorded verdict is another one.
    """
    from repairops.outcome import EXIT_CODES, OF_VERDICT, read_outcome, recompute
    from repairops.outcome.plain import to_plain

    if ":/" not in outcome and (os.path.exists(outcome) or outcome.endswith(".json")):
        found = read_outcome(str(FILE(outcome, ctx=ctx)))
    else:
        from repairops.promotion.review import find_outcome

        found = find_outcome(outcome, ctx.obj)
    verdict = recompute(found)
    recorded = found.record.verdict.result if found.record.verdict else None
    text = f"{checks_table(verdict.checks)}\n\nVerdict: {verdict.result}; recorded: {recorded}"
    answer(as_json, {**to_plain(verdict), "recorded": recorded}, text)
    sys.exit(EXIT_CODES[OF_VERDICT[verdict.result]] if verdict.result == recorded else 1)
