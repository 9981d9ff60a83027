"""The exact unconditional test of a paired difference: an error rate that holds for every sample and every share.

Tango's score test is asymptotic: where few answers differ it passes a true loss of just the margin more often than
it says (`statistics.tango_score` has the figures). Here the score only orders the tables; their chances are summed
exactly, at the worst value of what the hypothesis leaves open.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import betainc, gammaln, xlog1py, xlogy
from scipy.stats import binom

from repairops.gate.statistics import binomial_interval, tango_lower, tango_score

NUISANCE_RISK = 1e-6  # Berger and Boos's gamma, a part of the error rate; below 0.05 even over 10,000 classes
_TAIL = 1e-12  # chance left out at either end of the sums
_STEP = 0.25  # of the grid, in standard errors
_PARTS = 20  # of a standard deviation of the counts, by which it is searched
_RESOLUTION = 1e-5  # of a bound: a thousandth of a percentage point


def exact_p_value(won: int, lost: int, n: int, difference: float) -> float:
    """The chance of a table at least as far above `difference` as this one, where the truth is at most that.

    won, lost: pairs that only the second, only the first system got right, of n (at least 1); difference: of the
    shares won - lost, in -1..1. Rejecting at 0.05 errs in at most 5% of samples, whatever n and the shares.

    The tables are ordered by Tango's score. Two shares make a table's chance: with the difference at its limit one
    is left open, of `won` (of `lost` where the limit is above 0). The p-value is the largest chance over the
    Clopper-Pearson interval of that share, at confidence 1 - gamma, plus gamma (Berger and Boos 1994, JASA 89:1012).
    The score rises with `won` and falls with `lost`, so that no point inside the hypothesis is worse than its limit.
    Observations at or below the limit have the p-value 1.

    The maximum is found on a grid of a quarter of a standard error and refined; where the counts spread over hundreds,
    from every few of them, since the sums are smooth there. The chance at the maximum is summed over all. Source of the
    approach: Hsueh, Liu and Chen 2001, Biometrics 57:478; the interval for the open share is an addition.
    """
    observed = float(tango_score(won, lost, n, difference))
    if observed <= 0:
        return 1.0
    mirrored = difference > 0  # then the share of `lost` is left open
    outer, shift = (lost, difference) if mirrored else (won, -difference)
    low, high = binomial_interval(outer, n, 1 - NUISANCE_RISK / 2)
    top = (1 - shift) / 2  # beyond it the two shares are more than 1
    low, high = min(low, top), min(high, top)

    def summed(low: float, high: float, step: int) -> Callable[[Any], np.ndarray]:
        """From shares in low..high to their chances, from every `step`-th count of the outer kind."""
        counts = np.arange(binom.ppf(_TAIL, n, low), binom.ppf(1 - _TAIL, n, high) + 1, step)
        limits, left = _region(counts, n, difference, observed - 1e-9, mirrored), n - counts
        ways = gammaln(n + 1) - gammaln(counts + 1) - gammaln(left + 1)  # logarithm

        def chances(shares: Any) -> np.ndarray:
            share = np.atleast_1d(shares)[:, None]
            inner = np.minimum((share + shift) / (1 - share), 1.0)
            at_most = _at_most(limits - 1 if mirrored else limits, left, inner)
            outer_chances = np.exp(ways + xlogy(counts, share) + xlog1py(left, -share))
            return np.asarray(step * (outer_chances * (1 - at_most if mirrored else at_most)).sum(axis=1))

        return chances

    step = max(1, int(math.sqrt(n * low * (1 - low)) / _PARTS))
    chances = summed(low, high, step)
    ends = np.arcsin(np.sqrt([low, high]))  # the standard error is 1 / (2 sqrt(n)) everywhere on this scale
    grid = np.linspace(ends[0], ends[1], 2 + math.ceil((ends[1] - ends[0]) * 2 * math.sqrt(n) / _STEP))
    found = chances(np.sin(grid) ** 2)
    best = int(np.argmax(found))
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    worst, place = float(found[best]), grid[best]
    if around[1] > around[0]:
        finely = {"xatol": (around[1] - around[0]) / 100}
        refined = minimize_scalar(
            lambda x: -chances(math.sin(x) ** 2)[0], bounds=around, method="bounded", options=finely
        )
        worst, place = max((worst, place), (-float(refined.fun), refined.x))
    if step > 1:
        share = math.sin(place) ** 2
        worst = float(summed(share, share, 1)(share)[0])
    return min(worst + NUISANCE_RISK, 1.0)


def _at_most(counts: np.ndarray, n: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The binomial chances of at most so many of n; SciPy's own distribution spends ten times as long on its checks."""
    inside = (counts >= 0) & (counts < n)
    some = np.where(inside, counts, 0)
    return np.where(inside, betainc(np.maximum(n - some, 1), some + 1, 1 - share), counts >= n)


def exact_lower(won: int, lost: int, n: int, confidence: float, limit: float) -> float:
    """The one-sided lower bound of the difference (won - lost) / n that goes with `exact_p_value`; NaN without pairs.

    limit: a difference that the test is asked about as well. The bound is on the side of it that the test says.
    """
    if n <= 0:
        return math.nan
    risk = 1 - confidence

    def rejected(difference: float) -> bool:
        return exact_p_value(won, lost, n, difference) <= risk

    low, high = (limit, (won - lost) / n) if rejected(limit) else (-1.0, min(limit, (won - lost) / n))
    probe, step = tango_lower(won, lost, n, confidence), 1e-4  # most bounds lie just below the score's
    while low < probe < high:
        if rejected(probe):
            low = probe
            break
        high, probe, step = probe, probe - step, 4 * step
    while high - low > _RESOLUTION:
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low


def _region(counts: np.ndarray, n: int, difference: float, score: float, mirrored: bool) -> np.ndarray:
    """For each count of the outer kind, the other's limit among the tables with at least this score.

    The most `lost` for each `won` (-1 where there is none), or mirrored the least `won` for each `lost`.
    """
    beyond, before = n - counts + 1, np.full_like(counts, -1)
    inside, outside = (beyond, before) if mirrored else (before, beyond)
    for _ in range(int(n).bit_length() + 1):
        middle = np.floor((inside + outside) / 2)
        won, lost = (middle, counts) if mirrored else (counts, middle)
        valid = (middle >= 0) & (middle <= n - counts)
        reached = np.where(valid, tango_score(won, lost, n, difference) >= score, mirrored == (middle > n - counts))
        inside, outside = np.where(reached, middle, inside), np.where(reached, outside, middle)
    return inside
