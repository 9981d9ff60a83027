"""Which score finds most failures among the first images that get a label?

    python benchmarks/triage.py TRAIN CLEAN --folder out [--champion FOLDER] [--corruption noise_or_contrast]
        [--seeds 0,1,2] [--table]

The benchmark's champion (`resnet_small` of preset cpu) and an unlabelled folder of 2,000 clean photos, half of them
corrupted at severities 1 to 5. For each score, and for an order by chance: the failures among the first 200, the same
spread over 20 clusters, and the APFD, the average percentage of faults detected (Rothermel et al., 2001): 1 where all
failures come first, 0.5 by chance. No guard: the champion is one network. One JSON line a seed in
FOLDER/triage.jsonl; seeds that are there are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from default_command import corrupted
from style_failures import champion, load_sets, run_missing
from torch import Generator, Tensor

from repairops.bench.presets import PRESETS
from repairops.config import derive_seed
from repairops.data.folder import Part
from repairops.data.records import ImageSet
from repairops.model.network import Classifier
from repairops.triage.choice import choose, ranking
from repairops.triage.observe import networks, observe
from repairops.triage.scores import ANSWER, SURPRISE

IMAGES, FIRST, CLUSTERS, REFERENCE = 2000, 200, 20, 2000
CHANCE = "chance"
ORDERS = (CHANCE, *ANSWER, *SURPRISE)


def field_folder(clean: ImageSet, corruption: str, seed: int) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Pixels uint8 (N, C, H, W), labels (N,) and which are corrupted, bool (N,): photos of the clean set, mixed."""
    random = np.random.default_rng(derive_seed(seed, "triage photos"))
    photos = random.permutation(len(clean))[:IMAGES]
    pixels, bad = clean.pixels[torch.from_numpy(photos)].clone(), np.arange(IMAGES) < IMAGES // 2
    severities = random.integers(1, 6, IMAGES)
    generator = Generator().manual_seed(derive_seed(seed, corruption))
    for severity in range(1, 6):
        rows = torch.from_numpy(np.flatnonzero(bad & (severities == severity)))
        pixels[rows] = corrupted(pixels[rows], corruption, severity, generator)
    order = random.permutation(IMAGES)
    return pixels[torch.from_numpy(order)], clean.labels[photos[order]], bad[order]


def apfd(failed: np.ndarray) -> float:
    """failed: bool (N,), in the order of the labels."""
    places = np.flatnonzero(failed) + 1
    return float(1 - places.sum() / (len(failed) * len(places)) + 1 / (2 * len(failed)))


class Field:
    def __init__(self, train: ImageSet, clean: ImageSet, champions: Path) -> None:
        self.train, self.clean = train, clean
        self.network: Classifier = champion(champions / "champions", train, PRESETS["cpu"].champion.epochs)

    def run(self, corruption: str, seed: int) -> dict[str, Any]:
        pixels, labels, bad = field_folder(self.clean, corruption, seed)
        rows = np.random.default_rng(derive_seed(seed, "reference")).permutation(len(self.train))[:REFERENCE]
        answering = networks(self.network, self.train.subset(np.sort(rows)), ())
        found = observe(self.network, answering, [Part(list(map(str, range(IMAGES))), pixels)])
        assert found is not None
        chance = np.random.default_rng(derive_seed(seed, CHANCE)).random(IMAGES)
        failed = found.logits.argmax(axis=1) != labels
        orders = {}
        for name, scores in {CHANCE: chance, **found.scores}.items():
            order = ranking(scores, found.ids)
            spread = choose(scores, found.activations, found.ids, FIRST, clusters=CLUSTERS, seed=seed).rows
            orders[name] = {
                "first": int(failed[order[:FIRST]].sum()),
                "spread": int(failed[spread].sum()),
                "corrupted": int(bad[order[:FIRST]].sum()),
                "classes": [len(set(labels[part].tolist())) for part in (order[:FIRST], spread)],
                "apfd": apfd(failed[order]),
            }
        return {
            "corruption": corruption, "seed": seed, "images": IMAGES, "failures": int(failed.sum()),
            "failures_corrupted": int(failed[bad].sum()), "layer": str(answering[0].taps[0]), "orders": orders,
        }  # fmt: skip


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Means over the seeds, the least and the most in brackets."""
    rows = [
        "| order | failures among the first 200 | spread over clusters | of the 200, corrupted | APFD |",
        "| --- " * 5 + "|",
    ]
    for name in ORDERS:
        parts = [line["orders"][name] for line in lines]
        shares = [
            _range([100 * part[key] / FIRST for part in parts], 1, "%") for key in ("first", "spread", "corrupted")
        ]
        rows.append(f"| `{name}` | {' | '.join(shares)} | {_range([part['apfd'] for part in parts], 3, '')} |")
    base = _range([100 * line["failures"] / line["images"] for line in lines], 1, "%")
    return "\n".join([*rows, "", f"Failures among all images: {base}"])


def _range(values: Sequence[float], digits: int, unit: str) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.{digits}f}{unit} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("clean", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--champion", type=Path, help="a grid's folder that has the champion; default: FOLDER")
    parser.add_argument("--corruption", default="noise_or_contrast")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)

    def prepare() -> Any:
        return Field(*load_sets(given.train, given.clean), given.champion or given.folder).run

    wanted = [(given.corruption, int(seed)) for seed in given.seeds.split(",")]
    lines = run_missing(given.folder / "triage.jsonl", wanted, ("corruption", "seed"), prepare)
    if given.table:
        sys.stdout.write(table(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
