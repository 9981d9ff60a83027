"""A classifier as the repair core sees it: images in 0..1 in, logits out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from repairops.data.records import InputSpec
from repairops.errors import NotAClassifier


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 (N, C, H, W) to float32 in 0..1."""
    return pixels.float().div_(255)


def to_input(images: Tensor, spec: InputSpec) -> Tensor:
    """Images in 0..1, float (N, C, H, W), to what the bare network takes: range, then mean and std."""
    low, high = spec.value_range
    mean = images.new_tensor(spec.mean).view(1, -1, 1, 1)
    std = images.new_tensor(spec.std).view(1, -1, 1, 1)
    return (low + images * (high - low) - mean) / std


def select_logits(output: Any, classes: int) -> Tensor:
    """The one obvious logits tensor (N, classes) of a network's output: a tensor, or inside a dict or tuple.

    Raises NotAClassifier where there is none or more than one.
    """
    if isinstance(output, Tensor):
        candidates = [output]
    elif isinstance(output, Mapping):
        if isinstance(output.get("logits"), Tensor):
            return select_logits(output["logits"], classes)
        candidates = [v for v in output.values() if isinstance(v, Tensor)]
    elif isinstance(output, list | tuple):
        candidates = [v for v in output if isinstance(v, Tensor)]
    else:
        raise NotAClassifier("The model", f"it returns a {type(output).__name__}")
    fitting = [c for c in candidates if c.ndim == 2 and c.shape[1] == classes]
    if len(fitting) != 1:
        shapes = [tuple(c.shape) for c in candidates]
        raise NotAClassifier("The model", f"of its outputs {shapes}, {len(fitting)} have the shape (N, {classes})")
    return fitting[0]


class Classifier(nn.Module):
    """A network with its input specification: float images in 0..1 (N, C, H, W) to logits (N, classes).

    `network` is the user's own module; training changes its weights in place.
    """

    def __init__(self, network: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.network = network
        self.spec = spec

    def forward(self, images: Tensor) -> Tensor:
        return select_logits(self.network(to_input(images, self.spec)), self.spec.classes)
