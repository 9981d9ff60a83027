"""Methods: ways to repair, all behind one protocol (`base.Method`) and in one table."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator

from repairops.config import MethodConfig, StyleConfig
from repairops.errors import InvalidOption, listing
from repairops.methods.base import Method, MethodFactory, RepairData
from repairops.methods.fine_tune import make_batch_norm, make_fine_tune
from repairops.methods.style_guided import make_augmix, make_style_guided

__all__ = ["METHODS", "Method", "MethodEntry", "RepairData", "make_method"]


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
        "Trains on clean images restyled to look like the failures, and on the failures themselves.",
        "DeepRepair, IEEE Transactions on Reliability 2021",
        "The recipe 'default' leaves out AugMix's mixing and consistency loss, and adds the failure images; the "
        "recipe 'paper' is Algorithm 1 with the chains summed, and ignores failure_share (it trains on none).",
    ),
    "fine_tune": MethodEntry(
        make_fine_tune,
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
    "batch_norm": MethodEntry(
        make_batch_norm,
        "Only renews BatchNorm statistics on train images mixed with failure images; no weight changes.",
        "Schneider et al., covariate shift adaptation, NeurIPS 2020",
        "The train images are mixed into the batches instead of a prior on the statistics.",
    ),
}


def make_method(config: MethodConfig, style: StyleConfig, data: RepairData, generator: Generator) -> Method:
    """The method that the configuration names, fitted to the data. Raises InvalidOption for an unknown name."""
    if config.name not in METHODS:
        raise InvalidOption("method.name", config.name, f"one of {listing(METHODS)}")
    return METHODS[config.name].make(data, config, style, generator)
