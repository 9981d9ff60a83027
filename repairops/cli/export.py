"""`repairops export`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from repairops.cli.console import answer, json_option


@click.command()
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="STAGE.OPTION=VALUE", help="One option; repeatable.")
@json_option
@click.pass_obj
def export(tracking_uri: str | None, model: str, folder: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Write a version into FOLDER as an MLflow model that takes image files and answers class names.

    For versions that no repair has given such a form, whoever logged them; nothing in the registry changes. What the
    registry does not say of the input is said by --set model.mean=..., model.std=..., model.image_size=... and
    model.class_names=...
    """
    from repairops.config import load_config
    from repairops.stages.serving import export_form

    ref = export_form(model, folder, load_config(overrides=overrides), tracking_uri)
    command = f"mlflow models serve -m {shlex.quote(str(folder))} --env-manager local"
    answer(as_json, {"model": ref.uri, "folder": str(folder)}, f"Wrote {ref} into {folder}. Serve it:\n    {command}")
