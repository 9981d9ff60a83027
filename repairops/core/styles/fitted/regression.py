"""Trials: clean images degraded with known parameters, and a small network that learns the parameters from measures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from repairops.core.styles.fitted.degradation import PARAMETERS, Degradation, degrade

COUNTS = (0, 1, 1, 1, 1, 2, 2, 2, 3, 4)  # families in a trial of the first round, equally likely
SKEW = 1.7  # strengths are drawn as u^SKEW: weak ones are more common
ABSENT = 0.3  # of the later rounds' trials lack a given candidate
WIDTH = 128
EPOCHS, BATCH, RATE = 20, 160, 6e-3


def try_out(scenes: Tensor, degradation: Degradation, generator: Generator) -> Tensor:
    """Each degradation on a scene drawn for it, rounded to 8 bits as failures are."""
    index = trial_scenes(len(scenes), len(degradation), generator).to(scenes.device)
    return (degrade(scenes[index], degradation, generator) * 255).round() / 255


def trial_scenes(scenes: int, trials: int, generator: Generator) -> Tensor:
    """A scene for each trial, int64 (trials,): the last third of the trials has the last third of the scenes.

    So the regression is read on scenes that it was not fitted to, as the failures' are; see `ask`.
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
    values = (answers.mean.clamp(low, high) + width * drawn).clamp(low, high)
    return values * ~absent[:, [different.index(family) for family in families]].to(low.device)


def fit_regression(measures: Tensor, parameters: Tensor, generator: Generator) -> Callable[[Tensor], Tensor]:
    """A map of measures (N, M) to parameters (N, P): three layers on standardised measures.

    Least squares of parameters (S, P), of unit variance, on measures (S, M), by AdamW with one cosine.
    """
    centre, scale = measures.mean(0), measures.std(0, correction=0).clamp_min(1e-4)
    standard = ((measures - centre) / scale).clamp(-4, 4)
    sizes = (measures.shape[1], WIDTH, WIDTH, parameters.shape[1])
    layers = [
        (
            (torch.randn(fed, out, generator=generator) * math.sqrt(2 / fed)).to(measures.device).requires_grad_(),
            torch.zeros(out, device=measures.device, requires_grad=True),
        )
        for fed, out in itertools.pairwise(sizes)
    ]
    batches = max(1, len(measures) // BATCH)
    optimiser = torch.optim.AdamW([t for layer in layers for t in layer], RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS * batches)
    with torch.enable_grad():
        for _ in range(EPOCHS):
            order = torch.randperm(len(measures), generator=generator).to(measures.device)
            for index in order.tensor_split(batches):
                loss = F.mse_loss(_forward(standard[index], layers), parameters[index])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
    fitted = [(weight.detach(), bias.detach()) for weight, bias in layers]
    return lambda asked: _forward(((asked - centre) / scale).clamp(-4, 4), fitted)


def _forward(x: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    for weight, bias in layers[:-1]:
        x = (x @ weight + bias).relu()
    return x @ layers[-1][0] + layers[-1][1]


@dataclass(frozen=True, eq=False)
class Answers:
    """Unbiased answers of a regression for R images, (R, P), and how they scatter.

    scatter: covariance (P, P) of answers to one truth. absent: (P,), variance of each where its own truth is 0.
    slope: (P,), how much of a change of the truth the raw answer followed: near 0 the parameter cannot be told.
    """

    values: Tensor
    scatter: Tensor
    absent: Tensor
    slope: Tensor

    def keep(self, index: Tensor) -> Answers:
        """For some of the parameters alone."""
        return Answers(self.values[:, index], self.scatter[index][:, index], self.absent[index], self.slope[index])

    @property
    def mean(self) -> Tensor:
        return self.values.mean(0)

    @property
    def total(self) -> Tensor:
        """Covariance (P, P) over the images, scatter included."""
        centred = self.values - self.mean
        return centred.T @ centred / len(centred)


def ask(trials: Tensor, parameters: Tensor, asked: list[Tensor], generator: Generator) -> list[Answers]:
    """What trials, measures (S, M) of known parameters (S, P), say of other measures (R, M), once for each set.

    A regression shrinks towards the middle of what it was fitted to. Two thirds of the trials fit it, the others show
    how it answers: answer = offset + slopes * truth + scatter. The answers are returned with that undone.
    """
    unit = parameters.std(0, correction=0).clamp_min(1e-6)
    known = parameters / unit
    half = 2 * len(trials) // 3
    regression = fit_regression(trials[:half], known[:half], generator)
    truth = known[half:]
    design = torch.cat([torch.ones_like(truth[:, :1]), truth], 1)
    answers = regression(trials[half:])
    slopes = torch.linalg.lstsq(design, answers).solution
    inverse = torch.linalg.pinv(slopes[1:], rtol=1e-2) * unit
    residual = (answers - design @ slopes) @ inverse
    scatter = residual.T @ residual / len(residual)
    missing = (truth == 0).float()
    absent = (residual.square() * missing).sum(0) / missing.sum(0).clamp_min(1)
    values = [(regression(measures) - slopes[0]) @ inverse for measures in asked]
    return [Answers(value, scatter, absent, slopes[1:].diagonal()) for value in values]
