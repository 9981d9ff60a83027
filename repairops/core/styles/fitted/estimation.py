"""Estimating degradations by trial: what the measures say of the parameters is learned on degraded clean images.

No formula tells noise from texture, or a veil from low contrast, once images are clipped and their scenes unknown. So
clean images are degraded with known parameters, and a regression from measures to parameters is fitted to them
(indirect inference, Gourieroux et al. 1993; in rounds as in sequential simulation-based inference, Cranmer et al.
2020). The first round is over all components and decides which may be present; the next ones are around the values
that were found, where the regression is sharper and absent components no longer blur it.

The failures' parameters then follow from a random-effects model of the answers, see `look.py`.

What one image does not tell, a group does: see `explanations.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from repairops.core.styles.fitted.degradation import PARAMETERS, parameter_names
from repairops.core.styles.fitted.explanations import Group, fading, kind_of_noise, over_tiles, with_surplus
from repairops.core.styles.fitted.look import FittedLook, nothing, positive
from repairops.core.styles.fitted.measures import flat_patch_covariance, measure
from repairops.core.styles.fitted.regression import Answers, ask, broad, local
from repairops.core.styles.whitening import safe_eigh

TRIALS, TRIALS_EACH = (3000, 6000), 8  # of the first round: limits, and for each failure; later ones have two thirds
MOST_ROUNDS = 5
MAX_SCENES = 2000  # clean images, or tiles of them
TILE = 64  # larger images are measured in tiles of this side
MOST_FAMILIES = 5
CERTAIN = 3.0  # standard errors
TELLABLE = 0.2  # least slope of a regression's answers that say something of the parameter


def estimate(references: Tensor, clean: Tensor, generator: Generator) -> FittedLook:
    """Degradation of references float32 (R, C, H, W) against clean images (M, C, H, W), both in 0..1."""
    side = min(clean.shape[2:])
    names = parameter_names(clean.shape[1], side)
    if not names:  # single pixels
        return nothing(references)
    cut = tiles(references)
    scenes = torch.cat([tile[: MAX_SCENES // len(cut)] for tile in tiles(clean)])
    scenes = scenes[torch.randperm(len(scenes), generator=generator).to(scenes.device)]
    trials = min(max(TRIALS_EACH * len(references), TRIALS[0]), TRIALS[1])
    group = Group(cut, over_tiles(measure, cut), scenes, noise_shape(cut[0], scenes), 2 * trials // 3)
    clean_measured = measure(scenes[-(len(scenes) // 3 + 1) :])
    drawn = broad(names, *group.limits(names), trials, generator)
    names, answers = rounds(group, clean_measured, names, drawn, 0, generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    if {"noise", "shot"} <= set(names) and side >= 4:
        noise = kind_of_noise(group, names, answers, seed)
        group = noise.group  # its shot_ratio goes with the kind
        drawn = local(noise.names, noise.answers, *group.limits(noise.names), group.trials, generator)
        names, answers = rounds(group, clean_measured, noise.names, drawn, 2, generator)
    found = fading(group, names, answers, seed).found if "streak_x" in names else group.found(names, answers)
    return with_surplus(group, found, seed)


def rounds(
    group: Group, clean: Tensor, names: tuple[str, ...], drawn: Tensor, first: int, generator: Generator
) -> tuple[tuple[str, ...], Answers]:
    """The parameters that show, and the answers for them, once no round leaves one out any more.

    clean: measures (N, M) of clean images. drawn: (S, P), those of the trials of round `first`; 0 is the one over all
    components.
    """
    for number in range(first, MOST_ROUNDS):
        seen = measure(group.try_out(names, drawn, generator))
        answers, sound = ask(seen, drawn, [group.measured, clean], generator)
        found = evident(names, answers, sound, number)
        kept = [i for i, name in enumerate(names) if name in found]
        stable = len(kept) == len(names)
        names = tuple(names[i] for i in kept)
        answers = answers.keep(torch.tensor(kept, dtype=torch.int64, device=group.scenes.device))
        if not names or (stable and number > 1):
            break
        drawn = local(names, answers, *group.limits(names), group.trials, generator)
    return names, answers


def evident(names: tuple[str, ...], failures: Answers, sound: Answers, number: int) -> set[str]:
    """The parameters whose families show in the failures' answers against those of clean images, in round `number`.

    A family shows by its mean, or by a spread between images that clean images do not have. The first rounds are
    lenient, and the first keeps no more than MOST_FAMILIES: a regression on too many at once says little of each.
    """
    shift = failures.mean - sound.mean
    count = len(failures.values)
    error = (failures.total.diagonal() / count + sound.total.diagonal() / len(sound.values)).sqrt()
    usual = sound.total.diagonal() if number == 0 else torch.maximum(sound.total.diagonal(), failures.absent)
    excess = (failures.total.diagonal() - usual * (1 + CERTAIN * math.sqrt(2 / count))).clamp_min(0).sqrt()
    strength: dict[str, float] = {}
    for i, name in enumerate(names):
        parameter = PARAMETERS[name]
        least = parameter.least if number > 1 else parameter.least / 2
        moved = float(shift[i])
        if number > 1:  # where other components are strong, answers for clean images mislead too
            moved = min(moved, float(failures.mean[i]), key=abs)
        moved = moved if parameter.low == 0 else abs(moved)
        moved = moved if moved > CERTAIN * float(error[i]) else 0.0
        spread = float(excess[i]) if parameter.low < 0 or shift[i] > -least else 0.0
        if (number > 0 or failures.slope[i] > TELLABLE) and max(moved, spread) > least:
            score = max(moved, spread) / least
            strength[parameter.family] = max(score, strength.get(parameter.family, 0.0))
    strongest = sorted(strength, key=lambda family: -strength[family])[:MOST_FAMILIES]
    return {name for name in names if PARAMETERS[name].family in strongest}


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


def tiles(images: Tensor) -> list[Tensor]:
    """Up to four tiles of large images (N, C, H, W), on the 8x8 grid of blocks; smaller ones as they are."""
    height, width = images.shape[2:]
    tops, lefts = (sorted({0, max(0, side - TILE) // 8 * 8}) for side in (height, width))
    return [images[..., top : top + TILE, left : left + TILE] for top in tops for left in lefts]
