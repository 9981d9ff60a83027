"""Methods: ways to repair, all behind one protocol (`base.Method`) and in one table."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator

from repairops.config import AUTO, CONSOLIDATE, STYLED, MethodConfig, StyleConfig
from repairops.core.augment.patterns import find_pattern
from repairops.core.methods.base import Method, MethodData, MethodFactory, make_sampler
from repairops.core.methods.few_shot import make_few_shot
from repairops.core.methods.fine_tuning import (
    BatchNormStatistics,
    CutMix,
    FineTune,
    Mixup,
    RandomOperations,
    make_cutout,
)
from repairops.core.methods.sensei import Sensei
from repairops.core.methods.style_guided import make_augmix, make_consolidation, make_style_guided
from repairops.core.styles import check_style
from repairops.errors import InvalidOption, one_of

__all__ = [
    "AUTO", "CONSOLIDATE", "METHODS", "STYLED", "Method", "MethodData", "MethodEntry", "check_names", "make_method"
]  # fmt: skip


@dataclass(frozen=True)
class MethodEntry:
    """One row of the table: how a method is made, and what a reader should know of it."""

    make: MethodFactory
    summary: str
    source: str
    differs: str  # from the source


METHODS: dict[str, MethodEntry] = {
    "style_guided": MethodEntry(
        make_style_guided,
        "Trains on clean images, most of them restyled to look like the failures, and on the failures themselves.",
        "DeepRepair, IEEE Transactions on Reliability 2021",
        "The recipe 'default' leaves out AugMix's mixing and consistency loss, adds the failure images, and lets the "
        "champion's answers teach; the "
        "recipe 'paper' is Algorithm 1 with the chains summed, and trains on failures only with use_failures=on.",
    ),
    "fine_tune": MethodEntry(
        lambda data, method, _: FineTune(make_sampler(data, method)),
        "Trains on train images and failure images with cross-entropy.",
        "common practice",
        "Failure images are drawn anew for each batch, in a fixed share of it.",
    ),
    "augmix": MethodEntry(
        make_augmix,
        "AugMix with its consistency loss on train images, plus the failure images; no style.",
        "Hendrycks et al., AugMix, ICLR 2020",
        "Failure images join the cross-entropy, as for the paper's baselines.",
    ),
    "cutout": MethodEntry(
        make_cutout,
        "Train and failure images, each with a covered square.",
        "DeVries and Taylor, Cutout, 2017",
        "The square's side is a share of the image's, and its colour the train set's mean.",
    ),
    "mixup": MethodEntry(
        lambda data, method, _: Mixup(make_sampler(data, method), method.mix_alpha),
        "Blends pairs of train and failure images with their labels.",
        "Zhang et al., mixup, ICLR 2018",
        "A weight for each image, where the source and torchvision draw one for a batch.",
    ),
    "cutmix": MethodEntry(
        lambda data, method, _: CutMix(make_sampler(data, method), method.mix_alpha),
        "Fills a box of each train or failure image from another one, with its share of the label.",
        "Yun et al., CutMix, ICCV 2019",
        "A box for each image and in every batch, where the source draws one for a batch, and for half of them.",
    ),
    "sensei": MethodEntry(
        lambda data, method, _: Sensei(make_sampler(data, method), method.population, method.generations),
        "Train and failure images in the hardest natural variant that a genetic search finds.",
        "Gao et al., SENSEI, ICSE 2020",
        "The search starts anew for each batch, where the source keeps each image's population between epochs.",
    ),
    "few_shot": MethodEntry(
        make_few_shot,
        "AugMix's mixtures with weights that follow a Gaussian mixture over the failures, and the failure images.",
        "Ren et al., Few-shot guided mix, ICSME 2020",
        "What the mixture describes is not published; here brightness, contrast and grain, and candidates are weighed.",
    ),
    "random": MethodEntry(
        lambda data, method, _: RandomOperations(make_sampler(data, method), method.severity),
        "Train and failure images after random general operations; knows nothing of the failures' look.",
        "Cubuk et al., RandAugment, CVPR workshops 2020",
        "AugMix's nine operations, two for each image, a level for each image.",
    ),
    "batch_norm": MethodEntry(
        lambda data, method, _: BatchNormStatistics(make_sampler(data, method)),
        "Only renews BatchNorm statistics on train images mixed with failure images; no weight changes.",
        "Schneider et al., covariate shift adaptation, NeurIPS 2020",
        "The train images are mixed into the batches instead of a prior on the statistics.",
    ),
}


def check_names(method: MethodConfig, style: StyleConfig) -> None:
    """Whether a method, its known patterns and a style exist, before any work is done.

    Raises InvalidOption, PatternNotUsable, StyleWeightsMissing (wct2).
    """
    if method.name not in (AUTO, CONSOLIDATE):
        _find_method(method.name)
    if method.compare not in ("", AUTO):
        _find_method(method.compare, "method.compare")
    for name in method.known_patterns:
        find_pattern(name)
    check_style(style)


def make_method(config: MethodConfig, data: MethodData, generator: Generator) -> Method:
    """The method that the configuration names, fitted to the data. Raises InvalidOption for an unknown name."""
    make = make_consolidation if config.name == CONSOLIDATE else _find_method(config.name).make
    return make(data, config, generator)


def _find_method(name: str, option: str = "method.name") -> MethodEntry:
    if name not in METHODS:
        raise InvalidOption(option, name, one_of(name, [*METHODS, AUTO]))
    return METHODS[name]
