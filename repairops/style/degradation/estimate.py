"""Estimating degradations by trial: what the measures say of the parameters is learned on degraded clean images.

No formula tells noise from texture, or a veil from low contrast, once images are clipped and their scenes unknown. So
clean images are degraded with known parameters, and a regression from measures to parameters is fitted to them
(indirect inference, Gourieroux et al. 1993; in rounds as in sequential simulation-based inference, Cranmer et al.
2020). The first round is over all components and decides which may be present; the next ones are around the values
that were found, where the regression is sharper and absent components no longer blur it.

The failures' parameters then follow from a normal random-effects model of the answers: their mean, their spread
between images (what exceeds the scatter of the answers), and for each image what its own answer adds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from repairops.style.degradation.apply import degrade
from repairops.style.degradation.measures import flat_patch_covariance, measure
from repairops.style.degradation.parameters import PARAMETERS, Degradation, limits, parameter_names
from repairops.style.degradation.regression import Answers, ask
from repairops.style.whitening import safe_eigh

FIRST_TRIALS, LATER_TRIALS, MOST_ROUNDS = 5000, 3000, 5
MAX_SOUND = 1000  # undamaged images that the failures are compared with
TILE = 64  # larger images are measured in tiles of this side
COUNTS = (0, 1, 1, 1, 1, 2, 2, 2, 3, 4)  # families in a trial of the first round, equally likely
SKEW = 1.7  # strengths are drawn as u^SKEW: weak ones are more common
ABSENT = 0.2  # of the later rounds' trials lack a given candidate
CERTAIN = 3.0  # standard errors
TELLABLE = 0.2  # least slope of a regression's answers that say something of the parameter


@dataclass(frozen=True, eq=False)
class Estimate:
    """What was found in R failures.

    names: the P parameters that are present. values: (R, P), each failure's own most likely values. spread: (P, P),
    factor L of what remains uncertain of them, L L'. mean, deviation, error: (P,), of the parameters over all
    failures: mean, standard deviation between failures, standard error of the mean. noise_shape: see `Degradation`.
    """

    names: tuple[str, ...]
    values: Tensor
    spread: Tensor
    mean: Tensor
    deviation: Tensor
    error: Tensor
    noise_shape: Tensor


def estimate(references: Tensor, clean: Tensor, generator: Generator) -> Estimate:
    """Degradation of references float32 (R, C, H, W) against clean images (M, C, H, W), both in 0..1."""
    seen, owners = tiles(references)
    scenes, _ = tiles(clean)
    shape = noise_shape(seen, scenes)
    asked = [_by_image(measure(seen), owners), measure(scenes[-(len(scenes) // 3 + 1) :][:MAX_SOUND])]
    side = min(scenes.shape[2:])
    names = parameter_names(scenes.shape[1], side)
    low, high = limits(names, side, scenes.device)
    drawn = broad(names, low, high, FIRST_TRIALS, generator)
    for number in range(MOST_ROUNDS):
        index = trial_scenes(len(scenes), len(drawn), generator).to(scenes.device)
        degraded = degrade(scenes[index], Degradation(names, drawn, shape), generator)
        trials = measure((degraded * 255).round() / 255)
        failures, sound = ask(trials, drawn, asked, generator)
        found = evident(names, failures, sound, broadly=number == 0, sure=number > 1)
        kept = torch.tensor([i for i, name in enumerate(names) if name in found], dtype=torch.int64)
        kept = kept.to(scenes.device)
        stable = len(kept) == len(names)
        names = tuple(name for name in names if name in found)
        failures, low, high = failures.keep(kept), low[kept], high[kept]
        if not names or (stable and number > 1):
            break
        if number < MOST_ROUNDS - 1:
            drawn = local(names, failures, low, high, LATER_TRIALS, generator)
    return random_effects(names, failures, low, high, shape)


def trial_scenes(scenes: int, trials: int, generator: Generator) -> Tensor:
    """A scene for each trial, int64 (trials,): the last third of the trials has the last third of the scenes.

    So the regression is read on scenes that it was not fitted to, as the failures' are; see `regression.ask`.
    """
    fitted = trials * 2 // 3
    border = max(1, 2 * scenes // 3)
    first = torch.randint(border, (fitted,), generator=generator)
    return torch.cat([first, torch.randint(min(border, scenes - 1), scenes, (trials - fitted,), generator=generator)])


def evident(names: tuple[str, ...], failures: Answers, sound: Answers, broadly: bool, sure: bool) -> set[str]:
    """The parameters whose families show in the failures' answers against those of clean images.

    A family shows by its mean, or by a spread between images that clean images do not have.
    """
    factor = 1.0 if sure else 0.5
    shift = failures.mean - sound.mean
    error = (failures.total.diagonal() / len(failures.values) + sound.total.diagonal() / len(sound.values)).sqrt()
    usual = torch.maximum(sound.total.diagonal(), failures.absent if not broadly else sound.total.diagonal())
    excess = (failures.total.diagonal() - usual * (1 + CERTAIN * (2 / len(failures.values)) ** 0.5)).clamp_min(0)
    found = set()
    for i, name in enumerate(names):
        least = factor * PARAMETERS[name].least
        if float(failures.slope[i]) < TELLABLE:
            continue
        if abs(float(shift[i])) > max(least, CERTAIN * float(error[i])) or float(excess[i].sqrt()) > least:
            found.add(PARAMETERS[name].family)
    return {name for name in names if PARAMETERS[name].family in found}


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
    width = 1.5 * between + 2 * least + 0.3 * answers.mean.abs()
    drawn = torch.randn(count, len(names), generator=generator).to(low.device)
    families = [PARAMETERS[name].family for name in names]
    different = list(dict.fromkeys(families))
    absent = torch.rand(count, len(different), generator=generator) < (ABSENT if len(different) > 1 else ABSENT / 2)
    values = (answers.mean + width * drawn).clamp(low, high)
    return values * ~absent[:, [different.index(family) for family in families]].to(low.device)


def random_effects(names: tuple[str, ...], answers: Answers, low: Tensor, high: Tensor, shape: Tensor) -> Estimate:
    between = positive(answers.total - answers.scatter)
    gain = between @ torch.linalg.pinv(between + answers.scatter, hermitian=True)
    mean = answers.mean
    values = (mean + (answers.values - mean) @ gain.T).clamp(low, high)
    error = answers.total / len(answers.values)
    remaining = positive(between - gain @ between + error)
    roots, vectors = safe_eigh(remaining)
    spread = vectors * roots.clamp_min(0).sqrt()
    deviation, error = (x.diagonal().clamp_min(0).sqrt() for x in (between, error))
    return Estimate(names, values, spread, mean.clamp(low, high), deviation, error, shape)


def positive(matrix: Tensor) -> Tensor:
    """A symmetric matrix (P, P) without its negative eigenvalues."""
    values, vectors = safe_eigh((matrix + matrix.T) / 2)
    return (vectors * values.clamp_min(0)) @ vectors.T


def noise_shape(references: Tensor, clean: Tensor) -> Tensor:
    """Factor (C, C) of the covariance across the channels of what noise the references have more than clean images.

    Of mean variance 1; white where there is no such noise.
    """
    excess = positive(flat_patch_covariance(references).mean(0) - flat_patch_covariance(clean).mean(0))
    level = excess.diagonal().mean()
    identity = torch.eye(len(excess), device=excess.device)
    if level < PARAMETERS["noise"].least ** 2 / 4:
        return identity
    values, vectors = safe_eigh(excess / level)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def tiles(images: Tensor) -> tuple[Tensor, Tensor]:
    """Up to four tiles of large images (N, C, H, W), on the 8x8 grid, and the image of each; smaller ones as they are."""
    height, width = images.shape[2:]
    tops, lefts = ({0, (side - TILE) // 8 * 8} if side > TILE else {0} for side in (height, width))
    cut = [images[..., top : top + TILE, left : left + TILE] for top in sorted(tops) for left in sorted(lefts)]
    owners = torch.arange(len(images), device=images.device).repeat(len(cut))
    return torch.cat(cut), owners


def _by_image(measures: Tensor, owners: Tensor) -> Tensor:
    """Mean over each image's tiles."""
    count = int(owners.max()) + 1
    sums = measures.new_zeros(count, measures.shape[1]).index_add_(0, owners, measures)
    return sums * (count / len(owners))
