"""Trials: clean images degraded with parameters that are known."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from repairops.core.styles.fitted.apply import degrade
from repairops.core.styles.fitted.parameters import PARAMETERS, Degradation
from repairops.core.styles.fitted.regression import Answers

COUNTS = (0, 1, 1, 1, 1, 2, 2, 2, 3, 4)  # families in a trial of the first round, equally likely
SKEW = 1.7  # strengths are drawn as u^SKEW: weak ones are more common
ABSENT = 0.3  # of the later rounds' trials lack a given candidate


def try_out(scenes: Tensor, degradation: Degradation, generator: Generator) -> Tensor:
    """Each degradation on a scene drawn for it, rounded to 8 bits as failures are."""
    index = trial_scenes(len(scenes), len(degradation), generator).to(scenes.device)
    return (degrade(scenes[index], degradation, generator) * 255).round() / 255


def trial_scenes(scenes: int, trials: int, generator: Generator) -> Tensor:
    """A scene for each trial, int64 (trials,): the last third of the trials has the last third of the scenes.

    So the regression is read on scenes that it was not fitted to, as the failures' are; see `regression.ask`.
    """
    fitted = trials * 2 // 3
    border = max(1, 2 * scenes // 3)
    first = torch.randint(border, (fitted,), generator=generator)
    return torch.cat([first, torch.randint(min(border, scenes - 1), scenes, (trials - fitted,), generator=generator)])


def broad(names: tuple[str, ...], low: Tensor, high: Tensor, count: int, generator: Generator) -> Tensor:
    """Parameters (count, P) of the first round: a few families each, weak ones more often than strong ones."""
    families = [PARAMETERS[name].family for name in names]
    different = list(dict.fromkeys(families))
    number = torch.tensor(COUNTS)[torch.randint(len(COUNTS), (count,), generator=generator)]
    rank = torch.rand(count, len(different), generator=generator).argsort(1).argsort(1)
    on = (rank < number[:, None])[:, [different.index(family) for family in families]].to(low.device)
    size = torch.rand(count, len(names), generator=generator).to(low.device) ** SKEW
    negative = (torch.rand(count, len(names), generator=generator) < 0.5).to(low.device) & (low < 0)
    return torch.where(negative, size * low, size * high) * on


def local(
    names: tuple[str, ...], answers: Answers, low: Tensor, high: Tensor, count: int, generator: Generator
) -> Tensor:
    """Parameters (count, P) of a later round: around the answers, wider than these, now and then without a family."""
    least = torch.tensor([PARAMETERS[name].least for name in names], device=low.device)
    between = (answers.total - answers.scatter).diagonal().clamp_min(0).sqrt()
    unsure = torch.minimum(answers.scatter.diagonal().sqrt(), (high - low) / 4)
    width = between + unsure + 2 * least
    drawn = torch.randn(count, len(names), generator=generator).to(low.device)
    families = [PARAMETERS[name].family for name in names]
    different = list(dict.fromkeys(families))
    absent = torch.rand(count, len(different), generator=generator) < (ABSENT if len(different) > 1 else ABSENT / 3)
    values = (answers.mean + width * drawn).clamp(low, high)
    return values * ~absent[:, [different.index(family) for family in families]].to(low.device)
