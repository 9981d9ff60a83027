"""Estimating degradations by trial: what the measures say of the parameters is learned on degraded clean images.

No formula tells noise from texture, or a veil from low contrast, once images are clipped and their scenes unknown. So
clean images are degraded with known parameters, and a regression from measures to parameters is fitted to them
(indirect inference, Gourieroux et al. 1993; in rounds as in sequential simulation-based inference, Cranmer et al.
2020). The first round is over all components and decides which may be present; the next ones are around the values
that were found, where the regression is sharper and absent components no longer blur it.

The failures' parameters then follow from a normal random-effects model of the answers: their mean, their spread
between images (what exceeds the scatter of the answers), and for each image what its own answer adds.

How the light of streaks fades along them decides what is left of the high frequencies, and so the width that is read
from these. One image does not tell it, a group does: see `fading`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from repairops.style.degradation.apply import degrade
from repairops.style.degradation.measures import RINGS, SECTORS, flat_patch_covariance, measure, spectrum
from repairops.style.degradation.optics import HALF_GAUSSIAN
from repairops.style.degradation.parameters import PARAMETERS, Degradation, limits, parameter_names
from repairops.style.degradation.regression import Answers, ask
from repairops.style.whitening import safe_eigh

TRIALS, TRIALS_EACH = (3000, 6000), 8  # of the first round: limits, and for each failure; later ones have two thirds
MOST_ROUNDS = 5
MAX_SCENES = 2000  # clean images, or tiles of them
TILE = 64  # larger images are measured in tiles of this side
COUNTS = (0, 1, 1, 1, 1, 2, 2, 2, 3, 4)  # families in a trial of the first round, equally likely
SKEW = 1.7  # strengths are drawn as u^SKEW: weak ones are more common
ABSENT = 0.3  # of the later rounds' trials lack a given candidate
MOST_FAMILIES = 5
CERTAIN = 3.0  # standard errors
FADE_STEP = 0.25
CLEARLY = 1.05  # the mismatches of one fade differ by a few percent from round to round
SIMULATED = 2000  # images whose spectra are compared with the failures'
TELLABLE = 0.2  # least slope of a regression's answers that say something of the parameter


@dataclass(frozen=True, eq=False)
class Estimate:
    """What was found in R failures.

    names: the P parameters that are present. values: (R, P), each failure's own most likely values. spread: (P, P),
    factor L of what remains uncertain of them, L L'. mean, deviation, error: (P,), of the parameters over all
    failures: mean, standard deviation between failures, standard error of the mean. noise_shape, fade: see
    `Degradation`.
    """

    names: tuple[str, ...]
    values: Tensor
    spread: Tensor
    mean: Tensor
    deviation: Tensor
    error: Tensor
    noise_shape: Tensor
    fade: float | None = None

    def draw(self, index: Tensor, generator: Generator, low: Tensor, high: Tensor) -> Degradation:
        """Parameters for failures `index` int64 (B,), anew from what is known of each, within low and high, (P,).

        On the device of these limits.
        """
        device = low.device
        values = self.values[index.to(self.values.device)].to(device)
        normal = torch.randn(values.shape, generator=generator).to(device)
        values = (values + normal @ self.spread.T.to(device)).clamp(low, high)
        return Degradation(self.names, values, self.noise_shape.to(device), self.fade)


def estimate(references: Tensor, clean: Tensor, generator: Generator) -> Estimate:
    """Degradation of references float32 (R, C, H, W) against clean images (M, C, H, W), both in 0..1."""
    side = min(clean.shape[2:])
    names = parameter_names(clean.shape[1], side)
    if not names:  # single pixels
        return nothing(references)
    cut = tiles(references)
    scenes = torch.cat([tile[: MAX_SCENES // len(cut)] for tile in tiles(clean)])
    scenes = scenes[torch.randperm(len(scenes), generator=generator).to(scenes.device)]
    shape = noise_shape(cut[0], scenes)
    failed = torch.stack([measure(tile) for tile in cut]).mean(0)
    asked = [failed, measure(scenes[-(len(scenes) // 3 + 1) :])]
    low, high = limits(names, min(scenes.shape[2:]), scenes.device)
    trials = min(max(TRIALS_EACH * len(references), TRIALS[0]), TRIALS[1])
    drawn = broad(names, low, high, trials, generator)
    for number in range(MOST_ROUNDS):
        seen = measure(try_out(scenes, Degradation(names, drawn, shape), generator))
        failures, sound = ask(seen, drawn, asked, generator)
        found = evident(names, failures, sound, number)
        kept = [i for i, name in enumerate(names) if name in found]
        stable = len(kept) == len(names)
        names = tuple(names[i] for i in kept)
        index = torch.tensor(kept, dtype=torch.int64, device=scenes.device)
        failures, low, high = failures.keep(index), low[index], high[index]
        if not names or (stable and number > 1):
            break
        drawn = local(names, failures, low, high, 2 * trials // 3, generator)
    if "streak_x" not in names:
        return random_effects(names, failures, low, high, shape)
    seen = torch.stack([spectrum(tile.mean(1), RINGS, SECTORS) for tile in cut]).mean(0)
    draws = int(torch.randint(2**62, (), generator=generator))

    def around(start: Answers, fade: float) -> tuple[Answers, Estimate, float]:
        generator = torch.Generator().manual_seed(draws)  # the same for all, so that chance does not tell them apart
        drawn = local(names, start, low, high, 2 * trials // 3, generator)
        measures = measure(try_out(scenes, Degradation(names, drawn, shape, fade), generator))
        answers = ask(measures, drawn, [failed], generator)[0]
        estimated = random_effects(names, answers, low, high, shape, fade)
        return answers, estimated, mismatch(seen, scenes, estimated, low, high, generator)

    return fading(failures, around)


def fading(start: Answers, around: Callable[[Answers, float], tuple[Answers, Estimate, float]]) -> Estimate:
    """The estimate with the fade, of five, whose images are most like the failures.

    around: answers, estimate and mismatch of a round with a fade, from earlier answers. Each fade starts with the
    answers of its neighbour, from half a Gaussian on. One beyond a worse one has to be better by CLEARLY: the mean
    spectra of trails on whole pixels and of steady ones can be alike at very different widths.
    """
    rounds = {HALF_GAUSSIAN: around(start, HALF_GAUSSIAN)}
    handicap = {HALF_GAUSSIAN: 1.0}
    for step in (-FADE_STEP, FADE_STEP):
        fade = HALF_GAUSSIAN
        while 0 <= fade + step <= 1:
            rounds[fade + step] = around(rounds[fade][0], fade + step)
            worse = rounds[fade + step][2] > rounds[fade][2]
            handicap[fade + step] = CLEARLY if worse else handicap[fade]
            fade += step
    best = min(rounds, key=lambda tried: handicap[tried] * rounds[tried][2])
    return around(rounds[best][0], best)[1]


def mismatch(seen: Tensor, scenes: Tensor, found: Estimate, low: Tensor, high: Tensor, generator: Generator) -> float:
    """Distance of the mean spectrum of failures (R, M) from that of scenes degraded as was found.

    Squared, in units of the spread between such scenes (Mahalanobis 1936). Each fade has had its own widths fitted, so
    what differs still is the form of the spectrum.
    """
    drawn = found.draw(torch.randint(len(found.values), (SIMULATED,), generator=generator), generator, low, high)
    images = try_out(scenes, drawn, generator)
    simulated = spectrum(images.mean(1), RINGS, SECTORS)
    difference = seen.mean(0) - simulated.mean(0)
    return float(difference @ torch.linalg.pinv(simulated.T.cov(), rtol=1e-4, hermitian=True) @ difference)


def nothing(references: Tensor) -> Estimate:
    """No degradation of references (R, C, H, W)."""
    none = references.new_zeros(0)
    shape = torch.eye(references.shape[1], device=references.device)
    return Estimate((), references.new_zeros(len(references), 0), none.view(0, 0), none, none, none, shape)


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


def random_effects(
    names: tuple[str, ...],
    answers: Answers,
    low: Tensor,
    high: Tensor,
    shape: Tensor,
    fade: float | None = None,
) -> Estimate:
    """The failures' parameters from the answers for them."""
    between = positive(answers.total - answers.scatter)
    gain = between @ torch.linalg.pinv(between + answers.scatter, hermitian=True)
    mean = answers.mean
    values = (mean + (answers.values - mean) @ gain.T).clamp(low, high)
    error = answers.total / len(answers.values)
    remaining = positive(between - gain @ between + error)
    roots, vectors = safe_eigh(remaining)
    spread = vectors * roots.clamp_min(0).sqrt()
    deviation, error = (x.diagonal().clamp_min(0).sqrt() for x in (between, error))
    return Estimate(names, values, spread, mean.clamp(low, high), deviation, error, shape, fade)


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


def tiles(images: Tensor) -> list[Tensor]:
    """Up to four tiles of large images (N, C, H, W), on the 8x8 grid of blocks; smaller ones as they are."""
    height, width = images.shape[2:]
    tops, lefts = (sorted({0, max(0, side - TILE) // 8 * 8}) for side in (height, width))
    return [images[..., top : top + TILE, left : left + TILE] for top in tops for left in lefts]
