"""What is compared: every method of `repairops.core.methods`, variants of them, and the bounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from repairops.bench.corruptions import corrupt
from repairops.config import MethodConfig, StyleConfig, TrainingConfig, load_config
from repairops.core.methods import AUTO, METHODS, Method, MethodData, make_method
from repairops.core.styles import Style
from repairops.data.records import FailureBatch
from repairops.errors import InvalidOption, listing

# What makes a rival more than a method: nothing is trained; the failures' pixels are shuffled; the style is the true
# corruption.
Twist = Literal["", "untrained", "shuffled", "oracle"]


@dataclass(frozen=True)
class Rival:
    """method: its name; options, style and training: what is changed in the product's own configuration of these."""

    method: str = "style_guided"
    options: Mapping[str, Any] = field(default_factory=dict)
    style: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    twist: Twist = ""

    @property
    def config(self) -> MethodConfig:
        return dataclasses.replace(MethodConfig(name=self.method), **self.options)

    def training_config(self, preset: TrainingConfig) -> TrainingConfig:
        return dataclasses.replace(preset, **self.training)

    @property
    def style_config(self) -> StyleConfig:
        return dataclasses.replace(StyleConfig(), **self.style)


EXTRA: dict[str, Rival] = {
    # The paper's own recipe: StyleAug.
    "style_guided_paper": Rival(options={"recipe": "paper"}),
    # Table V's ablation: references drawn uniformly.
    "style_guided_no_clusters": Rival(options={"references": "uniform"}),
    # Whitening and colouring in place of the default style.
    "style_guided_subband_wct": Rival(style={"name": "subband_wct"}),
    # The mix of styles that short trials pick (style.name=auto).
    "style_guided_auto": Rival(style={"name": "auto"}),
    # The method that short trials pick (method.name=auto); the trials are part of the budget.
    AUTO: Rival(AUTO),
    # The champion as it is.
    "none": Rival(twist="untrained"),
    # fine_tune on failures with shuffled pixels: a floor.
    "shuffled": Rival("fine_tune", twist="shuffled"),
    # The true corruption as the style, and the failures: a ceiling; and without the failures.
    "oracle": Rival(twist="oracle"),
    "oracle_no_failures": Rival(options={"use_failures": "off"}, twist="oracle"),
}


def rivals() -> dict[str, Rival]:
    """All of them by name, the methods first."""
    return {name: Rival(name) for name in METHODS} | EXTRA


def rival(name: str) -> Rival:
    """By name, or with settings: 'fine_tune@training.learning_rate=0.01+method.failure_share=0.2'.

    Raises InvalidOption for an unknown name, or a setting that is not one of the method, style or training.
    """
    known = rivals()
    base, _, settings = name.partition("@")
    if base not in known:
        raise InvalidOption("rival", base, f"one of {listing(known, 40)}")
    return _with_settings(known[base], settings.split("+")) if settings else known[base]


def _with_settings(found: Rival, settings: Sequence[str]) -> Rival:
    config = load_config(overrides=settings)  # checks names and values
    changed: dict[str, dict[str, Any]] = {"method": {}, "style": {}, "training": {}}
    for setting in settings:
        section, _, option = setting.partition("=")[0].strip().partition(".")
        if section not in changed or f"{section}.{option}" == "method.name":
            raise InvalidOption(
                "rival", setting, "a setting of method, style or training, such as method.failure_share"
            )
        changed[section][option] = getattr(getattr(config, section), option)
    return dataclasses.replace(
        found,
        options={**found.options, **changed["method"]},
        style={**found.style, **changed["style"]},
        training={**found.training, **changed["training"]},
    )


def rival_style(chosen: Rival, corruption: str) -> Style | None:
    """The style that a rival is given; None where it fits one like any repair, or takes none."""
    return TrueCorruption(corruption) if chosen.twist == "oracle" else None


def make_rival(chosen: Rival, seed: int, config: MethodConfig, data: MethodData, generator: Generator) -> Method:
    """The method that the training loop runs for a rival. seed: of what is shuffled."""
    twisted = twisted_failures(data.failures, chosen.twist, seed)
    return make_method(config, dataclasses.replace(data, failures=twisted), generator)


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
