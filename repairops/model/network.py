"""A classifier as the repair core sees it: images in 0..1 in, logits out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from repairops.data.records import InputSpec
from repairops.errors import NetworkFails, NotAClassifier, NotCopyable, has_own_class, one_line
from repairops.model.guarded import fitting, tensors_in

N = TypeVar("N", bound=nn.Module)


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


@contextmanager
def in_network(doing: str) -> Iterator[None]:
    """Around what the user's own network computes, which may raise anything: NetworkFails, but for what has a class of
    its own (too little memory, a lost process). doing: completes 'The model raises ZeroDivisionError ...'.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if has_own_class(error):
            raise
        raise NetworkFails(type(error).__name__, doing, one_line(error)) from error


def own_copy(network: N) -> N:
    """A copy that shares nothing with the network. Raises NotCopyable."""
    try:
        return copy.deepcopy(network)
    except (Exception, SystemExit) as error:  # what a network holds beside its weights may be anything
        if has_own_class(error):
            raise
        raise NotCopyable(type(error).__name__, one_line(error)) from error


class Classifier(nn.Module):
    """A network with its input specification: float images in 0..1 (N, C, H, W) to logits (N, classes).

    `network` is the user's own module; training changes its weights in place. Raises NotAClassifier, NetworkFails.
    """

    def __init__(self, network: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.network = network
        self.spec = spec

    def forward(self, images: Tensor) -> Tensor:
        mode, shape = "train" if self.network.training else "eval", "x".join(map(str, images.shape))
        with in_network(f"in {mode} mode on images of {shape}"):
            output = self.network(to_input(images, self.spec))
        return select_logits(output, self.spec.classes)
