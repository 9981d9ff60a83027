"""A classifier as the repair core sees it: images in 0..1 in, logits out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from repairops.data.records import InputSpec
from repairops.errors import NotAClassifier
from repairops.model.guarded import fitting, tensors_in


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 (N, C, H, W) to float32 in 0..1."""
    return pixels.float().div_(255)


def from_unit(images: Tensor) -> Tensor:
    """Floats to uint8 (N, C, H, W), as a camera or a file would store them: cut to 0..1 and rounded."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def to_input(images: Tensor, spec: InputSpec) -> Tensor:
    """Images in 0..1, float (N, C, H, W), to what the bare network takes: range, then mean and std."""
    low, high = spec.value_range
    mean = images.new_tensor(spec.mean).view(1, -1, 1, 1)
    std = images.new_tensor(spec.std).view(1, -1, 1, 1)
    return (low + images * (high - low) - mean) / std


def from_input(images: Tensor, spec: InputSpec) -> Tensor:
    """What the bare network takes, float (N, C, H, W), back to uint8 pixels: undoes `to_input`."""
    low, high = spec.value_range
    mean = images.new_tensor(spec.mean).view(1, -1, 1, 1)
    std = images.new_tensor(spec.std).view(1, -1, 1, 1)
    return from_unit((images * std + mean - low) / (high - low))


def select_logits(output: Any, classes: int) -> Tensor:
    """The one obvious logits tensor (N, classes) of a network's output: a tensor, or inside a dict or tuple.

    Raises NotAClassifier where there is none or more than one.
    """
    candidates = tensors_in(output)
    if candidates is None:
        raise NotAClassifier("The model", f"it returns a {type(output).__name__}")
    found = fitting(candidates, classes)
    if len(found) != 1:
        shapes = [tuple(c.shape) for c in candidates]
        raise NotAClassifier("The model", f"of its outputs {shapes}, {len(found)} have the shape (N, {classes})")
    return found[0]


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
