"""`repairops repair`, which is what `mlflow run .` calls, and `repairops consolidate`, a job of the same kind."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import reduce
from typing import Any

import click

from repairops.cli.console import answer, json_option

OPTIONS = {  # of the command -> of the configuration
    "preset": "preset",
    "policy": "gate.policy",
    "method": "method.name",
    "compare": "method.compare",
    "max_minutes": "training.max_minutes",
    "seed": "seed",
    "device": "training.device",
    "promote": "register.promote",
}
SHARED = (  # by both commands
    click.option("--train-set", help="ImageFolder or parquet; default: the one logged with the model."),
    click.option("--clean-set", help="ImageFolder or parquet that judges; default: the one logged with the model."),
    click.option(
        "--validation-set", help="Clean images new to the model, to choose by; default: as --clean-set, else a part."
    ),
    click.option(
        "--config",
        "config_file",
        envvar="REPAIROPS_CONFIG",
        help="YAML file with options by stage; also REPAIROPS_CONFIG.",
    ),
    click.option("--set", "overrides", multiple=True, metavar="STAGE.OPTION=VALUE", help="One option; repeatable."),
    click.option("--policy", help="YAML file with the team's options of the gate; nothing else may set them then."),
    click.option(
        "--preset", type=click.Choice(["quick", "default", "paper"]), help="Named values for several options."
    ),
    click.option(
        "--max-minutes", type=float, help="Time limit of the training; the epoch under way is measured and kept."
    ),
    click.option("--seed", type=int, help="Seed of everything random."),
    click.option("--device", help="auto, cpu, cuda or cuda:N."),
    click.option(
        "--promote", type=click.Choice(["manual", "auto"]), help="'auto' moves the alias when the gate passes."
    ),
    click.option("--rerun", is_flag=True, help="Run again although this very job has an outcome already."),
    json_option,
    click.pass_obj,
)


def shared_options(command: Callable[..., None]) -> Callable[..., None]:
    return reduce(lambda found, option: option(found), reversed(SHARED), command)


@click.command()
@click.option("--model", default="prod/cls", show_default=True, help="prod/cls, cls@prod or models:/cls/3.")
@click.option("--failures", default="auto", show_default=True, help="Batches: 'auto', or run ids or digests, by comma.")
@click.option("--method", help="Repair method, see `repairops methods`.")
@click.option("--compare", help="A method to train and judge beside it, at its own cost, such as fine_tune.")
@shared_options
def repair(tracking_uri: str | None, /, **given: Any) -> None:
    """Repair a registered classifier from its logged failures.

    Validates the failures, clusters them, fine-tunes the model with their style, lets the gate decide on data that
    nothing was chosen by, and registers a repair that passes under the alias `challenger`. Started by torchrun, the
    training runs on all of its processes.
    """
    _run(tracking_uri, given)


@click.command()
@click.argument("model")
@click.option(
    "--failures",
    default="auto",
    show_default=True,
    help="'auto' for all that MODEL was repaired from, or some of them.",
)
@shared_options
def consolidate(tracking_uri: str | None, /, **given: Any) -> None:
    """Make one network again of MODEL, a guarded version of two.

    Trains the champion in it by the pair's answers, on clean and restyled images and on the failures that the version
    was repaired from. The same gate as a repair's decides, against the guarded version; what passes is registered under
    the alias `challenger`.
    """
    _run(tracking_uri, {**given, "method": "consolidate"})


def _run(tracking_uri: str | None, given: dict[str, Any]) -> None:
    """The job that the options ask for, in this process or in those of torchrun; exits with its outcome's code."""
    from repairops.config import load_config
    from repairops.core.followers import follow, leading
    from repairops.core.training.distributed import start_ranks
    from repairops.pipeline import repair as run_repair
    from repairops.report import render_terminal
    from repairops.stages.job import stoppable

    ranks = start_ranks()
    if not ranks.leads:
        return follow()
    config_file, overrides, as_json = (given.pop(name) for name in ("config_file", "overrides", "as_json"))
    options = [f"{option}={value}" for name, option in OPTIONS.items() if (value := given.pop(name, None)) is not None]
    with leading(ranks), stoppable():
        outcome = run_repair(
            config=load_config(config_file, [*overrides, *options]), tracking_uri=tracking_uri, **given
        )
    text = outcome.message if outcome.repeated else render_terminal(outcome.record)
    answer(as_json, {**outcome.values, "repeated": outcome.repeated}, text)
    sys.exit(outcome.exit_code)
