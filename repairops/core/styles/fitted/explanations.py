"""What one image does not tell but a group of failures does: of which kind its noise is, and how its streaks fade.

Answers for one explanation are biased where another one holds: noise of one kind that is read as part constant and part
growing with brightness comes out too weak, and so do streaks with the wrong profile. Each explanation is therefore
tried for itself, and the one whose images look most like the failures, in the mean of measures that tell the
explanations apart, is taken.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from repairops.core.styles.fitted.components import HALF_GAUSSIAN
from repairops.core.styles.fitted.degradation import Degradation, limits
from repairops.core.styles.fitted.look import FittedLook, random_effects
from repairops.core.styles.fitted.measures import RINGS, SECTORS, flat_noise, measure, noise_by_brightness, spectrum
from repairops.core.styles.fitted.regression import Answers, ask, local, try_out
from repairops.core.styles.whitening import safe_eigh

FADE_STEP = 0.25
CLEARLY = 1.05  # the mismatches of one fade differ by a few percent from round to round
SIMULATED = 2000  # images that are compared with the failures
LEAST_SPREAD = 1e-3  # of the widest direction's: narrower ones are rounding
BOTH_ALIKE = math.sqrt(2)  # shot noise over constant noise that is as strong at half brightness


@dataclass(frozen=True, eq=False)
class Group:
    """Failures, and what their explanations are tried on.

    tiles: the failures, float32 (R, C, H, W), or tiles of them. measured: (R, M), all measures of each failure. scenes:
    clean images (N, C, H, W). noise_shape: see `Degradation`. trials: in a round. shot_ratio: shot noise over constant
    noise where the group's noise has both; then `noise` stands for the two, and `shot` is no parameter by itself.
    """

    tiles: list[Tensor]
    measured: Tensor
    scenes: Tensor
    noise_shape: Tensor
    trials: int
    shot_ratio: float = 0.0

    def limits(self, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        return limits(names, min(self.scenes.shape[2:]), self.scenes.device)

    def try_out(self, names: tuple[str, ...], drawn: Tensor, generator: Generator, fade: float | None = None) -> Tensor:
        """Scenes with parameters (S, P), see `regression.try_out`."""
        if self._both(names):
            names, drawn = (*names, "shot"), with_shot(drawn, names, self.shot_ratio)
        return try_out(self.scenes, Degradation(names, drawn, self.noise_shape, fade), generator)

    def like(self, found: FittedLook, index: Tensor, generator: Generator) -> Tensor:
        """Scenes degraded as was found of the failures `index`, int64 (B,)."""
        return try_out(self.scenes, found.draw(index, generator, *self.limits(found.names)), generator)

    def found(self, names: tuple[str, ...], answers: Answers, fade: float | None = None) -> FittedLook:
        found = random_effects(names, answers, *self.limits(names), self.noise_shape, fade)
        if not self._both(names):
            return found
        # What is uncertain of shot noise is what is uncertain of `noise`: one more row of the factor, no more draws.
        return dataclasses.replace(
            found,
            names=(*names, "shot"),
            values=with_shot(found.values, names, self.shot_ratio),
            spread=F.pad(with_shot(found.spread.T, names, self.shot_ratio).T, (0, 1)),
            error=with_shot(found.error, names, self.shot_ratio),
        )

    def _both(self, names: tuple[str, ...]) -> bool:
        return self.shot_ratio > 0 and "noise" in names


def with_shot(values: Tensor, names: tuple[str, ...], ratio: float) -> Tensor:
    """Values (..., P) of these parameters, with those of shot noise at the end."""
    index = names.index("noise")
    return torch.cat([values, ratio * values[..., index : index + 1]], -1)


@dataclass(frozen=True, eq=False)
class Explanation:
    """mismatch: distance between the failures and images that are degraded as this says."""

    group: Group
    names: tuple[str, ...]
    answers: Answers
    found: FittedLook
    mismatch: float


def explain(
    group: Group,
    names: tuple[str, ...],
    start: Answers,
    measures: Callable[[Tensor], Tensor],
    seen: Tensor,
    seed: int,
    fade: float | None = None,
) -> Explanation:
    """One more round of trials around earlier answers, with these parameters and this fade alone.

    measures, seen: what the mismatch is judged by, and its mean over the failures; squared, of the means, in units of
    the spread between single images (Mahalanobis 1936). One seed for all that are compared, so that chance does not
    tell them apart.
    """
    generator = torch.Generator().manual_seed(seed)
    low, high = group.limits(names)
    drawn = local(names, start, low, high, group.trials, generator)
    tried = measure(group.try_out(names, drawn, generator, fade))
    answers = ask(tried, drawn, [group.measured], generator)[0]
    found = group.found(names, answers, fade)
    index = torch.randint(len(found.values), (SIMULATED,), generator=generator)
    simulated = measures(group.like(found, index, generator))
    difference = seen - simulated.mean(0)
    precision = torch.linalg.pinv(simulated.T.cov(), rtol=1e-4, hermitian=True)
    return Explanation(group, names, answers, found, float(difference @ precision @ difference))


def kind_of_noise(group: Group, names: tuple[str, ...], start: Answers, seed: int) -> Explanation:
    """Noise that is constant, that grows with brightness, or that does both in equal parts (at half brightness).

    In each case one parameter for each image: two are told apart badly, and their squares add.
    """

    seen = over_tiles(noise_measures, group.tiles).mean(0)

    def kind(absent: str, group: Group) -> Explanation:
        kept = [i for i, name in enumerate(names) if name != absent]
        index = torch.tensor(kept, device=group.scenes.device)
        return explain(group, tuple(names[i] for i in kept), start.keep(index), noise_measures, seen, seed)

    both = dataclasses.replace(group, shot_ratio=BOTH_ALIKE)
    return min(kind("shot", group), kind("noise", group), kind("shot", both), key=lambda one: one.mismatch)


def fading(group: Group, names: tuple[str, ...], start: Answers, seed: int) -> Explanation:
    """Streaks with one of five fades.

    Each fade starts with the answers of its neighbour, from half a Gaussian on. One beyond a worse one has to be better
    by CLEARLY: the mean spectra of trails on whole pixels and of steady ones can be alike at very different widths.
    """

    seen = over_tiles(grey_spectrum, group.tiles).mean(0)

    def around(answers: Answers, fade: float) -> Explanation:
        return explain(group, names, answers, grey_spectrum, seen, seed, fade)

    tried = {HALF_GAUSSIAN: around(start, HALF_GAUSSIAN)}
    handicap = {HALF_GAUSSIAN: 1.0}
    for step in (-FADE_STEP, FADE_STEP):
        fade = HALF_GAUSSIAN
        while 0 <= fade + step <= 1:
            tried[fade + step] = around(tried[fade].answers, fade + step)
            worse = tried[fade + step].mismatch > tried[fade].mismatch
            handicap[fade + step] = CLEARLY if worse else handicap[fade]
            fade += step
    best = min(tried, key=lambda fade: handicap[fade] * tried[fade].mismatch)
    return around(tried[best].answers, best)


def with_surplus(group: Group, found: FittedLook, seed: int) -> FittedLook:
    """The estimate with what it leaves unexplained of each failure, see `FittedLook`."""
    failures = len(found.values)
    times = math.ceil(SIMULATED / failures)
    generator = torch.Generator().manual_seed(seed)
    parts = torch.split(torch.arange(failures).repeat(times), SIMULATED)
    simulated = torch.cat([measure(group.like(found, part, generator)) for part in parts])
    roots, vectors = safe_eigh(simulated.T.cov())
    telling = roots > LEAST_SPREAD * roots.amax()
    whitening = vectors[:, telling] / roots[telling].sqrt()
    surplus = (group.measured - simulated.view(times, failures, -1).mean(0)) @ whitening
    return dataclasses.replace(found, surplus=surplus)


def over_tiles(measures: Callable[[Tensor], Tensor], tiles: list[Tensor]) -> Tensor:
    """Measures (R, M) of each failure, the means over its tiles."""
    return torch.stack([measures(tile) for tile in tiles]).mean(0)


def noise_measures(images: Tensor) -> Tensor:
    return torch.cat([flat_noise(images), noise_by_brightness(images)], 1)


def grey_spectrum(images: Tensor) -> Tensor:
    return spectrum(images.mean(1), RINGS, SECTORS)
