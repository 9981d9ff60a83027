"""`repairops repair`: what `mlflow run .` calls."""

from __future__ import annotations

import sys

import click

from repairops.cli.console import json_option, print_json


@click.command()
@click.option("--model", default="prod/cls", show_default=True, help="prod/cls, cls@prod or models:/cls/3.")
@click.option("--failures", default="auto", show_default=True, help="Batches: 'auto', or run ids or digests, by comma.")
@click.option("--train-set", help="ImageFolder or parquet; default: the one logged with the model.")
@click.option("--clean-set", help="ImageFolder or parquet that judges; default: the one logged with the model.")
@click.option(
    "--validation-set", help="Clean images new to the model, to choose by; default: as --clean-set, else a part."
)
@click.option(
    "--config", "config_file", envvar="REPAIROPS_CONFIG", help="YAML file with options by stage; also REPAIROPS_CONFIG."
)
@click.option("--set", "overrides", multiple=True, metavar="STAGE.OPTION=VALUE", help="One option; may be repeated.")
@click.option("--policy", help="YAML file with the team's options of the gate; nothing else may set them then.")
@click.option("--method", help="Repair method, see `repairops methods`.")
@click.option("--preset", type=click.Choice(["quick", "default", "paper"]), help="Named values for several options.")
@click.option("--max-minutes", type=float, help="Time limit of the training; the epoch under way is measured and kept.")
@click.option("--seed", type=int, help="Seed of everything random.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--promote", type=click.Choice(["manual", "auto"]), help="'auto' moves the alias when the gate passes.")
@click.option("--rerun", is_flag=True, help="Repair again although this very job has an outcome already.")
@json_option
@click.pass_obj
def repair(
    tracking_uri: str | None,
    model: str,
    failures: str,
    train_set: str | None,
    clean_set: str | None,
    validation_set: str | None,
    config_file: str | None,
    overrides: tuple[str, ...],
    policy: str | None,
    method: str | None,
    preset: str | None,
    max_minutes: float | None,
    seed: int | None,
    device: str | None,
    promote: str | None,
    rerun: bool,
    as_json: bool,
) -> None:
    """Repair a registered classifier from its logged failures.

    Validates the failures, clusters them, fine-tunes the model with their style, lets the gate decide on data that
    nothing was chosen by, and registers a repair that passes under the alias `challenger`. Started by torchrun, the
    training runs on all of its processes.
    """
    from repairops.config import load_config
    from repairops.core.followers import follow, leading
    from repairops.core.training.ranks import start_ranks
    from repairops.pipeline import repair as run_repair

    ranks = start_ranks()
    if not ranks.leads:
        return follow()
    options = {
        "preset": preset,
        "gate.policy": policy,
        "method.name": method,
        "training.max_minutes": max_minutes,
        "seed": seed,
        "training.device": device,
        "register.promote": promote,
    }
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    with leading(ranks):
        outcome = run_repair(
            model,
            failures=failures,
            train_set=train_set,
            clean_set=clean_set,
            validation_set=validation_set,
            config=load_config(config_file, [*overrides, *given]),
            rerun=rerun,
            tracking_uri=tracking_uri,
        )
    if as_json:
        print_json({**outcome.values, "repeated": outcome.repeated})
    else:
        from repairops.report import render_terminal

        click.echo(outcome.message if outcome.repeated else render_terminal(outcome.record))
    sys.exit(outcome.exit_code)
