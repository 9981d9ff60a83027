"""Before training: what the images that judge can show at all, and how likely they are to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, norm

from repairops.config import GateConfig
from repairops.errors import listing
from repairops.gate.classes import chance_of_falls
from repairops.gate.exact import exact_p_value
from repairops.gate.phrases import as_share
from repairops.gate.statistics import quantile, tango_score

CHANGED = (0.005, 0.01, 0.02, 0.05)  # shares of the clean decisions that a fine-tuned network may change
ENOUGH = 0.8  # power below which the job warns, at PLAUSIBLE
PLAUSIBLE = 0.02
DRAWS = 100  # of the answers of all classes; a chance near 1 has a standard error of 2 points


@dataclass(frozen=True)
class PowerAt:
    """The chances, 0..1, that the gate passes a repair that harms nothing; None where a check is not required.

    changed: the share of the clean answers that it changes, as often for the better as for the worse. power: of clean
    non-regression. classes: of class recall. repair: of the repair rate, where `plausible_rate` is repaired in truth.
    gate: of all three.
    """

    changed: float
    power: float
    classes: float | None = None
    repair: float | None = None
    gate: float | None = None


@dataclass(frozen=True)
class LeastHarm:
    """The smallest loss of one class that class recall finds (does not pass) with a chance of ENOUGH at PLAUSIBLE.

    images: of the class, the median of all. lost: of these, on balance; None where even the loss of all is not found.
    """

    classes: int
    images: int
    lost: int | None


def whole_power(sizes: Mapping[str, int], heldout: int, changed: float, policy: GateConfig) -> PowerAt:
    """The power of the required checks and of the gate. sizes: clean images by class; heldout: held-out failures."""
    clean = power(sum(sizes.values()), changed, policy)
    classes = _classes_pass(np.array([*sizes.values()]), changed, policy) if policy.class_recall == "required" else None
    repair = _repair_passes(heldout, policy) if policy.repair_rate == "required" else None
    asked = [clean if policy.clean_non_regression == "required" else None, classes, repair]
    return PowerAt(changed, clean, classes, repair, math.prod(chance for chance in asked if chance is not None))


def least_harm(sizes: Mapping[str, int], policy: GateConfig) -> LeastHarm | None:
    """See `LeastHarm`; None where class recall is off or there is no class."""
    n = np.array([size for size in sizes.values() if size])
    if policy.class_recall == "off" or not len(n):
        return None
    size = int(np.sort(n)[len(n) // 2])
    noise = quantile(ENOUGH) * math.sqrt(PLAUSIBLE * size)  # of what chance changes in this class
    usual = np.round(PLAUSIBLE * n / 2).astype(np.int64)
    own = int(np.argsort(n, kind="stable")[len(n) // 2])

    def found(loss: int) -> bool:
        """Whether such a loss is found where chance makes it smaller than in four of five samples."""
        lost, won = usual.copy(), usual.copy()
        changed = min(loss + PLAUSIBLE * size, size)
        lost[own], won[own] = round((changed + loss - noise) / 2), round((changed - loss + noise) / 2)
        return not _unharmed(lost, won, n, policy)

    low, high = 0, size
    if not found(high):
        return LeastHarm(len(n), size, None)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return LeastHarm(len(n), size, high)


def plausible_rate(policy: GateConfig) -> float:
    """The share of failures that a good repair is taken to repair in truth: half way from the required one to all."""
    return (1 + policy.min_repair_rate) / 2


def in_words(powers: Sequence[PowerAt], harm: LeastHarm | None, policy: GateConfig) -> str:
    """What the gate can show, in two sentences at most; '' where nothing is known."""
    found = next((each for each in powers if each.changed == PLAUSIBLE and each.gate is not None), None)
    said = []
    if found is not None:
        parts = {"clean accuracy": found.power, "recall of each class": found.classes, "repair rate": found.repair}
        shares = ", ".join(f"{name} {chance:.0%}" for name, chance in parts.items() if chance is not None)
        said.append(
            f"A repair that harms nothing, changes {PLAUSIBLE:.0%} of the clean answers and repairs "
            f"{plausible_rate(policy):.0%} of the failures passes with a chance of {found.gate:.0%} ({shares})."
        )
    if harm is not None and harm.classes > 1:
        what = f"of one class of {harm.images:,} images"
        lost = "even the loss of all" if harm.lost is None else f"a loss of {harm.lost:,}"
        seen = "is hardly found" if harm.lost is None else f"is found with a chance of {ENOUGH:.0%}"
        said.append(f"{lost.capitalize()} {what} {seen}.")
    return " ".join(said)


def gate_warning(
    sizes: Mapping[str, int], heldout: int, champion_accuracy: float, policy: GateConfig, known: PowerAt
) -> str | None:
    """What will keep a harmless repair from passing, before training; None where nothing will.

    known: the power at PLAUSIBLE. See `whole_power` for the other arguments.
    """
    said = [power_warning(sum(sizes.values()), champion_accuracy, policy)]
    if absent := [name for name, size in sizes.items() if not size]:
        if policy.class_recall == "required":
            said.append(f"The clean set has no image of {listing(absent, 5)}, so class_recall cannot pass.")
    elif known.classes is not None and known.classes < ENOUGH:
        said.append(
            f"With {len(sizes):,} classes a repair that harms none of them passes class_recall with a chance of "
            f"{known.classes:.0%}."
        )
    if known.repair is not None and known.repair < ENOUGH:
        said.append(
            f"With {heldout:,} held-out failures, a repair of {plausible_rate(policy):.0%} of them in truth shows the "
            f"{policy.min_repair_rate:.0%} required with a chance of {known.repair:.0%}: log more failures."
        )
    return " ".join(filter(None, said)) or None


def power_warning(n_clean: int, champion_accuracy: float, policy: GateConfig) -> str | None:
    """A warning, before training, that the clean set will hardly show non-inferiority; None where it will.

    It says so where even no changed decision cannot pass (then only a gain in clean accuracy can, for which
    `champion_accuracy`, 0..1, leaves room or not), and where an unchanged accuracy passes with less than 80% when 2%
    of the decisions change.
    """
    margin = as_share(policy.margin_points)
    if policy.clean_non_regression == "off":
        return None
    what = f"{n_clean:,} clean images cannot show a loss under {policy.margin_points:g} points"
    if margin <= 0:
        return f"{what}: without a margin only a gain in clean accuracy passes. Set gate.margin_points above 0."
    if not _passes(0, n_clean, policy):
        room = round(n_clean * (1 - champion_accuracy)) if math.isfinite(champion_accuracy) else 0
        unless = (
            " unless the challenger gets more of them right than the champion" if _passes(room, n_clean, policy) else ""
        )
        needed = _smallest(policy)
        return f"{what}{unless}: at least {needed:,} are needed. Give a larger clean set, or raise gate.margin_points."
    found = power(n_clean, PLAUSIBLE, policy)
    if found >= ENOUGH:
        return None
    alike = f"a challenger of the same accuracy that changes {PLAUSIBLE:.0%} of the decisions"
    enough = f"{_size_for(PLAUSIBLE, policy):,} images make it {ENOUGH:.0%}"
    return f"With {n_clean:,} clean images, {alike} passes with a chance of {found:.0%}; {enough}."


def power(n_clean: int, changed: float, policy: GateConfig) -> float:
    """The chance (0..1) that clean non-regression passes where the accuracy is the same in truth.

    changed: share of the images that exactly one of the two networks has right, half of them each. By the normal
    approximation of the score at the expected counts; within 3 points of the exact test's where 10 images change.
    """
    margin, z = as_share(policy.margin_points), quantile(policy.confidence)
    if n_clean < 1 or margin <= 0 or not _passes(0, n_clean, policy):
        return 0.0
    if changed <= 0:
        return 1.0
    half = n_clean * changed / 2
    score = tango_score(half, half, n_clean, -margin)
    return float(norm.cdf(n_clean * margin * (1 - z / score) / math.sqrt(n_clean * changed)))


def _classes_pass(n: np.ndarray, changed: float, policy: GateConfig) -> float:
    """The chance that class recall passes where no class falls in truth; n: int (K,), clean images of each class."""
    if not len(n) or not n.all():
        return 0.0
    draw = np.random.default_rng(0)
    both = draw.binomial(n, changed, (DRAWS, len(n)))
    lost = draw.binomial(both, 0.5)
    return float(np.mean([_unharmed(down, d - down, n, policy) for down, d in zip(lost, both, strict=True)]))


def _unharmed(lost: np.ndarray, won: np.ndarray, n: np.ndarray, policy: GateConfig) -> bool:
    """Whether class recall sees no damage in images lost and won in each class, int (K,) each; proof of it aside."""
    if policy.class_test == "each":
        return bool((lost - won <= as_share(policy.class_margin_points) * n + 1e-9).all())
    return chance_of_falls(lost, won, n, policy.class_margin_points) > 1 - policy.confidence


def _repair_passes(heldout: int, policy: GateConfig) -> float:
    """The chance that the repair rate passes where `plausible_rate` is repaired in truth."""
    too_few = binom.isf(1 - policy.confidence, heldout, policy.min_repair_rate)  # most repaired that do not show it
    return float(binom.sf(too_few, heldout, plausible_rate(policy)))


def _passes(gained: int, n: int, policy: GateConfig) -> bool:
    """Whether a challenger passes that wins `gained` images and loses none."""
    return n > 0 and exact_p_value(gained, 0, n, -as_share(policy.margin_points)) <= 1 - policy.confidence


def _smallest(policy: GateConfig) -> int:
    """The fewest clean images on which an unchanged challenger passes."""
    size = max(
        1, math.floor(math.log(1 - policy.confidence) / math.log1p(-min(as_share(policy.margin_points), 0.999999)))
    )
    while not _passes(0, size, policy):
        size += 1
    return size


def _size_for(changed: float, policy: GateConfig) -> int:
    """The clean images that give `ENOUGH` power, by bisection, to two digits."""
    low, high = 1, 2
    while power(high, changed, policy) < ENOUGH:
        low, high = high, 2 * high
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, changed, policy) >= ENOUGH else (middle, high)
    return high
