"""Error rates of the gate's paired tests, summed exactly over all tables; and the plots of docs/how-it-works/gate.md.

    python tests/error_rates.py docs/images [sizes]

writes gate-error-rates.svg, gate-coverage.svg and gate-error-rates.jsonl (every figure of both) there, in a few
minutes on one core, and goes on where it stopped. Nothing is drawn at random. `tests/test_error_rates.py`
repeats parts of it.
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

from repairops.gate.exact import exact_p_value
from repairops.gate.statistics import tango_score

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

    For each number won, in all but 1e-7 of samples, the most lost that still rejects: rejection falls with `lost`.
    """
    won = np.arange(binom.ppf(5e-8, n, share_won), binom.ppf(1 - 5e-8, n, share_won) + 1).astype(int)
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
    found = max(start, -1)
    if found < most and rejects(found + 1):
        found += 1
        while found < most and rejects(found + 1):
            found += 1
        return found
    while found >= 0 and not rejects(found):
        found -= 1
    return found


def cells(n: int) -> Iterator[dict[str, Any]]:
    """What is computed for one size.

    Chances to pass a true loss of just the margin, by the share of images won; and the coverage of the lower bound by
    the champion's accuracy, where the challenger wins 2% or 20% of the images that the champion gets wrong, and loses
    as many (or as many and the margin). The upper bound is the lower one with the networks exchanged.
    """
    for share in (0.0, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05):
        yield {"what": "margin", "n": n, "share_won": share, "loss": MARGIN}
    for accuracy in ACCURACIES:
        for part in (0.02, 0.2):
            for loss in (0.0, MARGIN):
                share = round(part * (1 - accuracy), 6)
                yield {"what": "coverage", "n": n, "accuracy": accuracy, "share_won": share, "loss": loss}


def none_won() -> Iterator[dict[str, Any]]:
    """Where the score test errs most: a challenger that wins no image, by size."""
    for n in (*range(300, 1500, 25), 539, 894, *range(1500, 4001, 100)):
        yield {"what": "none_won", "n": n, "share_won": 0.0, "loss": MARGIN}


def main(folder: Path, sizes: list[int]) -> None:
    """Computes what `rates.jsonl` does not hold yet, line by line, and draws all that it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "gate-error-rates.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = [{k: v for k, v in row.items() if k not in ("exact", "score")} for row in rows]
    for cell in (*none_won(), *(cell for n in sizes for cell in cells(n))):
        if cell in known:
            continue
        tests = {"exact": exact_rejects, "score": score_rejects}
        found = {name: error_rate(test, cell["n"], cell["share_won"], -cell["loss"]) for name, test in tests.items()}
        rows.append({**cell, **found})
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(rows[-1]) + "\n")
    plot(*([row for row in rows if row["what"] == what] for what in ("none_won", "margin", "coverage")), folder)


def plot(
    none: list[dict[str, Any]], margin: list[dict[str, Any]], coverage: list[dict[str, Any]], folder: Path
) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "repairops", "font.size": 9, "svg.fonttype": "none"})
    import matplotlib.pyplot as plt

    names = {"exact": "exact test (the gate's)", "score": "score test"}
    figure, axes = plt.subplots(1, 4, figsize=(11, 3), sharey=True, layout="constrained")
    none = sorted(none, key=lambda row: row["n"])
    for kind, style in (("exact", "-"), ("score", "--")):
        axes[0].plot([row["n"] for row in none], [100 * row[kind] for row in none], style, label=names[kind])
    axes[0].axhline(100 * RISK, color="grey", linewidth=0.8)
    axes[0].set(title="no image won", xlabel="clean images")
    for axis, n in zip(axes[1:], SIZES, strict=True):
        rows = [row for row in margin if row["n"] == n]
        for kind, style in (("exact", "-o"), ("score", "--s")):
            shares = [100 * row["share_won"] for row in rows]
            axis.plot(shares, [100 * row[kind] for row in rows], style, markersize=3, label=names[kind])
        axis.axhline(100 * RISK, color="grey", linewidth=0.8)
        axis.set(title=f"{n:,} clean images", xlabel="images won, % of the set")
        axis.set_xscale("symlog", linthresh=0.02)
        axis.set_xticks([0, 0.1, 1], ["0", "0.1", "1"])
        axis.set_xlim(left=-0.005)
    axes[0].set_ylabel("passes at a true loss of 0.5 points, %")
    axes[0].legend()
    figure.savefig(folder / "gate-error-rates.svg", metadata={"Date": None})
    figure, axes = plt.subplots(1, 3, figsize=(9, 3), sharey=True, layout="constrained")
    for axis, n in zip(axes, SIZES, strict=True):
        for kind, style in (("exact", "-o"), ("score", "--s")):
            least = [
                min(
                    (100 * (1 - row[kind]) for row in coverage if row["n"] == n and row["accuracy"] == accuracy),
                    default=math.nan,
                )
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
    main(Path(sys.argv[1]), [int(size) for size in sys.argv[2:]] or list(SIZES))
