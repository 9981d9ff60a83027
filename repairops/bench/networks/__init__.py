"""The subject networks of the paper, and small forms that a CPU trains in minutes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from repairops.bench.networks.convolutional import (
    all_conv_net,
    dense_net,
    pooled_conv_net,
    small_res_net,
    wide_res_net,
)
from repairops.bench.networks.recurrent import ReNet, RowLstm
from repairops.data.records import InputSpec
from repairops.errors import InvalidOption, listing

__all__ = ["NETWORKS", "Subject", "build_network"]


@dataclass(frozen=True)
class Subject:
    """build: from the input specification to a fresh network. parameters: trained ones, at 3x32x32 and 10 classes.

    paper: its name in the paper's tables, '' where it is not there. learning_rate: the peak of the one-cycle schedule
    that trains a champion, for batches of 128 images.
    """

    build: Callable[[InputSpec], nn.Module]
    parameters: int
    paper: str
    learning_rate: float


NETWORKS: dict[str, Subject] = {
    "allconvnet": Subject(lambda s: all_conv_net(s.channels, s.classes), 1_409_674, "allconvnet", 0.1),
    "densenet": Subject(lambda s: dense_net(s.channels, s.classes), 1_059_298, "densenet", 0.2),
    "wideresnet": Subject(lambda s: wide_res_net(s.channels, s.classes), 2_243_546, "wideresnet", 0.2),
    "lstm": Subject(lambda s: RowLstm(s.channels, s.width, s.classes), 397_706, "lstm", 0.1),
    "renet": Subject(lambda s: ReNet(s.channels, s.height, s.width, s.classes), 67_153_930, "renet", 0.02),
    "resnet_small": Subject(lambda s: small_res_net(s.channels, s.classes), 483_402, "", 0.25),
    "resnet_tiny": Subject(lambda s: small_res_net(s.channels, s.classes, 8), 31_002, "", 0.25),
    "allconvnet_small": Subject(lambda s: all_conv_net(s.channels, s.classes, 24, 0.1), 89_770, "", 0.1),
    "allconvnet_pooled": Subject(lambda s: pooled_conv_net(s.channels, s.classes), 1_972_802, "", 0.2),
    "densenet_small": Subject(lambda s: dense_net(s.channels, s.classes, 16, 8), 64_026, "", 0.2),
    "wideresnet_16": Subject(lambda s: wide_res_net(s.channels, s.classes, 16), 691_674, "", 0.2),
    "wideresnet_16_8": Subject(lambda s: wide_res_net(s.channels, s.classes, 16, 8), 10_961_370, "", 0.2),
    "wideresnet_small": Subject(lambda s: wide_res_net(s.channels, s.classes, 10, 1), 77_850, "", 0.2),
    "lstm_small": Subject(lambda s: RowLstm(s.channels, s.width, s.classes, 96, 64), 80_586, "", 0.1),
    "renet_small": Subject(
        lambda s: ReNet(s.channels, s.height, s.width, s.classes, 16, 64, trained_sweeps=True), 535_242, "", 0.05
    ),
}


def build_network(name: str, spec: InputSpec, seed: int) -> nn.Module:
    """A fresh network with initial weights of this seed. Raises InvalidOption for an unknown name."""
    if name not in NETWORKS:
        raise InvalidOption("network", name, f"one of {listing(NETWORKS, 20)}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return NETWORKS[name].build(spec)
