"""The command line. Each command's module is imported only when it is called, so that help answers at once."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import click

from repairops import __version__
from repairops.cli.console import printable, set_up_logging

# Command -> (its module, the line that `repairops --help` shows). Written by hand: help imports nothing.
COMMANDS = {
    "repair": ("repair", "Repair a registered classifier from its logged failures."),
    "consolidate": ("repair", "Make one network again of a guarded version's two."),
    "log": ("log", "Register a classifier with what a later repair needs to know."),
    "failures": ("failures", "Log, list and show failure batches."),
    "review": ("promotion", "Show what speaks for and against a promotion."),
    "promote": ("promotion", "Move the production alias to a repaired version."),
    "rollback": ("promotion", "Undo the last promotion."),
    "history": ("promotion", "List every move of the production alias."),
    "gate": ("gate", "Recompute a verdict from an outcome.json."),
    "style": ("style", "Say and show what the field did to the images."),
    "export": ("export", "Write a version as an MLflow model that takes image files."),
    "guard": ("guard", "Ask a version's guard how far the failures' look has spread."),
    "triage": ("triage", "Choose which unlabelled field images are most worth a label."),
    "clean": ("clean", "Remove what ended and interrupted jobs left on this machine."),
    "methods": ("methods", "List the repair methods."),
    "bench": ("bench", "Compare repair methods on corrupted images, as the paper does."),
    "demo": ("demo", "Run the whole story on real images in a folder of its own."),
    "doctor": ("doctor", "Check versions, GPU, registry, rights and disk."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and help, and imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"repairops.cli.{COMMANDS[name][0]}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, which knows the names of imported commands alone, and suggests from these."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            from repairops.errors import did_you_mean

            ctx.fail(f"No such command {args[0]!r}.{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Whatever a command raises ends as one line and an exit code; click's own exceptions are click's to show."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.params.get("traceback"):
                raise
            from repairops.errors import foreseen

            known = foreseen(error)
            click.echo(f"Error: {printable(str(known))}", err=True)
            ctx.exit(known.exit_code)


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
    # Read when PyTorch is imported. A thread that waits for others sleeps; it would spin, also where they lack a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    ctx.obj = tracking_uri
