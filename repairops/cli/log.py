"""`repairops log`: a network from a file into the registry."""

from __future__ import annotations

import importlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from repairops.cli.console import answer, json_option

if TYPE_CHECKING:
    from torch import nn


@click.command()
@click.argument("name")
@click.option(
    "--factory", "model_factory", required=True, metavar="PACKAGE.MODULE:FUNCTION", help="Builds the network."
)
@click.option(
    "--weights", required=True, type=click.Path(exists=True, dir_okay=False), help="safetensors or a .pt state."
)
@click.option("--train-set", required=True, help="ImageFolder or parquet that the model was trained on.")
@click.option("--clean-set", required=True, help="ImageFolder or parquet that it never saw.")
@click.option(
    "--validation-set", help="More images that it never saw; repairs choose by them, and never judge by them."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="OPTION=VALUE", help="mean, std, image_size, class_names ..."
)
@click.option("--alias", default="prod", show_default=True, help="Moved to the new version; '' for none.")
@click.option(
    "--format",
    "serialization_format",
    type=click.Choice(["pickle", "pt2"]),
    default="pickle",
    show_default=True,
    help="pickle keeps the class; pt2 is a traced graph, which no pickle is run for.",
)
@click.option(
    "--code", "code_paths", multiple=True, type=click.Path(exists=True), help="The factory's package or file."
)
@json_option
@click.pass_obj
def log(
    tracking_uri: str | None, /, name: str, weights: str, overrides: tuple[str, ...], as_json: bool, **how: Any
) -> None:
    """Register a classifier as NAME with what a later repair needs to know.

    Size, channels and class names are read from the train set where --set does not give them; give --set mean=...
    and --set std=... unless the network normalises its input itself.
    """
    from repairops.config import load_config
    from repairops.data.sets import peek_image_size
    from repairops.data.sources import peek_class_names
    from repairops.promotion.log_model import log_model
    from repairops.store.champion import input_spec

    train_set = Path(how["train_set"])
    size = peek_image_size(train_set)
    found = dict(zip(("channels", "height", "width"), size, strict=True)) if size else {}
    config = load_config(overrides=[f"model.{override}" for override in overrides])
    spec = input_spec(name, config.model, {"input": found}, class_names=peek_class_names(train_set) or ())
    ref = log_model(load_network(how["model_factory"], weights), name, spec, tracking_uri=tracking_uri, **how)
    place = f" under the alias {ref.alias}" if ref.alias else ""
    answer(as_json, asdict(ref) | {"uri": ref.uri}, f"Registered version {ref.version} of {ref.name}{place}.")


def load_network(factory: str, weights: str) -> nn.Module:
    """The network that `factory` builds, with the weights of a file (no pickle is run)."""
    import torch
    from safetensors.torch import load_file

    from repairops.errors import UsageError

    module, _, function = factory.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        network: nn.Module = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, TypeError) as error:
        raise UsageError(f"--factory {factory!r} does not build a network: {error}.") from error
    finally:
        sys.path.pop(0)
    path = Path(weights)
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
        network.load_state_dict(state)
    except Exception as error:  # torch and safetensors raise many kinds for a file that does not fit
        why = " ".join(str(error).split())[:200]
        raise UsageError(f"--weights {weights} do not fit the network of {factory!r}: {why}.") from error
    return network
