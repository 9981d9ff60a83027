"""A small network from measures to parameters, and how to read its answers without bias."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

WIDTH = 128
EPOCHS, BATCH, RATE = 20, 160, 6e-3


@dataclass(frozen=True, eq=False)
class Regression:
    """Parameters from measures: three layers on standardised measures."""

    centre: Tensor  # (M,)
    scale: Tensor  # (M,)
    layers: tuple[tuple[Tensor, Tensor], ...]

    def __call__(self, measures: Tensor) -> Tensor:
        """Measures (N, M) to parameters (N, P), in units of their standard deviation over the trials."""
        return _forward(((measures - self.centre) / self.scale).clamp(-4, 4), self.layers)


def fit_regression(measures: Tensor, parameters: Tensor, generator: Generator) -> Regression:
    """Least squares of parameters (S, P), of unit variance, on measures (S, M), by AdamW with one cosine."""
    centre, scale = measures.mean(0), measures.std(0, correction=0).clamp_min(1e-4)
    standard = ((measures - centre) / scale).clamp(-4, 4)
    sizes = (measures.shape[1], WIDTH, WIDTH, parameters.shape[1])
    layers = tuple(
        (
            (torch.randn(fed, out, generator=generator) * math.sqrt(2 / fed)).to(measures.device).requires_grad_(),
            torch.zeros(out, device=measures.device, requires_grad=True),
        )
        for fed, out in itertools.pairwise(sizes)
    )
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
    return Regression(centre, scale, tuple((w.detach(), b.detach()) for w, b in layers))


def _forward(x: Tensor, layers: tuple[tuple[Tensor, Tensor], ...]) -> Tensor:
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
