"""How fast a network is trained: by which optimizer, at which learning rate, and what is done where that is too fast.

The evidence of the defaults was measured with BatchNorm networks that SGD trained. Another network may need smaller
or larger steps: how much one changes the weights tells it, before the first one is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from repairops.config import TrainingConfig
from repairops.errors import NoGradient
from repairops.model.traced import part_names
from repairops.outcome.sections import Pace

Optimizer = Literal["sgd", "adamw"]

RATES: dict[Optimizer, float] = {"sgd": 0.02, "adamw": 5e-4}  # where the test finds that they fit
FITTING = (0.004, 0.08)  # change of the weights by a step, relative to them
PROBES = 3  # batches that are looked at
CLIPPED = 10  # times the largest norm of their gradients
WARM_UP = 0.05  # of the steps, with AdamW; the momentum of SGD starts from rest anyway
LOWERED, MOST = 0.1, 2  # times the learning rate where a loss is not finite; so often


def slower(pace: Pace) -> Pace:
    """Where a loss was not finite."""
    return replace(pace, learning_rate=LOWERED * pace.learning_rate, lowered=pace.lowered + 1)


def is_transformer(network: nn.Module) -> bool:
    """Whether it has attention and LayerNorm, and no BatchNorm, by the names of its parts."""
    text = " ".join(part_names(network))
    attends = "attention" in text or "softmax" in text  # of a graph, softmax where attention is spelled out
    return attends and ("layernorm" in text or "rmsnorm" in text) and "batchnorm" not in text


def choose_optimizer(network: nn.Module, wanted: str) -> Optimizer:
    """'auto' is AdamW for a transformer, and SGD for others."""
    return "adamw" if wanted == "adamw" or (wanted == "auto" and is_transformer(network)) else "sgd"


def make_optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Of all parameters that can be trained. Raises NoGradient where there are none."""
    trainable = [p for p in network.parameters() if p.requires_grad]
    if not trainable:
        raise NoGradient("The model", "none of its parameters requires a gradient")
    fused = trainable[0].device.type == "cuda" or None
    kind = choose_optimizer(network, config.optimizer)
    rate = config.learning_rate or RATES[kind]
    if kind == "adamw":
        return torch.optim.AdamW(
            trainable, lr=rate, betas=(config.momentum, 0.999), weight_decay=config.weight_decay, fused=fused
        )
    return torch.optim.SGD(
        trainable,
        lr=rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
        fused=fused,
    )


def fit_pace(optimizer: torch.optim.Optimizer, gradients: Iterable[Sequence[Tensor]], momentum: float) -> Pace:
    """The default rate where its steps change the weights as much as fits, else the nearest one that does.

    gradients: of the optimizer's parameters, in their order, for some batches at the weights that are trained. A step
    changes the weights by rate / (1 - momentum) times the mean gradient with SGD, each by the rate with AdamW. What
    counts is the norm of that over all weights against their own: in single layers it differs by hundreds between
    networks that the same rate fits.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kind: Optimizer = "adamw" if isinstance(optimizer, torch.optim.AdamW) else "sgd"
    norms, sums = [], [torch.zeros_like(p) for p in parameters]
    for found in gradients:
        norms.append(_norm(found))
        for total, gradient in zip(sums, found, strict=True):
            total += gradient
    rate, weights = RATES[kind], _norm(parameters)
    if kind == "sgd":
        step = _norm(sums) / max(len(norms), 1) / (1 - momentum)
    else:
        step = math.sqrt(sum(p.numel() for p in parameters))
    change = rate * step / weights if weights else 0.0
    if not 0 < change < math.inf or not 0 < max(norms, default=0.0) < math.inf:
        return Pace(rate)
    fitting = min(max(change, FITTING[0]), FITTING[1])
    return Pace(rate if fitting == change else rate * fitting / change, CLIPPED * max(norms), change)


def _norm(tensors: Sequence[Tensor]) -> float:
    """Of all of them as one vector."""
    return float(torch.stack([tensor.detach().float().norm() for tensor in tensors]).norm())
