"""What goes on inside a network when it answers: values of its layers, by forward hooks, or by nodes of a pt2 graph.

A layer's name is its module's path, as in `named_modules()` (`layer4.1`, `vit.encoder.layer.11`), and its activations
are what the module puts out. By default those are taken that the last weights make the logits of: the input of the
module with a matrix of weights of its own that is called last. A pt2 graph calls no modules, but knows of each step
which one it comes from, so that the names are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from repairops.errors import InvalidOption, NotAClassifier
from repairops.errors.base import one_of
from repairops.model.evaluation import at_once, evaluating
from repairops.model.network import Classifier, select_logits, to_input, to_unit

PROBE = 3  # grey images that show which modules are called


@dataclass(frozen=True)
class Tap:
    """Where activations are taken: at a module's input or output; node: in a pt2 graph the name of what computes it."""

    module: str
    end: Literal["input", "output"] = "output"
    node: str = ""

    def __str__(self) -> str:
        return self.module if self.end == "output" else f"the input of {self.module}"


@dataclass(frozen=True, eq=False)
class Seen:
    """logits: float32 (N, K). activations: float32 (N, D), of all layers side by side."""

    logits: np.ndarray
    activations: np.ndarray


def find_taps(classifier: Classifier, layers: Sequence[str] = ()) -> tuple[Tap, ...]:
    """Where the activations of these layers are taken; without any, before the last weights.

    Raises InvalidOption for a layer that is not called or whose output has no values for each image, NotAClassifier
    where no module that is called has weights.
    """
    spec, network = classifier.spec, classifier.network
    tensor = next(network.parameters(), torch.empty(0))
    images = to_input(tensor.new_full((PROBE, spec.channels, spec.height, spec.width), 0.5), spec)
    with evaluating(network, tensor.device):
        named, head = _graph_taps(network, images) if _is_traced(network) else _module_taps(network, images)
    for name in layers:
        if name not in named:
            raise InvalidOption("--layers", name, one_of(name, named))
    if layers:
        return tuple(named[name] for name in layers)
    if head is None:
        raise NotAClassifier("The model", "no module that it calls has a matrix of weights; name layers with --layers")
    return (head,)


def see(classifier: Classifier, taps: Sequence[Tap], pixels: Tensor, device: torch.device | str = "cpu") -> Seen:
    """Logits and activations of uint8 pixels (N, C, H, W), N >= 1, from one pass over them."""
    device, batch = torch.device(device), at_once(pixels)
    logits, found = [], []
    with evaluating(classifier, device):
        for start in range(0, len(pixels), batch):
            images = to_input(to_unit(pixels[start : start + batch].to(device)), classifier.spec)
            output, values = _watched(classifier.network, images, taps)
            answers = select_logits(output, classifier.spec.classes)
            if len(answers) != len(images):
                raise NotAClassifier("The model", f"it returns {len(answers)} rows of logits for {len(images)} images")
            logits.append(answers.float().cpu().numpy())
            found.append(np.concatenate([_pooled(values.get(tap), len(images), tap) for tap in taps], axis=1))
    return Seen(np.concatenate(logits), np.concatenate(found))


def _watched(network: nn.Module, images: Tensor, taps: Sequence[Tap]) -> tuple[Any, dict[Tap, Any]]:
    """The network's output, and what passes the taps; of a module that is called more than once, the last time."""
    values: dict[Tap, Any] = {}
    if taps[0].node:
        recorder = _Recorder(network)
        output = recorder.run(images)
        return output, {tap: recorder.values[tap.node] for tap in taps}

    with ExitStack() as hooks:
        for tap in taps:
            before, after = _keeping(values, tap)
            module = network.get_submodule(tap.module)
            handle = (
                module.register_forward_hook(after)
                if tap.end == "output"
                else module.register_forward_pre_hook(before, with_kwargs=True)
            )
            hooks.callback(handle.remove)
        return network(images), values


def _keeping(values: dict[Tap, Any], tap: Tap) -> tuple[Any, Any]:
    """Hooks that note a module's input and its output."""

    def before(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        values[tap] = (*arguments, *named.values())

    def after(_: nn.Module, __: Any, output: Any) -> None:
        values[tap] = output

    return before, after


def _module_taps(network: nn.Module, images: Tensor) -> tuple[dict[str, Tap], Tap | None]:
    """The outputs that have values for each image, by the module's path, and what the last weights take."""
    values: dict[Tap, Any] = {}
    with ExitStack() as hooks:
        for path, module in network.named_modules():
            before, _ = _keeping(values, Tap(path, "input"))
            _, after = _keeping(values, Tap(path))
            hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(after).remove)
        network(images)
    called = [tap for tap, value in values.items() if tap.module and _of_images(value, len(images)) is not None]
    named = {tap.module: tap for tap in called if tap.end == "output"}
    heads = [tap for tap in called if tap.end == "input" and _has_matrix(network.get_submodule(tap.module))]
    return named, heads[-1] if heads else None  # in the order in which they begin, so that those inside come later


def _has_matrix(module: nn.Module) -> bool:
    """Whether weights of its own are more than a vector, those too that are computed by torch's parametrizations."""
    computed = getattr(module, "parametrizations", nn.Module())
    return any(weight.ndim > 1 for weight in (*module.parameters(recurse=False), *computed.parameters()))


# Graphs of torch.export


class _Recorder(Interpreter):
    """Runs a graph and keeps what its nodes compute, by their names."""

    def __init__(self, network: nn.Module) -> None:
        assert isinstance(network, GraphModule)
        super().__init__(network)
        self.nodes = list(network.graph.nodes)
        self.values: dict[str, Any] = {}

    def run_node(self, n: Node) -> Any:
        self.values[n.name] = value = super().run_node(n)
        return value


def _is_traced(network: nn.Module) -> bool:
    """Whether it is a graph that calls no modules but torch.export's own checks."""
    return isinstance(network, GraphModule) and all(
        node.op != "call_module" or str(node.target).startswith("_") for node in network.graph.nodes
    )


def _graph_taps(network: nn.Module, images: Tensor) -> tuple[dict[str, Tap], Tap | None]:
    """As `_module_taps`: a module's output is what its last node computes."""
    recorder = _Recorder(network)
    recorder.run(images)
    named: dict[str, Tap] = {}
    head: Tap | None = None
    fixed: dict[Node, int] = {}  # nodes that no image changes -> their values' axes
    for node in recorder.nodes:
        value = recorder.values.get(node.name)
        inputs = node.all_input_nodes
        if node.op == "get_attr" or (inputs and all(each in fixed for each in inputs)):
            fixed[node] = getattr(value, "ndim", 0)
        if node.op != "call_function" or node in fixed:
            continue
        paths = [path for path in _paths(node) if path]
        if _of_images(value, len(images)) is not None:
            named |= {path: Tap(path, "output", node.name) for path in paths}
        weights = any(fixed.get(each, 0) > 1 for each in inputs)
        moving = [
            each
            for each in inputs
            if each not in fixed and _of_images(recorder.values[each.name], len(images)) is not None
        ]
        if weights and moving:
            head = Tap(paths[-1] if paths else node.name, "input", moving[0].name)
    return named, head


def _paths(node: Node) -> Iterator[str]:
    """Of the modules that a node comes from, the outermost first."""
    for path, _ in (node.meta.get("nn_module_stack") or {}).values():
        yield str(path)


# Values


def _of_images(value: Any, rows: int) -> Tensor | None:
    """The first tensor of floats, in what a module takes or gives, that has a row for each image."""
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
    fitting = (
        each
        for each in inside
        if isinstance(each, Tensor) and each.is_floating_point() and each.ndim > 1 and len(each) == rows
    )
    return next(fitting, None)


def _pooled(value: Any, rows: int, tap: Tap) -> np.ndarray:
    """float32 (N, D): maps (N, D, ...) are averaged over their places, tokens (N, T, D) over the tokens."""
    tensor = _of_images(value, rows)
    if tensor is None:
        raise InvalidOption("--layers", str(tap), "a layer that has values for each image")
    tensor = tensor.float()
    tensor = tensor.mean(1) if tensor.ndim == 3 else tensor.flatten(2).mean(2) if tensor.ndim > 3 else tensor
    pooled: np.ndarray = tensor.cpu().numpy()
    return pooled
