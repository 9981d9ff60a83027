"""Estimating degradations by trial: what the measures say of the parameters is learned on degraded clean images.

No formula tells noise from texture, or a veil from low contrast, once images are clipped and their scenes unknown. So
clean images are degraded with known parameters, and a regression from measures to parameters is fitted to them
(indirect inference, Gourieroux et al. 1993; in rounds as in sequential simulation-based inference, Cranmer et al.
2020). The first round is over all components and decides which may be present; the next ones are around the values
that were found, where the regression is sharper and absent components no longer blur it.

The failures' parameters then follow from a random-effects model of the answers, see `look.py`.

Where images so degraded do not look like the failures, it looks again beside what was found: see `beside`.

What one image does not tell, a group does: see `explanations.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from repairops.core.styles.fitted.degradation import PARAMETERS, parameter_names
from repairops.core.styles.fitted.evidence import with_evidence
from repairops.core.styles.fitted.explanations import Group, fading, kind_of_noise, over_tiles, with_surplus
from repairops.core.styles.fitted.look import UNEXPLAINED, FittedLook, nothing, positive
from repairops.core.styles.fitted.measures import flat_patch_covariance, measure
from repairops.core.styles.fitted.regression import Answers, ask, broad, local
from repairops.core.styles.whitening import safe_eigh

TRIALS, TRIALS_EACH = (3000, 6000), 8  # of the first round: limits, and for each failure; later ones have two thirds
MOST_ROUNDS = 5
MAX_SCENES = 2000  # clean images, or tiles of them
TILE = 64  # larger images are measured in tiles of this side
MOST_FAMILIES = 5
SECOND_LOOKS, LOOK_AGAIN = 3, UNEXPLAINED / 4  # at most; while more than this is unexplained
SET_ASIDE = 0.6  # of the trials of a second look lack a given family that was found
WEAK, NEEDED = 2.0, 0.2  # in least strengths; what a weak family must explain
CERTAIN = 3.0  # standard errors
TELLABLE = 0.2  # least slope of a regression's answers that say something of the parameter


def estimate(references: Tensor, clean: Tensor, generator: Generator) -> FittedLook:
    """Degradation of references float32 (R, C, H, W) against clean images (M, C, H, W), both in 0..1."""
    names = parameter_names(clean.shape[1], min(clean.shape[2:]))
    if not names:  # single pixels
        return nothing(references)
    group, trials = group_of(references, clean, generator), first_trials(len(references))
    sound = measure(group.scenes[-(len(group.scenes) // 3 + 1) :])
    low, high = group.limits(names)
    found = settle(group, sound, names, broad(names, low, high, trials, generator), generator)
    for _ in range(SECOND_LOOKS):
        if found.unexplained() <= LOOK_AGAIN:
            break
        other = settle(group, sound, names, beside(names, found, low, high, trials, generator), generator)
        found = min(found, other, key=FittedLook.unexplained)
    return found


def weigh(found: FittedLook, references: Tensor, clean: Tensor, generator: Generator) -> FittedLook:
    """The estimate with the evidence for each of its families (`evidence.py`): for where it is told."""
    return with_evidence(group_of(references, clean, generator), found, generator) if found.names else found


def group_of(references: Tensor, clean: Tensor, generator: Generator) -> Group:
    cut = tiles(references)
    scenes = torch.cat([tile[: MAX_SCENES // len(cut)] for tile in tiles(clean)])
    scenes = scenes[torch.randperm(len(scenes), generator=generator).to(scenes.device)]
    trials = 2 * first_trials(len(references)) // 3
    return Group(cut, over_tiles(measure, cut), scenes, noise_shape(cut[0], scenes), trials)


def first_trials(failures: int) -> int:
    return min(max(TRIALS_EACH * failures, TRIALS[0]), TRIALS[1])


def settle(group: Group, sound: Tensor, names: tuple[str, ...], drawn: Tensor, generator: Generator) -> FittedLook:
    """What shows of these parameters, from a first round of trials with parameters `drawn` (S, P) on.

    sound: measures (N, M) of clean images.
    """
    names, answers = rounds(group, sound, names, drawn, 0, generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    if {"noise", "shot"} <= set(names) and min(group.scenes.shape[2:]) >= 4:
        noise = kind_of_noise(group, names, answers, seed)
        group = noise.group  # its shot_ratio goes with the kind
        drawn = local(noise.names, noise.answers, *group.limits(noise.names), group.trials, generator)
        names, answers = rounds(group, sound, noise.names, drawn, 2, generator)
    found = fading(group, names, answers, seed).found if "streak_x" in names else group.found(names, answers)
    return needed(group, names, answers, with_surplus(group, found, seed), seed)


def needed(group: Group, names: tuple[str, ...], answers: Answers, found: FittedLook, seed: int) -> FittedLook:
    """What was found without the weak families that explain nothing (`FittedLook.unexplained`), the weakest first.

    A family of hardly more than the least strength may stand there by the rounding of the regression alone.
    """
    for family, strength in sorted(strengths(found).items(), key=lambda pair: pair[1]):
        kept = [i for i, name in enumerate(names) if PARAMETERS[name].family != family]
        if strength > WEAK or not kept:
            break
        without = tuple(names[i] for i in kept)
        generator = torch.Generator().manual_seed(seed)
        start = answers.keep(torch.tensor(kept, device=group.scenes.device))
        drawn = local(without, start, *group.limits(without), group.trials, generator)
        tried = measure(group.try_out(without, drawn, generator, found.fade))
        told = ask(tried, drawn, [group.measured], generator)[0]
        simpler = with_surplus(group, group.found(without, told, found.fade), seed)
        if simpler.unexplained() < found.unexplained() + NEEDED:
            names, answers, found = without, told, simpler
    return found


def strengths(found: FittedLook) -> dict[str, float]:
    """The mean strength of each family that was found, in units of what is left out as unseen."""
    strength: dict[str, float] = {}
    for name, mean in zip(found.names, found.values.mean(0).abs().tolist(), strict=True):
        parameter = PARAMETERS[name]
        strength[parameter.family] = max(mean / parameter.least, strength.get(parameter.family, 0.0))
    return strength


def beside(
    names: tuple[str, ...], found: FittedLook, low: Tensor, high: Tensor, count: int, generator: Generator
) -> Tensor:
    """Parameters (count, P) of the first round of a second look.

    A family that was found is near what was found, or set aside; the others are drawn as in the first look. So what
    was overlooked is seen beside what is there, and without what was taken for it.
    """
    drawn = broad(names, low, high, count, generator)
    normal = torch.randn(count, len(found.names), generator=generator).to(low.device)
    families = list(dict.fromkeys(PARAMETERS[name].family for name in names))
    near = torch.rand(count, len(families), generator=generator).to(low.device) > SET_ASIDE
    for i, name in enumerate(found.names):
        column, at = found.values[:, i], names.index(name)
        width = column.std(correction=0) + 2 * PARAMETERS[name].least
        values = (column.mean() + width * normal[:, i]).clamp(low[at], high[at])
        drawn[:, at] = torch.where(near[:, families.index(PARAMETERS[name].family)], values, drawn[:, at])
    return drawn


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
