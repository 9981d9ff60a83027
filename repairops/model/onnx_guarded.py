"""A guarded network as one ONNX graph: images without the look go through the champion, the others through the repaired
network, and none through both unless both answer."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from repairops.data.records import InputSpec
from repairops.model.guarded import Guarded

INPUT, OUTPUT = "input", "logits"
WEIGHT, PROBABILITY = "weight", "guard"  # of the repaired network, and the guard's: float32 (batch,), 0..1


class GuardAlone(nn.Module):
    """The guard of a guarded network: who answers each image, and its probability."""

    def __init__(self, network: Guarded) -> None:
        super().__init__()
        self.network = copy.copy(network)  # without the networks, whose weights would be exported too
        self.network._modules = network._modules | {"champion": nn.Identity(), "repaired": nn.Identity()}

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        probability = self.network.probability(images)
        return self.network.weight(probability), probability


def compose(parts: Mapping[str, Any], spec: InputSpec, *, conditional: bool, hard: bool) -> Any:
    """One model with the outputs "logits" and "guard", from those of 'champion', 'repaired' and 'guard'.

    conditional: an `If` node for each network runs it on the images that need it; in a batch without a flagged image
    the repaired network does not run, and the logits are those of the champion's own file, bit for bit. False: both run
    on all images, for runtimes without control flow. hard: no image is answered by both.
    """
    import onnx

    prefixed = {name: onnx.compose.add_prefix(model, f"{name}/") for name, model in parts.items()}
    model = _Composer(spec.classes, hard).compose(prefixed, conditional)
    onnx.checker.check_model(model)
    return model


class _Composer:
    """Nodes and constants of the file that is being made."""

    def __init__(self, classes: int, hard: bool) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.classes, self.hard = classes, hard

    def compose(self, parts: dict[str, Any], conditional: bool) -> Any:
        from onnx import TensorProto, helper

        first = parts["champion"]
        self.constants += parts["guard"].graph.initializer
        self._splice(parts["guard"].graph, INPUT)
        weight, one, zero = f"guard/{WEIGHT}", self.constant("one", 1.0), self.constant("zero", 0.0)
        self.node("Less", [weight, one], "old")
        self.node("Greater", [weight, zero], "new")
        for name, rows in (("champion", "old"), ("repaired", "new")):
            if conditional:
                self._where_needed(parts[name].graph, name, rows)
            else:
                self.constants += parts[name].graph.initializer
                self._splice(parts[name].graph, INPUT)
                self.node("Identity", [f"{name}/{OUTPUT}"], f"{name}/all")
        self._mix(weight, one, zero)
        outputs = [
            helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", self.classes]),
            helper.make_tensor_value_info(PROBABILITY, TensorProto.FLOAT, ["batch"]),
        ]
        self.node("Identity", [f"guard/{PROBABILITY}"], PROBABILITY)
        taken = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, _shape(first.graph.input[0]))
        graph = helper.make_graph(self.nodes, "guarded", [taken], outputs, initializer=self.constants)
        return helper.make_model(
            graph,
            opset_imports=_opsets(parts.values()),
            functions=[function for part in parts.values() for function in part.functions],
            ir_version=first.ir_version,
        )

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        kind = np.float32 if isinstance(value, float) else np.int64
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), f"mix/{name}"))
        return f"mix/{name}"

    def _splice(self, graph: Any, source: str) -> None:
        """A part's nodes, reading `source`."""
        self.node("Identity", [source], graph.input[0].name)
        self.nodes += graph.node

    def _where_needed(self, graph: Any, name: str, rows: str) -> None:
        """NAME/all: logits (batch, classes) of the rows of the mask `rows`, 0 elsewhere; nothing runs for no row."""
        from onnx import TensorProto, helper

        own = f"{name}/"
        self.node("Cast", [rows], own + "counted", to=TensorProto.INT32)
        self.node("ReduceMax", [own + "counted"], own + "most", keepdims=0)
        self.node("Cast", [own + "most"], own + "any", to=TensorProto.BOOL)
        outer, self.nodes = self.nodes, []
        self._zeros(own + "empty/")
        skipped = self._branch(own + "skip", own + "empty/zeros")
        self._zeros(own)
        self.node("NonZero", [rows], own + "rows_across")
        self.node("Transpose", [own + "rows_across"], own + "rows")
        self.node("Squeeze", [own + "rows", self.constant(f"{name}/axis", [1])], own + "rows_flat")
        self.node("Gather", [INPUT, own + "rows_flat"], own + "gathered", axis=0)
        self._splice(graph, own + "gathered")
        self.node("ScatterND", [own + "zeros", own + "rows", f"{own}{OUTPUT}"], own + "scattered")
        # Its weights lie in the branch: ONNX Runtime optimises no network whose weights come from outside.
        taken = self._branch(own + "run", own + "scattered", graph.initializer)
        self.nodes = outer
        self.nodes.append(helper.make_node("If", [own + "any"], [own + "all"], then_branch=taken, else_branch=skipped))

    def _zeros(self, own: str) -> None:
        self.node("Shape", [INPUT], own + "batch", start=0, end=1)
        self.node("Concat", [own + "batch", self.constant(f"{own}classes", [self.classes])], own + "shape", axis=0)
        self.node("ConstantOfShape", [own + "shape"], own + "zeros")

    def _branch(self, name: str, output: str, weights: Sequence[Any] = ()) -> Any:
        from onnx import TensorProto, helper

        value = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", self.classes])
        graph = helper.make_graph(self.nodes, name, [], [value], initializer=list(weights))
        self.nodes = []
        return graph

    def _mix(self, weight: str, one: str, zero: str) -> None:
        """As `guarded.mix`."""
        if self.hard:
            self.node("Unsqueeze", ["new", self.constant("axis", [1])], "mix/new")
            self.node("Where", ["mix/new", "repaired/all", "champion/all"], OUTPUT)
            return
        part = self.node("Unsqueeze", [weight, self.constant("axis", [1])], "mix/part")
        self.node("Softmax", ["champion/all"], "mix/champion", axis=1)
        self.node("Softmax", ["repaired/all"], "mix/repaired", axis=1)
        self.node("Sub", [one, part], "mix/rest")
        self.node("Mul", ["mix/rest", "mix/champion"], "mix/first")
        self.node("Mul", [part, "mix/repaired"], "mix/second")
        self.node("Add", ["mix/first", "mix/second"], "mix/sum")
        self.node("Max", ["mix/sum", self.constant("floor", 1e-12)], "mix/positive")
        self.node("Log", ["mix/positive"], "mix/both")
        self.node("GreaterOrEqual", [part, one], "mix/repaired_alone")
        self.node("Where", ["mix/repaired_alone", "repaired/all", "mix/both"], "mix/without_champion")
        self.node("LessOrEqual", [part, zero], "mix/champion_alone")
        self.node("Where", ["mix/champion_alone", "champion/all", "mix/without_champion"], OUTPUT)


def _shape(value: Any) -> list[int | str]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def _opsets(models: Any) -> list[Any]:
    """Each domain's version, the highest of the parts'."""
    from onnx import helper

    found: dict[str, int] = {}
    for model in models:
        for opset in model.opset_import:
            found[opset.domain] = max(found.get(opset.domain, 0), opset.version)
    return [helper.make_opsetid(domain, version) for domain, version in found.items()]
