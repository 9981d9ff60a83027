"""Guarded networks with a guard that reads brightness, so that a test knows who answers."""

from __future__ import annotations

import torch
from store_helpers import SPEC, TinyNet
from torch import Tensor

from repairops.model.guarded import Guard, look_statistics
from repairops.model.network import Classifier
from repairops.model.routing import guarded

COUNT = look_statistics(torch.zeros(1, SPEC.channels, SPEC.height, SPEC.width)).shape[1]


def brightness_guard() -> Guard:
    """Log-odds 40 (mean brightness - 0.5), by the statistic that is the mean."""
    halves = torch.tensor([-0.1, 0.1]).repeat_interleave(SPEC.width // 2)  # so that it is neither least nor most
    levels = torch.tensor([0.2, 0.7]).view(2, 1, 1, 1).expand(2, SPEC.channels, SPEC.height, SPEC.width)
    found = look_statistics(levels + halves)
    mean = int((found - torch.tensor([[0.2], [0.7]])).abs().sum(0).argmin())
    guard = Guard(COUNT)
    with torch.no_grad():
        for parameter in guard.parameters():
            parameter.zero_()
        guard.hidden.weight[::2, mean], guard.hidden.weight[1::2, mean] = 1.0, -1.0
        guard.odds.weight[:, ::2], guard.odds.weight[:, 1::2] = 1 / 32, -1 / 32
    guard.mean[mean], guard.scale = torch.tensor(0.5), torch.tensor(40.0)
    return guard.eval().requires_grad_(False)


def pair(champion: Classifier | None = None, low: float = 0.5, high: float = 0.5) -> Classifier:
    """Two small networks that answer differently; bright images go to the second."""
    first = champion or Classifier(TinyNet(seed=0).eval(), SPEC)
    return guarded(first, type(first.network)(seed=5).eval(), brightness_guard(), low, high)


def images(*brightness: float) -> Tensor:
    """uint8 (N, 1, 8, 8) of these mean values in 0..1, with some texture that leaves them as they are."""
    texture = torch.randint(-20, 20, (len(brightness), 1, 8, 4), generator=torch.Generator().manual_seed(0))
    levels = (torch.tensor(brightness).view(-1, 1, 1, 1) * 255).round()
    return (levels + torch.cat((texture, -texture), 3)).clamp(0, 255).to(torch.uint8)
