"""What MLflow's pages say of a registered model and its versions: what they take and answer, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from repairops.data.records import InputSpec
from repairops.store.connection import talking

if TYPE_CHECKING:
    from mlflow import MlflowClient

_NAMES = 12  # classes that a description names


def describe_model(client: MlflowClient, name: str, spec: InputSpec) -> None:
    """Describes a registered model that has no description."""
    with talking("describe the model"):
        if client.get_registered_model(name).description:
            return
        images = f"{spec.height}x{spec.width} {'grey' if spec.channels == 1 else 'colour'} images"
        text = (
            f"Image classifier: {images} to {spec.classes} classes ({_classes(spec)}).\n\n"
            "What is served stands under a production alias, such as `prod`; a repair that passed its gate waits under "
            f"`challenger`. `repairops history {name}` lists the moves."
        )
        client.update_registered_model(name, text)


def version_description(name: str, alias: str, spec: InputSpec, sets: Sequence[str]) -> str:
    """Of a version that `log_model` registers. sets: the roles of the data sets that were logged with it."""
    given = f"with its {' and '.join(sets)}" if sets else "without its data sets, which a repair must then be given"
    model = f"{alias or 'ALIAS'}/{name}"
    return (
        f"**What it takes and answers.** {input_sentence(spec)}\n\n"
        f"Classes: {_classes(spec)}.\n\nLogged {given}.\n\n"
        f"**What to do next.** Log what it gets wrong: `repairops failures log {model} FOLDER`; then repair it: "
        f"`mlflow run . -P model={model}`."
    )


def input_sentence(spec: InputSpec) -> str:
    """What a version takes and answers, as its signature cannot say it."""
    (low, high), mean, std = spec.value_range, _numbers(spec.mean), _numbers(spec.std)
    value = (
        "p / 255"
        if (low, high) == (0, 1)
        else "p"
        if (low, high) == (0, 255)
        else f"{low:g} + p / 255 * {high - low:g}"
    )
    return (
        f"float32 (N, {spec.channels}, {spec.height}, {spec.width}), in which a pixel p of 0..255 is "
        f"({value} - {mean}) / {std}; answers logits, float32 (N, {spec.classes})."
    )


def _classes(spec: InputSpec) -> str:
    more = spec.classes - _NAMES
    names = ", ".join(f"`{name.replace('`', chr(39))}`" for name in spec.class_names[:_NAMES])
    return names + (f" and {more} more" if more > 0 else "")


def _numbers(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"({', '.join(f'{value:g}' for value in values)})"
