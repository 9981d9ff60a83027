"""Graphs of torch.export (MLflow's pt2) in train mode and back: what a mode changes stands in their calls' arguments.

A network that is traced in eval mode calls `aten.batch_norm` with `training` false, and dropout with `train` false. Set
to true, the graph computes what the original class computes in train mode, and its running statistics move.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

aten = torch.ops.aten
# Of each operator the place of the argument that says whether it trains.
_SWITCHES: dict[Any, int] = {
    aten.batch_norm.default: 5,
    aten.instance_norm.default: 5,  # whether it takes the images' own statistics, where it has running ones
    aten.dropout.default: 2,
    aten.dropout_.default: 2,
    aten.feature_dropout.default: 2,
    aten.feature_dropout_.default: 2,
    aten.alpha_dropout.default: 2,
    aten.alpha_dropout_.default: 2,
    aten.feature_alpha_dropout.default: 2,
    aten.feature_alpha_dropout_.default: 2,
    aten.rrelu.default: 3,
    aten.rrelu_.default: 3,
}
# Decomposed graphs have an operator for each mode.
_EVAL_NORM, _TRAIN_NORM = aten._native_batch_norm_legit_no_training.default, aten._native_batch_norm_legit.default
_STATISTICS = {aten.batch_norm.default: 3, aten.instance_norm.default: 3, _EVAL_NORM: 3, _TRAIN_NORM: 3}
_NORMS = (aten.batch_norm.default, _EVAL_NORM, _TRAIN_NORM)


@contextmanager
def followable() -> Iterator[None]:
    """Lets torch.export follow networks that normalise their input by torchvision's first transforms.

    `Normalize` and `functional.normalize` look into a tensor of the standard deviations for a zero, which no exporter
    follows; those of `transforms.v2` compute the same and look into the numbers.
    """
    from torchvision.transforms import _functional_tensor as first
    from torchvision.transforms.v2.functional import normalize_image

    own, first.normalize = first.normalize, normalize_image
    try:
        yield
    finally:
        first.normalize = own


def set_graph_mode(graph: GraphModule, training: bool) -> None:
    """Train or eval mode for a graph that was traced in eval mode.

    In train mode a BatchNorm whose parameters are all frozen stays in eval mode, and its statistics with them.
    """
    for node in _calls(graph):
        if node.target in _NORMS:
            _set_norm(node, training and not _frozen(graph, node))
        elif node.target is aten.instance_norm.default:
            node.update_arg(5, training or node.args[3] is None)
        elif node.target in _SWITCHES:
            node.update_arg(_SWITCHES[node.target], training)
    graph.training = training
    graph.recompile()


def graph_mode(graph: GraphModule) -> bool:
    """Whether something in the graph trains; where nothing in it has a mode, its own `training`.

    That says nothing of a graph of torch.export before the first `set_graph_mode`.
    """
    modes = [
        node.target is _TRAIN_NORM or (node.target in _SWITCHES and node.args[_SWITCHES[node.target]] is True)
        for node in _calls(graph)
        if node.target in {*_SWITCHES, _EVAL_NORM, _TRAIN_NORM}
        and (node.target is not aten.instance_norm.default or node.args[3] is not None)
    ]
    return any(modes) if modes else graph.training


def frozen_statistics(graph: GraphModule) -> list[str]:
    """Names of running means that no known operator of the graph reads: they stay as traced, in training too."""
    read = {
        str(node.args[_STATISTICS[node.target]].target)  # type: ignore[union-attr]
        for node in _calls(graph)
        if node.target in _STATISTICS and isinstance(node.args[_STATISTICS[node.target]], Node)
    }
    return [name for name, _ in graph.named_buffers() if name.endswith("running_mean") and name not in read]


def part_names(network: nn.Module) -> set[str]:
    """What a network is made of: its modules' classes and the operators of graphs in it, in small letters, no '_'."""
    names = {type(part).__name__ for part in network.modules()}
    for part in network.modules():
        if isinstance(part, GraphModule):
            names |= {str(node.target) for node in _calls(part)}
    return {name.lower().replace("_", "") for name in names}


def _calls(graph: GraphModule) -> Iterator[Node]:
    return (node for node in graph.graph.nodes if node.op == "call_function")


def _set_norm(node: Node, training: bool) -> None:
    """The decomposed operators take (input, weight, bias, mean, variance[, training], momentum, eps)."""
    if node.target is aten.batch_norm.default:
        node.update_arg(5, training)
    elif node.target is _EVAL_NORM and training:
        node.args = (*node.args[:5], True, *node.args[5:])
        node.target = _TRAIN_NORM
    elif node.target is _TRAIN_NORM and not training:
        node.args = (*node.args[:5], *node.args[6:])
        node.target = _EVAL_NORM


def _frozen(graph: GraphModule, node: Node) -> bool:
    """Whether the call has parameters and none of them is trained."""
    named = [argument.target for argument in node.args[1:3] if isinstance(argument, Node)]
    tensors = [_attribute(graph, str(name)) for name in named]
    parameters = [tensor for tensor in tensors if isinstance(tensor, nn.Parameter)]
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def _attribute(graph: GraphModule, name: str) -> Any:
    found: Any = graph
    for part in name.split("."):
        found = getattr(found, part)
    return found
