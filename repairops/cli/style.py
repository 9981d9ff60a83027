"""`repairops style diagnose|show|fit`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from repairops.cli.console import answer, json_option

if TYPE_CHECKING:
    from repairops.stages.field import Field

ASKED = 200  # images of a row that the guard is asked about


@click.group()
def style() -> None:
    """Say and show what the field did to the images; fit a style's network."""


def on_field(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the field that its options name: the failures, their clusters, the train set, the champion."""

    @click.argument("model")
    @click.option("--failures", default="auto", show_default=True, help="Run ids or digests by comma; auto: all.")
    @click.option("--train-set", type=click.Path(exists=True), help="Default: the one that was logged.")
    @click.option("--config", "config_path", type=click.Path(exists=True), help="YAML file with options.")
    @click.option("--set", "overrides", multiple=True, metavar="STAGE.OPTION=VALUE", help="One option; repeatable.")
    @click.pass_obj
    @functools.wraps(command)
    def with_field(
        tracking_uri: str | None, /, config_path: str | None, overrides: tuple[str, ...], **given: Any
    ) -> None:
        from repairops.config import load_config
        from repairops.stages.field import fetch_field

        model, failures, train_set = (given.pop(name) for name in ("model", "failures", "train_set"))
        config = load_config(config_path, overrides)
        command(fetch_field(model, failures, train_set, config, tracking_uri), **given)

    return with_field


@style.command()
@on_field
@json_option
def diagnose(field: Field, as_json: bool) -> None:
    """Say in sentences what degradation the logged failures of MODEL show against its train set."""
    from repairops.stages.field import diagnose as look

    found = look(field)
    lines = [f"cluster {cluster['cluster']:<2} {cluster['look']}" for cluster in found["clusters"]]
    answer(as_json, found, "\n".join([f"all        {found['summary']}", *lines]))


@style.command()
@on_field
@click.option("--style", "names", multiple=True, help="A style to show; repeatable. Default: all that need no weights.")
@click.option("--count", default=8, show_default=True, type=click.IntRange(1, 64), help="Images in a row.")
@click.option(
    "--out",
    default="styles.png",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The picture, a PNG.",
)
@json_option
def show(field: Field, names: tuple[str, ...], count: int, out: Path, as_json: bool) -> None:
    """Make a picture of train images in every style, fitted to the logged failures of MODEL; and ask a guard.

    The guard is fitted as in a repair. It says in how many of the images it sees the failures' look.
    """
    from repairops.core.styles import AUTO, STYLES
    from repairops.data.contact_sheet import as_png, image_grid
    from repairops.stages.field import ask_guard, fit_styles, restyle

    shown = list(names) or [n for n in (*STYLES, AUTO) if n != "wct2" or field.config.style.weights]
    own = field.config.style.name  # the guard's
    styles = fit_styles(field, [*shown, own])
    rows = restyle(field, {name: styles[name] for name in shown}, max(count, ASKED))
    out.write_bytes(as_png(image_grid([row[:count] for row in rows.values()])))
    told = ask_guard(field, styles[own], rows)
    separation = "-" if told["separation"] is None else f"{told['separation']:.3f}"
    lines = [
        f"{out}, rows from the top: {', '.join(rows)}",
        f"A guard tells failures from train images, neither of which it was fitted to: {separation}",
        "(area under the ROC curve; 0.5 = by chance). It sees the failures' look in",
        *(f"  {share:6.1%} of {len(rows[name])} {name}" for name, share in told["look"].items()),
    ]
    answer(as_json, {"picture": str(out), "rows": list(rows), "guard": told}, "\n".join(lines))


@style.command()
@click.argument("model")
@click.option("--train-set", type=click.Path(exists=True), help="Default: the one that was logged.")
@click.option(
    "--encoder",
    type=click.Choice(["trained", "vgg19"]),
    default="trained",
    show_default=True,
    help="trained: on the train set; vgg19: torchvision's, which is fetched unless --vgg names it.",
)
@click.option("--vgg", type=click.Path(exists=True, path_type=Path), help="State of torchvision's VGG-19, a .pth.")
@click.option(
    "--unpooling",
    type=click.Choice(["cat5", "sum"]),
    default="cat5",
    show_default=True,
    help="cat5 keeps bands and features apart; sum adds the bands up and is faster.",
)
@click.option("--steps", default=1000, show_default=True, type=click.IntRange(1), help="Of the training.")
@click.option(
    "--minutes", default=0.0, show_default=True, type=click.FloatRange(0), help="Of the training at most; 0: no limit."
)
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(1), help="Images in a step.")
@click.option(
    "--amp",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Convolutions in bfloat16 while training; auto: on a GPU that computes in it.",
)
@click.option(
    "--min-psnr", "least_psnr", default=25.0, show_default=True, help="Poorer reconstruction, in dB, is refused."
)
@click.option("--seed", default=0, show_default=True, help="Of the initial weights and the batches.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@json_option
@click.pass_obj
def fit(tracking_uri: str | None, /, model: str, train_set: str | None, as_json: bool, **how: Any) -> None:
    """Fit the network of the style wct2 to the train set of MODEL, and keep it in an MLflow run.

    Name it afterwards as style.weights=fitted:DIGEST. It needs no failures.
    """
    from repairops.stages.style_network import NetworkFit, fit_network

    logged = fit_network(model, train_set, NetworkFit(**how), tracking_uri)
    use = f"style.name=wct2 style.weights=fitted:{logged.digest[:16]}"
    text = f"Reconstruction {logged.psnr:.1f} dB. Kept in run {logged.run_id}; use it with {use}"
    answer(as_json, vars(logged), text)
