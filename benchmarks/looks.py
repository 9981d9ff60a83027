"""How many looks are told in batches of one and of two looks, and how purely their failures are parted.

    python benchmarks/looks.py TRAIN CLEAN --folder out [--champions FOLDER] [--pairs 40]

Failures of `resnet_small` under each of the 15 corruptions, severities 1 to 5 mixed, each alone, and halves of two. One
JSON line a batch in FOLDER/looks.jsonl; --table prints the sums as Markdown.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stand_ins import NAMES, failure_batch
from style_failures import champion, failures, load_sets, run_missing

from repairops.bench.corruptions import CORRUPTIONS
from repairops.config import ClusteringConfig
from repairops.core.clustering import cluster_failures, distance_of_looks
from repairops.data.records import ImageSet

SIZES = (400, 100, 30)


def examine(pixels: torch.Tensor, truth: np.ndarray, clean: torch.Tensor) -> dict[str, Any]:
    """truth: int64 (N,), the true look of each image. purity: of a cluster's failures, those of its commonest look."""
    images = ImageSet(pixels, truth, NAMES, np.array([str(i) for i in range(len(pixels))]))
    config = vars(ClusteringConfig())
    clusters = cluster_failures(failure_batch(images), **config, seed=0, clean=clean)
    same = sum(np.bincount(truth[clusters.members(c)]).max() for c in range(clusters.count))
    features = clusters.space(pixels) if clusters.space else np.empty((0, 0))
    distance = distance_of_looks(features, truth) if truth.any() else None
    return {"told": clusters.count, "purity": same / len(truth), "distance": distance}


def table(lines: Sequence[dict[str, Any]]) -> str:
    rows = ["| failures | one look told as one | two looks told as two | more than two |", "| --- " * 4 + "|"]
    for size in sorted({line["size"] for line in lines}, reverse=True):
        mine = [line for line in lines if line["size"] == size]
        one, two = ([line for line in mine if (line["first"] == line["second"]) is alone] for alone in (True, False))
        cells = [f"{sum(x['told'] == n for x in kind)} of {len(kind)}" for n, kind in ((1, one), (2, two))]
        rows.append(f"| {size} | {cells[0]} | {cells[1]} | {sum(x['told'] > 2 for x in two)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("clean", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("style-bench"))
    parser.add_argument("--champions", type=Path, help="Folder of the benchmark's champions; default: in FOLDER.")
    parser.add_argument("--epochs", type=int, default=7, help="Of the champion's training.")
    parser.add_argument("--pairs", type=int, default=105, help="Of two looks, drawn at random.")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    kinds = list(CORRUPTIONS)

    def prepare() -> Callable[[str, str, int], dict[str, Any]]:
        train, clean = load_sets(given.train, given.clean)
        classifier = champion(given.champions or given.folder / "champions", train, given.epochs)
        sample = train.pixels[torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:2000]]
        made = {
            kind: failures(given.folder, classifier, clean, kind, 2500, 1000, 0).images[: max(SIZES)] for kind in kinds
        }

        def run(first: str, second: str, size: int) -> dict[str, Any]:
            half = size if first == second else size // 2
            pixels = torch.cat([made[first][:half], made[second][half:size]])
            line = examine(pixels, (np.arange(size) >= half).astype(np.int64), sample)
            return {"first": first, "second": second, "size": size, **line}

        return run

    two = list(itertools.combinations(kinds, 2))
    drawn = torch.randperm(len(two), generator=torch.Generator().manual_seed(0))[: given.pairs].tolist()
    pairs = [(kind, kind) for kind in kinds] + [two[i] for i in drawn]
    wanted = [(*pair, size) for size in SIZES for pair in pairs]
    lines = run_missing(given.folder / "looks.jsonl", wanted, ("first", "second", "size"), prepare)
    if given.table:
        sys.stdout.write(table(lines) + "\n")


if __name__ == "__main__":
    main()
