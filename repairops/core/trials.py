"""`method.name=auto`: a short training of each candidate, measured on the validation parts, picks method and recipe."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from repairops.config import MethodConfig, TrainingConfig
from repairops.core.training import TrainingResult
from repairops.outcome.sections import TrialFigures

logger = logging.getLogger("repairops")

FEWEST_BATCHES = 10  # of a trial; fewer say nothing


@dataclass(frozen=True)
class Candidate:
    """A method with its recipe. learning_rate: times the configured one."""

    method: str
    learning_rate: float = 1.0


# The first one is kept unless another repairs clearly more.
CANDIDATES = (
    Candidate("style_guided"),
    Candidate("fine_tune"),
    Candidate("style_guided", learning_rate=1 / 3),
    Candidate("fine_tune", learning_rate=1 / 3),
)


def choose_by_trial(
    method: MethodConfig,
    training: TrainingConfig,
    train_images: int,
    run: Callable[[int, MethodConfig, TrainingConfig], TrainingResult],
    candidates: Sequence[Candidate] = CANDIDATES,
) -> tuple[MethodConfig, TrainingConfig, list[TrialFigures]]:
    """The method and training that the trials pick, and the trials.

    run: trains candidate number i from the champion. All trials together see `method.trial_share` of the images of
    a whole training; of a time limit they take that share, and the training that follows takes the rest.
    """
    short = trial_training(method, training, train_images, len(candidates))
    trials, base = [], training.learning_rate
    for number, candidate in enumerate(candidates):
        named = dataclasses.replace(method, name=candidate.method)
        shorter = dataclasses.replace(short, learning_rate=base * candidate.learning_rate)
        result = run(number, named, shorter)
        base = base or result.pace.learning_rate / candidate.learning_rate  # the first one finds what fits
        trials.append(_measured(candidate, result, base * candidate.learning_rate))
    best = pick(trials)
    logger.info(
        "%d trials; %s at learning rate %g is taken.", len(trials), trials[best].method, trials[best].learning_rate
    )
    trials[best] = dataclasses.replace(trials[best], chosen=True)
    chosen = dataclasses.replace(method, name=candidates[best].method)
    left = training.max_minutes * (1 - method.trial_share)
    longer = dataclasses.replace(training, learning_rate=trials[best].learning_rate, max_minutes=left)
    return chosen, longer, trials


def trial_training(
    method: MethodConfig, training: TrainingConfig, train_images: int, candidates: int
) -> TrainingConfig:
    """The configuration of one trial: whole epochs where its share allows, else one epoch of fewer images."""
    used = min(train_images, training.max_train_images or train_images, training.epoch_images or train_images)
    images = method.trial_share * training.epochs * used / candidates
    whole = int(images // used) if used else 0
    fewer = min(used, max(round(images), FEWEST_BATCHES * training.batch_size))
    return dataclasses.replace(
        training,
        epochs=max(whole, 1),
        least_steps=0,
        epoch_images=training.epoch_images if whole else fewer,
        max_minutes=training.max_minutes * method.trial_share / candidates,
    )


def pick(trials: Sequence[TrialFigures]) -> int:
    """The trial with most validation failures repaired; the first one where none is better by a standard error.

    A trial's figures are those of its chosen epoch, so one that lost clean accuracy counts as the champion does.
    """
    best = max(range(len(trials)), key=lambda i: (trials[i].validation_repaired, trials[i].validation_right, -i))
    count = max(trials[best].validation_failures, 1)
    share = trials[best].validation_repaired / count
    noise = math.sqrt(count * share * (1 - share))
    return best if trials[best].validation_repaired - trials[0].validation_repaired > noise else 0


def _measured(candidate: Candidate, result: TrainingResult, rate: float) -> TrialFigures:
    figures = result.history[result.best_epoch - 1] if result.best_epoch else result.champion
    return TrialFigures(
        method=candidate.method,
        learning_rate=rate,
        epochs=len(result.history),
        train_images=result.train_images,
        seconds=round(result.seconds, 2),
        validation_repaired=figures["validation_repaired"],
        validation_failures=result.validation_failures,
        validation_right=figures["validation_right"],
        validation_images=result.validation_images,
    )
