"""Before training: what the clean set can show at all, and how likely it is to."""

from __future__ import annotations

import math

from scipy.stats import norm

from repairops.config import GateConfig
from repairops.gate.exact import exact_p_value
from repairops.gate.phrases import as_share
from repairops.gate.statistics import quantile, tango_score

CHANGED = (0.005, 0.01, 0.02, 0.05)  # shares of the clean decisions that a fine-tuned network may change
ENOUGH = 0.8  # power below which the job warns, at PLAUSIBLE
PLAUSIBLE = 0.02


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
