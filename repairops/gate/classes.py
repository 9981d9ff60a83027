"""Recall of each class: damage to one or to some of many, told from what chance does to small ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np
from scipy.special import bdtrc

from repairops.config import GateConfig
from repairops.errors import listing
from repairops.gate.evidence import Evidence, PairedCounts
from repairops.gate.exact import exact_p_value
from repairops.gate.falls import beyond, damage, fall_row, proven, told
from repairops.gate.phrases import Ruling, as_share, no_comparison, one_sentence

MOST_SMALL = 100  # images; a class with more is never small
_TAIL = 1e-15  # classes that fall beyond the margin by chance more rarely are left out of the sum


def check_class_recall(evidence: Evidence, policy: GateConfig) -> Ruling:
    """Looks for damage, with three answers.

    FAIL where a class, or the small ones together, fall significantly beyond the margin (exact, Holm's correction).
    INCONCLUSIVE where a class has no image, or where falls beyond the margin are more than chance explains among so
    many classes (`chance_of_falls`): damage shows, and no class alone proves it. So a repair that harms no class passes
    with the policy's confidence at least, however many classes and however few images of each there are.
    """
    counts, margin, sure = evidence.clean_by_class, policy.class_margin_points, policy.confidence
    rows = [fall_row(name, each, margin) for name, each in counts.items()]
    figures: dict[str, Any] = {"classes": rows, "margin_points": margin, "confidence": sure}
    if missing := no_comparison(evidence):
        return (*missing, figures)
    if policy.class_test == "each":
        words = "recall", "class", "the clean set has no image of"
        return (*damage(rows, margin, sure, *words), figures)
    small = small_together(counts, margin, 1 - sure)
    pool = [fall_row(name, each, margin) for name, each in small.items()]
    fallen = proven([*rows, *pool], sure)
    chance = chance_of_falls(*changed_answers(counts), margin)
    figures |= {"small": pool, "chance": chance}
    if fallen:
        return "FAIL", f"Recall falls by more than the {margin:g} points allowed in {told(fallen)}.", figures
    seen, reasons = beyond(rows, margin), []
    falls = f"Recall falls by more than {margin:g} points in {told(seen)}" if seen else ""
    if seen and chance <= 1 - sure:
        reasons.append(f"{falls}, on too few images to be sure of any, but chance does that in {_rarely(chance)}")
    if absent := [row["name"] for row in rows if not row["n"]]:
        reasons.append(f"the clean set has no image of {listing(absent, 5)}")
    if not rows:
        reasons.append("the clean set has no image of any class")
    if reasons:
        return "INCONCLUSIVE", one_sentence(reasons), figures
    if seen:
        return "PASS", f"{falls}, as chance alone does among {len(rows):,} classes in {_rarely(chance)}.", figures
    lowest = min(rows, key=lambda row: row["difference_points"])
    largest = f"the largest fall is {told([lowest])}" if lowest["difference_points"] < 0 else "none falls at all"
    return "PASS", f"No class loses more than {margin:g} points of recall; {largest}.", figures


def chance_of_falls(lost: np.ndarray, won: np.ndarray, n: np.ndarray, margin_points: float) -> float:
    """The chance of falls so far beyond the margin, or further, where no class falls in truth: in 0..1, exact.

    lost, won, n: int (K,), of each class the images that only the champion, only the challenger has right, of all.
    1 where no class falls beyond the margin.

    Where a class does not fall in truth, an answer that changes is a loss with a chance of at most one half. So given
    how many change in each class, all is sums of binomials. Two looks: at the class whose fall chance explains least
    (among all classes, of which those with few changes cannot fall as rarely: Westfall and Young 1993; Tarone 1990,
    Biometrics 46:515), and at the images lost beyond the margin in all classes together, which finds several classes
    that fall a little. Twice the smaller chance is below 5% in at most 5% of samples.
    """
    allowed = np.floor(as_share(margin_points) * n + 1e-9).astype(np.int64)
    excess = np.maximum(lost - won - allowed, 0)
    if not excess.any():
        return 1.0
    kinds, times = np.unique(np.stack([lost + won, allowed], 1), axis=0, return_counts=True)  # alike classes
    changed, allowed = kinds.T
    counts = np.arange(changed.max() + 2)
    fewer = np.minimum(counts - 1, changed[:, None])
    at_least = bdtrc(fewer, changed[:, None], 0.5)  # the chance of so many lost, or more: (kinds, counts)
    seen = excess > 0
    rarest = float(bdtrc(lost[seen] - 1, (lost + won)[seen], 0.5).min())
    least = (changed + allowed + 2) // 2  # fewest lost with which a class falls beyond the margin
    as_rare = (at_least > rarest * (1 + 1e-9)).sum(1)  # fewest lost that are as rare
    each = np.take_along_axis(at_least, np.minimum(np.maximum(least, as_rare), counts[-1])[:, None], 1)[:, 0]
    worst = -math.expm1(float((times * np.log1p(-np.minimum(each, 1 - 1e-15))).sum()))
    total, below = int(excess.sum()), np.ones(1)  # chances that all beyond the margin together are 0, 1, ...
    for kind in np.flatnonzero(at_least[np.arange(len(least)), np.minimum(least, counts[-1])] > _TAIL).tolist():
        lost_here = counts[least[kind] : changed[kind] + 1]
        beyond_by = 2 * lost_here - changed[kind] - allowed[kind]
        chances = np.zeros(max(total, int(beyond_by[-1]) + 1))
        chances[beyond_by] = at_least[kind, lost_here] - at_least[kind, lost_here + 1]
        chances[0] = 1 - at_least[kind, least[kind]]
        below = np.convolve(below, _repeated(chances[:total], int(times[kind])))[:total]
    return min(1.0, 2 * min(worst, max(0.0, 1 - float(below.sum()))))


def _repeated(chances: np.ndarray, times: int) -> np.ndarray:
    """The chances of the sum of so many independent draws, of 0 up to the last one given: float (T,)."""
    if times == 1:
        return chances
    half = _repeated(chances, times // 2)
    both = np.convolve(half, half)[: len(chances)]
    return np.convolve(both, chances)[: len(chances)] if times % 2 else both


def changed_answers(counts: Mapping[str, PairedCounts]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images lost, images won and all images of each class: int64 (K,) each."""
    table = np.array([(each.champion_only, each.challenger_only, each.n) for each in counts.values()], np.int64)
    lost, won, n = table.reshape(-1, 3).T
    return lost, won, n


def small_together(counts: Mapping[str, PairedCounts], margin_points: float, risk: float) -> dict[str, PairedCounts]:
    """The small classes as one part, by its name; empty where there are not two of them.

    Small: even the loss of half of its images, with none won, would not prove a fall beyond the margin among so many
    classes (Bonferroni).
    """
    least = least_provable(as_share(margin_points), risk / max(len(counts), 1))
    small = [each for each in counts.values() if 0 < each.n < least]
    if len(small) < 2:
        return {}
    sums = (sum(getattr(each, kind.name) for each in small) for kind in fields(PairedCounts))
    return {f"{len(small):,} classes of under {least} images together": PairedCounts(*sums)}


@cache
def least_provable(margin: float, risk: float) -> int:
    """The fewest images, at most MOST_SMALL, of which the loss of half is proven to be beyond the margin (0..1)."""
    sizes = range(1, MOST_SMALL)
    return next((n for n in sizes if exact_p_value(-(-n // 2), 0, n, margin) <= risk), MOST_SMALL)


def _rarely(chance: float) -> str:
    return f"{chance:.0%} of cases" if chance >= 0.005 else "under 0.5% of cases"
