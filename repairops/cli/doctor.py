"""`repairops doctor`: one line for each thing that a repair needs, with the mend."""

from __future__ import annotations

import sys

import click

from repairops.cli.console import json_option, print_json


@click.command()
@json_option
@click.pass_obj
def doctor(tracking_uri: str | None, as_json: bool) -> None:
    """Check versions, GPU, registry, rights and disk; exits 1 where something must be mended."""
    from repairops.doctor import examine

    findings = examine(tracking_uri)
    if as_json:
        print_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            mend = f"  ->  {finding.mend}" if finding.mend else ""
            click.echo(f"{finding.state:<5} {finding.what}: {finding.value}{mend}")
    sys.exit(1 if any(finding.state == "error" for finding in findings) else 0)
