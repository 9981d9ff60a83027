"""How often the check of each class's recall passes, by number of classes: harmless repairs, and damage of some kinds.

    python tests/class_rates.py docs/images/gate-classes.jsonl
    python tests/class_rates.py docs/images/gate-classes.jsonl --table

One JSON line a cell: the answers of the check as it is (`together`) and as it was (`each`), as shares of `runs` drawn
clean sets; cells that are there are left out. A quarter of an hour on a core; the draws hang on the
cell alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from repairops.config import GateConfig, derive_seed
from repairops.gate import classes, falls
from repairops.gate.classes import check_class_recall
from repairops.gate.evidence import Evidence, PairedCounts, ParityCounts
from repairops.gate.exact import exact_p_value
from repairops.gate.statistics import tango_score

ACCURACY = 0.8  # of the champion, in each class
SIZES = {2: (1000, 4000), 10: (1000, 10_000), 100: (4000, 10_000), 1000: (10_000, 50_000)}
CHANGED = (0.02, 0.05)
TESTS = ("each", "together")


def class_sizes(count: int, images: int, spread: str) -> np.ndarray:
    """Clean images of each class, int64 (count,): `even`, or a long `tail`, where the smallest have a few."""
    weights = np.ones(count) if spread == "even" else np.arange(1, count + 1) ** -0.7
    return np.maximum(1, np.round(images * weights / weights.sum())).astype(np.int64)


def true_falls(truth: str, sizes: np.ndarray) -> np.ndarray:
    """What share of its images each class loses in truth, (K,)."""
    found, middle = np.zeros(len(sizes)), np.argsort(sizes)[len(sizes) // 2]
    if truth == "one class loses half":  # of the right answers
        found[middle] = 0.5 * ACCURACY
    elif truth == "one class loses a quarter":
        found[middle] = 0.25 * ACCURACY
    elif truth == "a tenth of the classes lose an eighth":
        found[:: max(1, len(sizes) // max(1, len(sizes) // 10))] = 0.125 * ACCURACY
    elif truth == "every class loses the margin":
        found[:] = GateConfig().class_margin_points / 100
    return found


TRUTHS = (
    "harmless", "one class loses a quarter", "one class loses half", "a tenth of the classes lose an eighth",
    "every class loses the margin",
)  # fmt: skip


def drawn(sizes: np.ndarray, fallen: np.ndarray, changed: float, draw: np.random.Generator) -> dict[str, PairedCounts]:
    """A clean set: what chance changes, as often to the better, and what is lost in truth."""
    shares = np.stack([fallen + changed / 2, np.full(len(sizes), changed / 2)], axis=1)
    shares = np.concatenate([shares, 1 - shares.sum(1, keepdims=True)], axis=1)
    lost, won, same = draw.multinomial(sizes, shares).T
    table = zip(same.tolist(), lost.tolist(), won.tolist(), strict=True)
    return {str(name): PairedCounts(s, b, c, 0) for name, (s, b, c) in enumerate(table)}


def measure(cell: Mapping[str, Any], runs: int) -> dict[str, dict[str, float]]:
    """The shares of the check's answers, by `class_test`."""
    sizes = class_sizes(cell["classes"], cell["images"], cell["spread"])
    fallen, found = true_falls(cell["truth"], sizes), {test: Counter[str]() for test in TESTS}
    draw = np.random.default_rng(derive_seed(0, *cell.values()))
    for _ in range(runs):
        counts = drawn(sizes, fallen, cell["changed"], draw)
        evidence = Evidence(PairedCounts(1, 0, 0, 0), counts, 0, 0, ParityCounts())
        for test in TESTS:
            found[test][check_class_recall(evidence, replace(GateConfig(), class_test=test))[0]] += 1
    return {test: {result: n / runs for result, n in sorted(answers.items())} for test, answers in found.items()}


def cells() -> Iterator[dict[str, Any]]:
    for count, images in ((count, images) for count, sizes in SIZES.items() for images in sizes):
        for spread in ("even", "tail") if count > 2 else ("even",):
            for changed in CHANGED:
                for truth in TRUTHS:
                    yield {"classes": count, "images": images, "spread": spread, "changed": changed, "truth": truth}


@cache
def p_value(won: int, lost: int, n: int, difference: float) -> float:
    """`exact_p_value`, kept; of large classes that are far from deciding only on which side they are."""
    score = float(tango_score(won, lost, n, difference))
    if n >= 400 and not 0.8 < score < 6:
        return 1.0 if score < 1 else 1e-9
    return exact_p_value(won, lost, n, difference)


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown: how often the check passes a harmless repair and finds damage, before and now."""
    head = (
        "| classes | clean images | sizes | changed | harmless: passes | a class loses a quarter: found | half: found "
    )
    rows = [head + "| a tenth lose an eighth: found | all lose the margin: fails |", "| --- " * 9 + "|"]
    for key in dict.fromkeys((line["classes"], line["images"], line["spread"], line["changed"]) for line in lines):
        of = {x["truth"]: x for x in lines if (x["classes"], x["images"], x["spread"], x["changed"]) == key}
        passed = [[of[truth][test].get("PASS", 0.0) for test in TESTS] for truth in TRUTHS]
        fails = [of[TRUTHS[-1]][test].get("FAIL", 0.0) for test in TESTS]
        shown = [passed[0], *([1 - each for each in both] for both in passed[1:-1]), fails]
        told = " | ".join(" → ".join(f"{100 * each:.0f}%" for each in both) for both in shown)
        count, images, spread, changed = key
        rows.append(f"| {count:,} | {images:,} | {spread} | {changed:.0%} | {told} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--runs", type=int, default=300, help="draws of a cell, a third of them for 1,000 classes")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    lines = [json.loads(line) for line in given.file.read_text().splitlines()] if given.file.exists() else []
    known = [{name: line[name] for name in ("classes", "images", "spread", "changed", "truth")} for line in lines]
    falls.exact_p_value = classes.exact_p_value = p_value
    for cell in cells():
        if cell not in known:
            runs = given.runs if cell["classes"] < 1000 else given.runs // 3
            lines.append({**cell, "runs": runs, **measure(cell, runs)})
            with given.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(lines[-1]) + "\n")
    if given.table:
        sys.stdout.write(table(lines) + "\n")


if __name__ == "__main__":
    main()
