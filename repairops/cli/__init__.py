"""The command line. Each command's module is imported only when it is called, so that help answers at once."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from repairops import __version__
from repairops.cli.console import Fail, set_up_logging

# Command -> (module, attribute, the line that `repairops --help` shows). Written by hand: help imports nothing.
COMMANDS = {
    "repair": ("repairops.cli.repair", "repair", "Repair a registered classifier from its logged failures."),
    "log": ("repairops.cli.log", "log", "Register a classifier with what a later repair needs to know."),
    "failures": ("repairops.cli.failures", "failures", "Log, list and show failure batches."),
    "review": ("repairops.cli.promotion", "review", "Show what speaks for and against a promotion."),
    "promote": ("repairops.cli.promotion", "promote", "Move the production alias to a repaired version."),
    "rollback": ("repairops.cli.promotion", "rollback", "Undo the last promotion."),
    "history": ("repairops.cli.promotion", "history", "List every move of the production alias."),
    "gate": ("repairops.cli.gate", "gate", "Recompute a verdict from an outcome.json."),
    "style": ("repairops.cli.style", "style", "Say and show what the field did to the images."),
    "methods": ("repairops.cli.methods", "methods", "List the repair methods."),
    "bench": ("repairops.cli.bench", "bench", "Compare repair methods on corrupted images, as the paper does."),
    "demo": ("repairops.cli.demo", "demo", "Run the whole story on real images in a folder of its own."),
    "doctor": ("repairops.cli.doctor", "doctor", "Check versions, GPU, registry, rights and disk."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and help, and imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        from repairops.errors import RepairError

        try:
            return super().invoke(ctx)
        except RepairError as error:
            if ctx.params.get("traceback"):
                raise
            raise Fail(str(error), error.exit_code) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="repairops")
@click.option("--tracking-uri", help="MLflow tracking server or database; default: MLflow's own setting.")
@click.option("--traceback", is_flag=True, help="Show where an error came from.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr, only warnings and errors.")
@click.pass_context
def main(ctx: click.Context, tracking_uri: str | None, traceback: bool, quiet: bool) -> None:
    """Repairs a deployed image classifier from its logged field failures, on top of MLflow.

    Exit codes: 0 done (also: nothing new to repair), 1 error, 2 usage, 3 gate failed, 4 gate inconclusive,
    5 registered, but the production alias was not moved.
    """
    set_up_logging(quiet)
    ctx.obj = tracking_uri
