"""Score tests and intervals for proportions: plain numbers in, plain numbers out.

All confidences are one-sided. All tests of one kind grow with the square root of the sample at constant shares,
so `settling_size` says for each how many images would settle it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import beta, binom, norm

MOST = 1_000_000  # images or failures that a team may have; more settle nothing


def quantile(confidence: float) -> float:
    """The standard normal quantile, 1.645 for 0.95."""
    return float(norm.ppf(confidence))


def tango_score(won: Any, lost: Any, n: float, difference: float) -> Any:
    """Tango's score statistic for paired proportions: standard normal where the true difference is `difference`.

    won, lost: pairs that only the second, only the first system got right (numbers or arrays of one shape, and so the
    result); n: all pairs, at least 1. The observed difference is (won - lost) / n; the statistic falls as
    `difference` in -1..1 grows, and is 0 at the observed one. At `difference` 0 it is McNemar's. Finite for
    won = lost = 0, infinite only at differences that no table with these counts can have.

    The statistic is asymptotic. Exact chances that a one-sided 95% test passes a true loss of just the margin, for
    half a point and up to 10,000 images: at most 5.3% from 599 images on where the challenger wins at least 0.05% of
    the images (computed on a grid of shares); where it wins none at all up to 6.2% (894 images), and 6.7% at 539.
    `exact.exact_p_value` removes the excess.

    Source: Tango 1998, Statistics in Medicine 17:891, equations 24-26, with the root in its stable form.
    """
    surplus = np.asarray(won - lost - n * difference, dtype=float)
    surplus = np.where(abs(surplus) <= 1e-12 * n, 0.0, surplus)
    a = 2 * n
    b = -won - lost + (2 * n - won + lost) * difference
    c = -lost * difference * (1 - difference)
    root = np.sqrt(np.maximum(b * b - 4 * a * c, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        share_lost = np.where(b <= 0, (root - b) / (2 * a), -2 * c / (b + root))
        variance = n * (2 * share_lost + difference * (1 - difference))
        # rounding of an exact zero of the variance
        infinite = variance <= 1e-12 * n
        score = np.where(infinite, np.copysign(np.inf, surplus), surplus / np.sqrt(np.where(infinite, 1.0, variance)))
    score = np.where(surplus == 0, 0.0, score)
    return score if score.ndim else float(score)


def tango_interval(won: float, lost: float, n: float, confidence: float) -> tuple[float, float]:
    """Lower and upper one-sided bound of the difference (won - lost) / n, in -1..1; (nan, nan) without pairs."""
    if n <= 0:
        return math.nan, math.nan
    return tango_lower(won, lost, n, confidence), -tango_lower(lost, won, n, confidence)


def tango_lower(won: float, lost: float, n: float, confidence: float) -> float:
    """The lower bound: where `tango_score` reaches the quantile, found by bisection to 1e-15."""
    z = quantile(confidence)
    low, high = -1.0, (won - lost) / n
    while high - low > 1e-15:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if tango_score(won, lost, n, middle) >= z:
            low = middle
        else:
            high = middle
    return low


def binomial_p_value(hits: int, n: int, rate: float, *, less: bool = False) -> float:
    """The exact chance of at least `hits` among n (at most, where `less`), where the true rate is `rate` in 0..1."""
    return float(binom.cdf(hits, n, rate) if less else binom.sf(hits - 1, n, rate))


def binomial_score(hits: float, n: float, rate: float) -> float:
    """The score statistic of `hits` among n (at least 1) against a true `rate` in 0..1."""
    surplus = hits - n * rate
    if abs(surplus) <= 1e-12 * n:
        return 0.0
    deviation = math.sqrt(max(n * rate * (1 - rate), 0.0))
    return surplus / deviation if deviation > 0 else math.copysign(math.inf, surplus)


def binomial_interval(hits: int, n: int, confidence: float) -> tuple[float, float]:
    """Clopper and Pearson's lower and upper one-sided bound of a proportion, in 0..1; (nan, nan) for n = 0.

    Each is beyond the true proportion in at most 1 - confidence of samples, whatever n and the proportion. Wilson's
    score bound is not: at 95% and a true rate of 0.3 its error is 8.4% for n = 19.
    """
    if n <= 0:
        return math.nan, math.nan
    low = float(beta.ppf(1 - confidence, hits, n - hits + 1)) if hits else 0.0
    high = float(beta.ppf(confidence, hits + 1, n - hits)) if hits < n else 1.0
    return low, high


def settling_size(score: float, n: int, confidence: float) -> int | None:
    """The smallest sample at which a score test with the same shares is settled; None where none up to `MOST` is.

    Settled: the score is at least the quantile (a pass) or below minus the quantile (a fail).
    """
    if score == 0 or not math.isfinite(score):
        return None
    exact = n * (quantile(confidence) / score) ** 2
    if exact > MOST:
        return None
    return math.ceil(exact - 1e-9) if score > 0 else math.floor(exact + 1e-9) + 1


def smallest_settled(start: int, settled: Callable[[int], bool]) -> int:
    """About the smallest size from `start` on that an exact test settles, by 2% steps and then bisection.

    start: `settling_size`'s, of which exact tests want a little more.
    """
    low, high = start - 1, start
    while not settled(high) and high < 10 * start:
        low, high = high, max(high + 1, math.ceil(1.02 * high))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle, high)
    return high


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: rejecting those up to 0.05 errs in at most 5% of families."""
    order = np.argsort(p_values, kind="stable")
    ascending = np.asarray(p_values, dtype=float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(np.minimum(ascending, 1.0))
    return list(adjusted.tolist())
