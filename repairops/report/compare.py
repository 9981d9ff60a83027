"""Tables of many comparisons on one scale: paired counts (Tango's bounds) and rates (Clopper and Pearson's).

The bars run from the lower to the upper one-sided bound at the policy's confidence. They are those of the single row;
where a check looks at many rows at once, it corrects for their number. Tango's bounds are the score test's, a
hundredth of the time of the exact ones by which the gate decides, and differ from them in the third digit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from repairops.report import figures
from repairops.report.facts import Outcome
from repairops.report.svg import Scale
from repairops.report.wording import count, dig, fixed, number, of, percent, plain, ratio, signed

CONFIDENCE = 0.95  # where the policy says nothing
MAX_ROWS = 40
PAIRED = ("both_right", "champion_only", "challenger_only", "both_wrong")


@dataclass(frozen=True)
class Paired:
    """Champion and challenger on the same images: shares in 0..1, difference in points; None where unknown.

    lost, won: images that only the champion, only the challenger has right; None where only the shares are known.
    """

    name: str
    n: float | None = None
    champion: float | None = None
    challenger: float | None = None
    difference: float | None = None
    lost: float | None = None
    won: float | None = None

    def bounds(self, sure: float) -> tuple[float | None, float | None]:
        """The one-sided bounds of the difference, in points."""
        if self.lost is None or self.won is None or not self.n:
            return None, None
        return _bounds_in_points(self.won, self.lost, self.n, sure)


@dataclass(frozen=True)
class Rate:
    """Failures that are right now: counts, and the share with its bounds in 0..1; None where unknown."""

    name: str
    repaired: float | None = None
    total: float | None = None
    rate: float | None = None
    lower: float | None = None
    upper: float | None = None


@lru_cache(maxsize=1024)
def _bounds_in_points(won: float, lost: float, n: float, sure: float) -> tuple[float, float]:
    from repairops.gate.statistics import tango_interval

    lower, upper = tango_interval(won, lost, n, sure)
    return 100 * lower, 100 * upper


def confidence(outcome: Outcome) -> float:
    """The policy's one-sided confidence, strictly between 0.5 and 1."""
    value = number(dig(outcome, "policy", "confidence"))
    return value if value is not None and 0.5 < value < 1 else CONFIDENCE


def paired(name: Any, counts: Mapping[str, Any]) -> Paired:
    """A row from paired counts."""
    values = [number(counts.get(key)) for key in PAIRED]
    both, lost, won, wrong = (v or 0.0 for v in values)
    n = both + lost + won + wrong
    if None in values or n <= 0:
        return Paired(plain(name), n if None not in values else None)
    return Paired(plain(name), n, (both + lost) / n, (both + won) / n, 100 * (won - lost) / n, lost, won)


def is_paired(counts: Mapping[str, Any]) -> bool:
    return all(key in counts for key in PAIRED)


def rate(name: Any, counts: Mapping[str, Any], sure: float) -> Rate:
    """A row from counts `repaired` of `total`."""
    from repairops.gate.statistics import binomial_interval

    repaired, total = number(counts.get("repaired")), number(counts.get("total"))
    if repaired is None or not total or not 0 <= repaired <= total:
        return Rate(plain(name), repaired, total)
    lower, upper = binomial_interval(round(repaired), round(total), sure)
    return Rate(plain(name), repaired, total, repaired / total, lower, upper)


def worst_first(rows: Sequence[Paired]) -> list[Paired]:
    """Largest fall first; rows without a difference last."""
    return sorted(rows, key=lambda r: (r.difference is None, r.difference or 0.0))


def paired_table(rows: Sequence[Paired], margin: float | None, what: str, sure: float) -> dict[str, Any]:
    """Rows and their common axis for the template; a fall of more than `margin` points is marked. what: for labels."""
    shown = [(r, *r.bounds(sure)) for r in rows[:MAX_ROWS]]
    limit = None if margin is None else -margin
    reach = [v for r, lower, upper in shown for v in (lower, r.difference, upper)]
    scale, ticks = figures.row_scale([*reach, limit, 0.0])
    return {
        "rows": [_paired_cells(r, lower, upper, limit, scale, what) for r, lower, upper in shown],
        "left_off": len(rows) - len(shown),
        "axis": figures.axis(scale, ticks, limit, f"margin {signed(limit, 1)}", lambda v: signed(v, _digits(ticks))),
        "margin": fixed(margin, 1),
    }


def _digits(ticks: Sequence[float]) -> int:
    """Decimals that the step of some ticks needs."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    return max(0, -math.floor(math.log10(step) + 1e-9))


def _paired_cells(
    r: Paired, lower: float | None, upper: float | None, limit: float | None, scale: Scale, what: str
) -> dict[str, Any]:
    label = f"{what} {r.name}: {signed(r.difference)} points, interval {signed(lower)} to {signed(upper)}."
    return {
        "name": r.name,
        "n": count(r.n),
        "champion": percent(r.champion),
        "challenger": percent(r.challenger),
        "difference": signed(r.difference),
        "beyond": r.difference is not None and limit is not None and r.difference < limit - 1e-9,
        "figure": figures.row(lower, r.difference, upper, limit, scale, label=label, zero=True),
    }


def rate_table(rows: Sequence[Rate], least: float | None, what: str) -> dict[str, Any]:
    """Rows and their common axis from 0 to 100%; a rate below `least` (0..1) is marked."""
    shown = rows[:MAX_ROWS]
    scale, ticks = figures.row_scale([0.0, 1.0])
    return {
        "rows": [_rate_cells(r, least, scale, what) for r in shown],
        "left_off": len(rows) - len(shown),
        "axis": figures.axis(scale, ticks, least, f"at least {percent(least, 0)}", lambda v: percent(v, 0)),
    }


def _rate_cells(r: Rate, least: float | None, scale: Scale, what: str) -> dict[str, Any]:
    said = f"{of(r.repaired, r.total)} repaired, interval {percent(r.lower)} to {percent(r.upper)}"
    return {
        "name": r.name,
        "repaired": count(r.repaired),
        "total": count(r.total),
        "rate": percent(r.rate),
        "beyond": r.rate is not None and least is not None and r.rate < least,
        "figure": figures.row(r.lower, r.rate, r.upper, least, scale, label=f"{what} {r.name}: {said}."),
    }


def counted(name: Any, row: Mapping[str, Any]) -> Paired:
    """A row from shares (or counts of n) of champion and challenger, where the paired counts are missing."""
    before, after, n = (number(row.get(k)) for k in ("champion", "challenger", "n"))
    if n and max(before or 0, after or 0) > 1:
        before, after = ratio(before, n), ratio(after, n)
    moved = number(row.get("difference_points"))
    if moved is None and before is not None and after is not None:
        moved = 100 * (after - before)
    return Paired(plain(name), n, before, after, moved)
