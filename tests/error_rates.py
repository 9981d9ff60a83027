"""Error rates of the gate's paired tests, summed exactly over all tables; and the plots of docs/how-it-works/gate.md.

    python tests/error_rates.py docs/images

writes gate-error-rates.svg, gate-coverage.svg and gate-error-rates.json (every figure of both) there, in about five
minutes on one core. Nothing is drawn at random. `tests/test_error_rates.py` repeats parts of it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom, norm

from repairops.exact import exact_p_value
from repairops.statistics import tango_score

MARGIN, RISK = 0.005, 0.05
SIZES = (100, 1000, 10_000)
ACCURACIES = (0.5, 0.8, 0.9, 0.95, 0.99, 0.999)

Rejects = Callable[[int, int, int, float], bool]  # won, lost, n, difference


def exact_rejects(won: int, lost: int, n: int, difference: float) -> bool:
    """Whether the gate's test says that the true difference is above `difference`."""
    return exact_p_value(won, lost, n, difference) <= RISK


def score_rejects(won: int, lost: int, n: int, difference: float) -> bool:
    """The same by Tango's score and the normal quantile, which the gate used before."""
    return bool(tango_score(won, lost, n, difference) >= norm.ppf(1 - RISK))


def error_rate(rejects: Rejects, n: int, share_won: float, difference: float) -> float:
    """The exact chance that `difference` is rejected although the true difference is just that.

    For each number won, in all but 1e-9 of samples, the most lost that still rejects: rejection falls with `lost`.
    """
    won = np.arange(binom.ppf(5e-10, n, share_won), binom.ppf(1 - 5e-10, n, share_won) + 1).astype(int)
    limits, last = [], None
    for w in won.tolist():
        start = math.floor(w - n * difference) if last is None else last
        last = _most_lost(lambda lost, w=w: rejects(w, lost, n, difference), min(start, n - w), n - w)
        limits.append(last)
    share_lost = share_won - difference
    given = binom.cdf(limits, n - won, min(1.0, share_lost / (1 - share_won)))
    return float(binom.pmf(won, n, share_won) @ given)


def _most_lost(rejects: Callable[[int], bool], start: int, most: int) -> int:
    """The largest count from 0 to `most` that `rejects`, -1 where none does, searched from `start` outwards."""
    low, high, step = start, start, 1
    if start >= 0 and rejects(start):
        while high <= most and rejects(high):
            low, high, step = high, high + step, 2 * step
        high = min(high, most + 1)
    else:
        while low >= 0 and not rejects(low):
            high, low, step = low, low - step, 2 * step
        low = max(low, -1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if rejects(middle) else (low, middle)
    return low


def margin_rows(sizes: tuple[int, ...] = SIZES) -> Iterator[dict[str, Any]]:
    """Chances to pass a true loss of just the margin, by size and by the share of images won."""
    for n in sizes:
        for share in (0.0, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2):
            exact, score = (error_rate(test, n, share, -MARGIN) for test in (exact_rejects, score_rejects))
            yield {"n": n, "share_won": share, "exact": exact, "score": score}


def coverage_rows(sizes: tuple[int, ...] = SIZES) -> Iterator[dict[str, Any]]:
    """Coverage of the lower bound, by size and the champion's accuracy, for true losses of 0 and of the margin.

    The challenger wins a tenth, or half, of the images that the champion gets wrong, and loses as many and the loss.
    The upper bound is the lower one with the networks exchanged.
    """
    for n in sizes:
        for accuracy in ACCURACIES:
            for part in (0.1, 0.5):
                for loss in (0.0, MARGIN):
                    share = part * (1 - accuracy)
                    exact, score = (1 - error_rate(test, n, share, -loss) for test in (exact_rejects, score_rejects))
                    yield {"n": n, "accuracy": accuracy, "won_of_errors": part, "loss": loss, "exact": exact,
                           "score": score}  # fmt: skip


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    margin, coverage = list(margin_rows()), list(coverage_rows())
    text = json.dumps({"margin": margin, "coverage": coverage}, indent=1)
    (folder / "gate-error-rates.json").write_text(text + "\n", encoding="utf-8")
    plot(margin, coverage, folder)


def plot(margin: list[dict[str, Any]], coverage: list[dict[str, Any]], folder: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "repairops", "font.size": 9, "svg.fonttype": "none"})
    import matplotlib.pyplot as plt

    names = {"exact": "exact test (the gate's)", "score": "score test"}
    figure, axes = plt.subplots(1, 3, figsize=(9, 3), sharey=True, layout="constrained")
    for axis, n in zip(axes, SIZES, strict=True):
        rows = [row for row in margin if row["n"] == n]
        for kind, style in (("exact", "-o"), ("score", "--s")):
            shares = [100 * row["share_won"] for row in rows]
            axis.plot(shares, [100 * row[kind] for row in rows], style, markersize=3, label=names[kind])
        axis.axhline(100 * RISK, color="grey", linewidth=0.8)
        axis.set(title=f"{n:,} clean images", xlabel="images won, % of the set", xscale="symlog")
        axis.set_xscale("symlog", linthresh=0.02)
        axis.set_xticks([0, 0.1, 1, 10], ["0", "0.1", "1", "10"])
    axes[0].set_ylabel("passes at a true loss of 0.5 points, %")
    axes[0].legend()
    figure.savefig(folder / "gate-error-rates.svg", metadata={"Date": None})
    figure, axes = plt.subplots(1, 3, figsize=(9, 3), sharey=True, layout="constrained")
    for axis, n in zip(axes, SIZES, strict=True):
        for kind, style in (("exact", "-o"), ("score", "--s")):
            least = [
                min(100 * row[kind] for row in coverage if row["n"] == n and row["accuracy"] == accuracy)
                for accuracy in ACCURACIES
            ]
            axis.plot(range(len(ACCURACIES)), least, style, markersize=3, label=names[kind])
        axis.axhline(100 * (1 - RISK), color="grey", linewidth=0.8)
        axis.set(title=f"{n:,} clean images", xlabel="champion's accuracy")
        axis.set_xticks(range(len(ACCURACIES)), [f"{accuracy:g}" for accuracy in ACCURACIES])
    axes[0].set_ylabel("least coverage of the lower bound, %")
    axes[0].legend()
    figure.savefig(folder / "gate-coverage.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
