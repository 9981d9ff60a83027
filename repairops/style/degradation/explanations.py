"""What one image does not tell but a group of failures does: of which kind its noise is, and how its streaks fade.

Answers for one explanation are biased where another one holds: noise that is read as partly constant and partly growing
with brightness comes out too weak if it is all of one kind, and so do streaks with the wrong profile. Each explanation
is therefore tried for itself, and the one whose images look most like the failures, in the mean of measures that tell
the explanations apart, is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from repairops.style.degradation.measures import RINGS, SECTORS, flat_noise, measure, noise_by_brightness, spectrum
from repairops.style.degradation.optics import HALF_GAUSSIAN
from repairops.style.degradation.parameters import Degradation, limits
from repairops.style.degradation.random_effects import Estimate, random_effects
from repairops.style.degradation.regression import Answers, ask
from repairops.style.degradation.simulation import local, try_out

FADE_STEP = 0.25
CLEARLY = 1.05  # the mismatches of one fade differ by a few percent from round to round
SIMULATED = 2000  # images that are compared with the failures
KINDS_OF_NOISE = ("noise", "shot")
MUCH = 1.5  # how much nearer both kinds have to be: where noise was of both kinds they were 2.8 times nearer


@dataclass(frozen=True, eq=False)
class Group:
    """Failures, and what their explanations are tried on.

    tiles: the failures, float32 (R, C, H, W), or tiles of them. scenes: clean images (M, C, H, W). noise_shape: see
    `Degradation`. trials: in a round.
    """

    tiles: list[Tensor]
    scenes: Tensor
    noise_shape: Tensor
    trials: int

    def look(self, measures: Callable[[Tensor], Tensor]) -> Tensor:
        """Measures (R, M) of each failure, over its tiles."""
        return torch.stack([measures(tile) for tile in self.tiles]).mean(0)

    def limits(self, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        return limits(names, min(self.scenes.shape[2:]), self.scenes.device)


@dataclass(frozen=True, eq=False)
class Explanation:
    """mismatch: distance between the failures and images that are degraded as this says."""

    names: tuple[str, ...]
    answers: Answers
    found: Estimate
    mismatch: float


def explain(
    group: Group,
    names: tuple[str, ...],
    start: Answers,
    measures: Callable[[Tensor], Tensor],
    seed: int,
    fade: float | None = None,
) -> Explanation:
    """One more round of trials around earlier answers, with these parameters and this fade alone.

    measures: what the mismatch is judged by; squared, of the means, in units of the spread between single images
    (Mahalanobis 1936). One seed for all that are compared, so that chance does not tell them apart.
    """
    generator = torch.Generator().manual_seed(seed)
    low, high = group.limits(names)
    drawn = local(names, start, low, high, group.trials, generator)
    tried = measure(try_out(group.scenes, Degradation(names, drawn, group.noise_shape, fade), generator))
    answers = ask(tried, drawn, [group.look(measure)], generator)[0]
    found = random_effects(names, answers, low, high, group.noise_shape, fade)
    drawn_again = found.draw(torch.randint(len(found.values), (SIMULATED,), generator=generator), generator, low, high)
    simulated = measures(try_out(group.scenes, drawn_again, generator))
    difference = group.look(measures).mean(0) - simulated.mean(0)
    precision = torch.linalg.pinv(simulated.T.cov(), rtol=1e-4, hermitian=True)
    return Explanation(names, answers, found, float(difference @ precision @ difference))


def kind_of_noise(group: Group, names: tuple[str, ...], start: Answers, seed: int) -> Explanation:
    """Noise of one kind, constant or growing with brightness, unless both at once are much more like the failures."""
    tried = []
    for absent in (*KINDS_OF_NOISE, ""):
        kept = [i for i, name in enumerate(names) if name != absent]
        index = torch.tensor(kept, device=group.scenes.device)
        tried.append(explain(group, tuple(names[i] for i in kept), start.keep(index), noise_measures, seed))
    *single, both = tried
    plain = min(single, key=lambda one: one.mismatch)
    return both if MUCH * both.mismatch < plain.mismatch else plain


def fading(group: Group, names: tuple[str, ...], start: Answers, seed: int) -> Explanation:
    """Streaks with one of five fades.

    Each fade starts with the answers of its neighbour, from half a Gaussian on. One beyond a worse one has to be better
    by CLEARLY: the mean spectra of trails on whole pixels and of steady ones can be alike at very different widths.
    """

    def around(answers: Answers, fade: float) -> Explanation:
        return explain(group, names, answers, grey_spectrum, seed, fade)

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


def noise_measures(images: Tensor) -> Tensor:
    return torch.cat([flat_noise(images), noise_by_brightness(images)], 1)


def grey_spectrum(images: Tensor) -> Tensor:
    return spectrum(images.mean(1), RINGS, SECTORS)
