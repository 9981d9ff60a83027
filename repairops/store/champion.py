"""The pinned model version, loaded: its network, what it expects, and how its repaired version is stored."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.fx import GraphModule

from repairops.config import ModelConfig
from repairops.config.load import read_yaml
from repairops.data.records import InputSpec
from repairops.errors import (
    InvalidOption,
    MetadataUnusable,
    MissingInputSpec,
    NoGradient,
    NotAClassifier,
    NotFineTunable,
    PickleRefused,
    RepairError,
    UnreadableConfiguration,
    UsageError,
    listing,
    one_line,
)
from repairops.model.device import set_mode
from repairops.model.guarded import SHIPPED
from repairops.model.network import Classifier
from repairops.model.routing import form_of, guarded_from
from repairops.model.traced import frozen_statistics
from repairops.outcome.plain import Unfit, from_plain
from repairops.store.connection import talking
from repairops.store.flavors import METADATA_KEY, quiet_mlflow
from repairops.store.models import ModelRef

_DEPTH = 50  # of an MLmodel file, at most
OF_BOTH = ("channels", "value_range", "mean", "std", "class_names", "resize")  # the options and the specification
PICKLES = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
GUARD_KEY = "guard"  # in the metadata of a guarded version


@dataclass(frozen=True, eq=False)
class Champion:
    """A loaded model version.

    folder: the downloaded MLflow model; the repaired version takes requirements, code and signature from it.
    frozen: running statistics of a pt2 graph that no training moves, by name: it reads them in a way that is not known.
    """

    ref: ModelRef
    classifier: Classifier
    folder: Path
    serialization_format: str
    metadata: Mapping[str, Any]
    frozen: tuple[str, ...] = ()

    @property
    def spec(self) -> InputSpec:
        return self.classifier.spec


def fetch_champion(
    ref: ModelRef,
    config: ModelConfig,
    folder: Path,
    class_names: tuple[str, ...] = (),
    shape: tuple[int, int, int] | None = None,
) -> Champion:
    """Downloads the version into `folder` and loads it on the CPU in eval mode.

    class_names: used where neither the options nor the model's metadata name the classes. shape: channels, height and
    width of the images at hand; what is proposed where nothing says what the model takes.

    Raises NotAClassifier, NotFineTunable, PickleRefused, MissingInputSpec, InvalidInputSpec.
    """
    _download(ref, folder)
    return open_champion(ref, config, folder, class_names, shape)


def open_champion(
    ref: ModelRef,
    config: ModelConfig,
    folder: Path,
    class_names: tuple[str, ...] = (),
    shape: tuple[int, int, int] | None = None,
) -> Champion:
    """The version as it lies in `folder`; see `fetch_champion`."""
    data, metadata, signature = _described(ref, folder)
    spec = input_spec(ref, config, metadata, signature, class_names, shape)
    serialization_format = "pt2" if (data / "model.pt2").exists() else "pickle"
    traced = serialization_format == "pt2"
    network = _load_network(ref, folder, traced)
    factory = config.factory or metadata.get("model_factory", "")
    if traced and GUARD_KEY in metadata:
        # The version that it goes back to may say nothing of its input, where the options of its repair did.
        unguarded = partial(fetch_champion, config=_saying(config, spec), folder=folder.with_name("unguarded"))
        network = _with_its_networks(ref, metadata[GUARD_KEY], network, unguarded)
    elif factory and traced:
        network = _rebuild(ref, factory, network)
    if not any(p.requires_grad and p.is_floating_point() for p in network.parameters()):
        raise NoGradient(str(ref), "none of its parameters can be trained")
    frozen = [name for part in network.modules() if isinstance(part, GraphModule) for name in frozen_statistics(part)]
    return Champion(ref, Classifier(network, spec), folder, serialization_format, metadata, tuple(frozen))


def input_spec(
    ref: object,
    config: ModelConfig,
    metadata: Mapping[str, Any],
    signature: Any = None,
    class_names: tuple[str, ...] = (),
    images: tuple[int, int, int] | None = None,
) -> InputSpec:
    """The input specification: options first, then the model's metadata, then its signature's shape."""
    values: dict[str, Any] = dict(metadata.get("input", {}))
    shape = _signature_shape(signature)
    if shape:
        for name, size in zip(("channels", "height", "width"), shape, strict=True):
            if size > 0:
                values.setdefault(name, size)
    if class_names:
        values.setdefault("class_names", class_names)
    if config.image_size:
        values["height"], values["width"] = config.image_size[0], config.image_size[-1]
    for name in OF_BOTH:
        if getattr(config, name):
            values[name] = getattr(config, name)
    missing = [name for name in ("channels", "height", "width", "class_names") if name not in values]
    if missing:
        raise MissingInputSpec(str(ref), missing, images)
    try:
        return from_plain(InputSpec, values, "input")
    except Unfit as error:
        raise MetadataUnusable(ref, error) from error


def _saying(config: ModelConfig, spec: InputSpec) -> ModelConfig:
    """The options with all that the specification says of the input."""
    said = {name: getattr(spec, name) for name in OF_BOTH}
    return replace(config, image_size=(spec.height, spec.width), **said)


@dataclass(frozen=True)
class _Metadata:
    """The metadata that is read of a version, and of which kind it is; there may be more."""

    input: Mapping[str, Any] = field(default_factory=dict)
    model_factory: str = ""
    guard: Mapping[str, str] | None = None


def _described(ref: ModelRef, folder: Path) -> tuple[Path, dict[str, Any], Any]:
    """(folder of the weights, our metadata, signature) from the MLmodel file.

    Raises NotAClassifier, MetadataUnusable.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    try:
        described = Model.from_dict(read_yaml(folder / "MLmodel", depth=_DEPTH)[0])
        flavors, metadata = dict(described.flavors), dict(described.metadata or {})
        data = folder / str(flavors.get("pytorch", {})["model_data"]) if "pytorch" in flavors else None
    except RecursionError as error:
        raise NotAClassifier(ref, "its MLmodel file is nested too deeply") from error
    except (UnreadableConfiguration, MlflowException, AttributeError, LookupError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {one_line(error)}"
        raise NotAClassifier(ref, f"its MLmodel file is none that MLflow reads ({why})") from error
    if data is None:
        raise NotAClassifier(ref, f"its flavors are {listing(flavors)}, not pytorch")
    ours = metadata.get(METADATA_KEY, {})
    try:
        from_plain(_Metadata, ours)
    except Unfit as error:
        raise MetadataUnusable(ref, error) from error
    return data, dict(ours), described.signature


def code_paths(folder: Path) -> list[str]:
    """The code that was logged with a model, to be logged again with its repaired version, but for the guard's."""
    code, left_out = folder / "code", ("__pycache__", f"{SHIPPED}.py")
    return [str(path) for path in sorted(code.iterdir()) if path.name not in left_out] if code.is_dir() else []


def guard_metadata(champion: Champion, network: nn.Module) -> dict[str, Any]:
    """The model's metadata of its repaired version, which is `network`.

    unguarded: the version, of one network, that a guarded one goes back to; a pt2 graph cannot be taken apart, and is
    repaired again from the networks of that class.
    """
    metadata = {key: value for key, value in champion.metadata.items() if key != GUARD_KEY}
    if (form := form_of(network)) == "one":
        return metadata
    earlier = champion.metadata.get(GUARD_KEY, {})
    return metadata | {GUARD_KEY: {"form": form, "unguarded": earlier.get("unguarded", champion.ref.uri)}}


def _download(ref: ModelRef, folder: Path) -> None:
    import mlflow

    with talking(f"hand over {ref}"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        mlflow.artifacts.download_artifacts(artifact_uri=ref.uri, dst_path=str(folder))


def _with_its_networks(
    ref: ModelRef, described: Mapping[str, Any], graph: nn.Module, fetch: Callable[[ModelRef], Champion]
) -> nn.Module:
    """A guarded pt2 graph as two networks and a guard, each of which can be called: networks of the version that it
    goes back to, with the graph's weights. Raises NotFineTunable where that is gone or another one.
    """
    name, _, version = str(described.get("unguarded", "")).removeprefix("models:/").rpartition("/")
    try:
        return guarded_from(fetch(ModelRef(name, version, "", "")).classifier, graph.state_dict()).network
    except (RepairError, KeyError, RuntimeError) as error:
        networks = f"its networks are those of version {version} of {name!r} ({one_line(error)})"
        raise NotFineTunable(str(ref), networks) from error


def _load_network(ref: ModelRef, folder: Path, traced: bool) -> nn.Module:
    import mlflow.pytorch

    pickles = os.environ.get(PICKLES, "true")
    if pickles.lower() not in ("true", "1", "false", "0"):
        raise InvalidOption(PICKLES, pickles, "true or 1, or false or 0: MLflow takes no other word")
    if pickles.lower() in ("false", "0") and not traced:
        raise PickleRefused(str(ref))
    try:
        with quiet_mlflow():
            network = mlflow.pytorch.load_model(str(folder), **({} if traced else {"map_location": "cpu"}))
    except (Exception, SystemExit) as error:  # a pickle runs code of the model's, which may do anything
        why = f"{type(error).__name__}: {one_line(error)}"
        raise NotAClassifier(str(ref), f"it does not load here ({why}); log it with code_paths=[...]") from error
    if not isinstance(network, nn.Module):
        raise NotAClassifier(str(ref), f"it loads as a {type(network).__name__}")
    set_mode(network, training=False)
    return network


def _rebuild(ref: ModelRef, factory: str, graph: nn.Module) -> nn.Module:
    """The original class with the traced graph's weights; their state_dict keys are the same."""
    module, separator, name = factory.partition(":")
    if not separator:
        raise UsageError(f"model.factory is {factory!r}; it must be package.module:function.")
    try:
        network = getattr(importlib.import_module(module), name)()
    except (Exception, SystemExit) as error:  # it is code of the model's
        why = f"{type(error).__name__}: {one_line(error)}"
        raise NotFineTunable(str(ref), f"model.factory {factory!r} does not build a network ({why})") from error
    if not isinstance(network, nn.Module):
        made = f"it makes a {type(network).__name__}"
        raise NotFineTunable(str(ref), f"model.factory {factory!r} does not build a network ({made})")
    try:
        network.load_state_dict(graph.state_dict())
    except RuntimeError as error:
        raise NotFineTunable(str(ref), f"the network of {factory!r} has other weights ({one_line(error)})") from error
    set_mode(network, training=False)
    return network


def _signature_shape(signature: Any) -> tuple[int, int, int] | None:
    """(C, H, W) of a tensor signature (-1, C, H, W), else None."""
    inputs = getattr(getattr(signature, "inputs", None), "inputs", None) or []
    shape = getattr(inputs[0], "shape", None) if inputs else None
    if not shape or len(shape) != 4 or not all(isinstance(size, int) for size in shape):
        return None
    return shape[1], shape[2], shape[3]
