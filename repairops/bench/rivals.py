"""What is compared: every method of `repairops.methods`, variants of them, and the bounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from repairops.bench.corruptions import corrupt
from repairops.config import MethodConfig, StyleConfig
from repairops.errors import InvalidOption, listing
from repairops.methods import METHODS, Method, RepairData, make_method
from repairops.methods.references import StyleOperations, reference_weights
from repairops.methods.style_guided import unmixed
from repairops.records import FailureBatch

# What makes a rival more than a method: nothing is trained; the failures' pixels are shuffled; the style is the true
# corruption.
Twist = Literal["", "untrained", "shuffled", "oracle"]


@dataclass(frozen=True)
class Rival:
    """method: its name; options and style: what is changed in the product's own configuration of method and style."""

    what: str
    method: str = "style_guided"
    options: Mapping[str, Any] = field(default_factory=dict)
    style: Mapping[str, Any] = field(default_factory=dict)
    twist: Twist = ""
    bound: bool = False  # a floor or a ceiling, not a way to repair

    @property
    def config(self) -> MethodConfig:
        return dataclasses.replace(MethodConfig(name=self.method), **self.options)

    @property
    def style_config(self) -> StyleConfig:
        return dataclasses.replace(StyleConfig(), **self.style)


EXTRA: dict[str, Rival] = {
    "style_guided_paper": Rival("The paper's own recipe: StyleAug.", options={"recipe": "paper"}),
    "style_guided_no_clusters": Rival(
        "Table V's ablation: references drawn uniformly.", options={"references": "uniform"}
    ),
    "style_guided_subband_wct": Rival(
        "Whitening and colouring in place of the default style.", style={"name": "subband_wct"}
    ),
    "style_guided_auto": Rival("The style that repairops finds most like the failures.", style={"name": "auto"}),
    "none": Rival("The champion as it is.", twist="untrained", bound=True),
    "shuffled": Rival(
        "fine_tune on failures with shuffled pixels: a floor.", "fine_tune", twist="shuffled", bound=True
    ),
    "oracle": Rival("The true corruption as the style, and the failures: a ceiling.", twist="oracle", bound=True),
    "oracle_no_failures": Rival(
        "The true corruption as the style, without the failures.",
        options={"use_failures": "off"},
        twist="oracle",
        bound=True,
    ),
}


def rivals() -> dict[str, Rival]:
    """All of them by name, the methods first."""
    return {name: Rival(entry.summary, name) for name, entry in METHODS.items()} | EXTRA


def rival(name: str) -> Rival:
    """Raises InvalidOption for an unknown name."""
    known = rivals()
    if name not in known:
        raise InvalidOption("rival", name, f"one of {listing(known, 40)}")
    return known[name]


def make_rival(
    chosen: Rival, corruption: str, method: MethodConfig, style: StyleConfig, data: RepairData, generator: Generator
) -> Method:
    """The method that the training loop runs for a rival."""
    if chosen.twist == "oracle":
        styles = StyleOperations(TrueCorruption(corruption), reference_weights(data.clusters), data.clusters.count)
        return unmixed(styles, data, method)
    return make_method(method, style, data, generator)


@dataclass(frozen=True)
class TrueCorruption:
    """A style that is the corruption itself, at a severity drawn for each image; references play no part."""

    corruption: str

    def apply(self, content: Tensor, reference: Tensor, generator: Generator) -> Tensor:
        severities = torch.randint(1, 6, (len(content),), generator=generator)
        corrupted = corrupt(content, self.corruption, severities, generator)
        return (corrupted * 255).round() / 255


def twisted_failures(failures: FailureBatch, twist: Twist, seed: int) -> FailureBatch:
    """The repair failures as a rival gets them: with 'shuffled', each image's pixels change places, labels stay."""
    if twist != "shuffled":
        return failures
    pixels = failures.images.pixels
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(len(pixels), pixels[0, 0].numel(), generator=generator).argsort(1)
    shuffled = pixels.flatten(2).gather(2, places[:, None].expand(-1, pixels.shape[1], -1)).view_as(pixels)
    return dataclasses.replace(failures, images=dataclasses.replace(failures.images, pixels=shuffled))
