"""`repairops style diagnose|show|fit`."""

from __future__ import annotations

from pathlib import Path

import click

from repairops.cli.console import json_option, print_json


@click.group()
def style() -> None:
    """Say and show what the field did to the images; fit a style's network."""


def field_options(function: click.decorators.FC) -> click.decorators.FC:
    """Where the failures and the train images come from."""
    options = (
        click.argument("model"),
        click.option("--failures", default="auto", show_default=True, help="Run ids or digests by comma; auto: all."),
        click.option("--train-set", type=click.Path(exists=True), help="Default: the one that was logged."),
        click.option("--config", "config_path", type=click.Path(exists=True), help="YAML file with options."),
        click.option("--set", "overrides", multiple=True, metavar="STAGE.OPTION=VALUE", help="One option; repeatable."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@style.command()
@field_options
@json_option
@click.pass_obj
def diagnose(
    tracking_uri: str | None,
    model: str,
    failures: str,
    train_set: str | None,
    config_path: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say in sentences what degradation the logged failures of MODEL show against its train set."""
    from repairops.config import load_config
    from repairops.stages.field import diagnose as look
    from repairops.stages.field import fetch_field

    config = load_config(config_path, overrides)
    found = look(fetch_field(model, failures, train_set, config, tracking_uri), config)
    if as_json:
        print_json(found)
        return
    click.echo(f"all        {found['summary']}")
    for cluster in found["clusters"]:
        click.echo(f"cluster {cluster['cluster']:<2} {cluster['look']}")


@style.command()
@field_options
@click.option("--style", "names", multiple=True, help="A style to show; repeatable. Default: all that need no weights.")
@click.option("--count", default=8, show_default=True, type=click.IntRange(1, 64), help="Images in a row.")
@click.option("--out", default="styles.png", show_default=True, type=click.Path(path_type=Path, dir_okay=False))
@json_option
@click.pass_obj
def show(
    tracking_uri: str | None,
    model: str,
    failures: str,
    train_set: str | None,
    config_path: str | None,
    overrides: tuple[str, ...],
    names: tuple[str, ...],
    count: int,
    out: Path,
    as_json: bool,
) -> None:
    """Make a picture of train images in every style, fitted to the logged failures of MODEL."""
    import torch

    from repairops.config import load_config
    from repairops.images import encode_png
    from repairops.stages.field import fetch_field, picture_styles
    from repairops.style import AUTO, STYLES

    config = load_config(config_path, overrides)
    shown = list(names) or [n for n in (*STYLES, AUTO) if n != "wct2" or config.style.weights]
    field = fetch_field(model, failures, train_set, config, tracking_uri)
    picture = picture_styles(field, shown, config, count)
    out.write_bytes(encode_png(torch.from_numpy(picture.transpose(2, 0, 1).copy())))
    rows = ["failures", "train images", *shown]
    if as_json:
        print_json({"picture": str(out), "rows": rows})
    else:
        click.echo(f"{out}, rows from the top: {', '.join(rows)}")
