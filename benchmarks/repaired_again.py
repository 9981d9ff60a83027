"""A second repair by failures of another look: what it keeps of the first, with and without replay.

    python benchmarks/repaired_again.py TRAIN CLEAN --folder out [--champion FOLDER] [--seeds 0] [--modes auto,off]
        [--looks gaussian_noise,contrast] [--shares 0,0.25,0.5] [--set training.epoch_images=4000 ...]

A champion of the benchmark (`resnet_small` of preset cpu) is repaired by 700 failures of the first look; what is then
served is repaired by 700 of its failures on other photos of the second. share: `method.replay_share`; at 0 the second
repair knows nothing of the first. mode: `guard.mode` of both. One JSON line a second repair in FOLDER/again.jsonl:
held-out failures of the first batch that were right and are right now, those of the second that are repaired, and the
change of clean accuracy on 5,000 photos. Nothing needs MLflow.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from default_command import CHOOSING, FAILURES, JUDGING, TRAIN, corrupted, job_parser
from style_failures import champion, load_sets, run_missing, wrong_answers
from torch import Generator

from repairops import load_config
from repairops.bench.presets import PRESETS
from repairops.config import Config, derive_seed
from repairops.core.parts import RepairInputs
from repairops.core.repair import Repaired, repair_network
from repairops.data.records import FailureBatch, ImageSet
from repairops.data.split import split_beside
from repairops.model.evaluation import predict
from repairops.model.network import Classifier


def failures(network: Classifier, clean: ImageSet, look: str, photos: np.ndarray, seed: int) -> FailureBatch:
    """700 failures of the network on these photos of the clean set."""
    generator = Generator().manual_seed(derive_seed(seed, look))
    images, labels, _, sources = wrong_answers(network, clean, torch.from_numpy(photos), corrupted, look, generator)
    rows = np.random.default_rng(derive_seed(seed, "batch", look)).permutation(len(labels))[:FAILURES]
    ids = np.array([f"{look} {row:06d}" for row in rows])
    groups, given = np.array([f"photo {photo}" for photo in sources[rows].tolist()]), labels[rows].numpy()
    return FailureBatch(
        ImageSet(images[rows], given, clean.class_names, ids), given, np.ones(len(ids), np.float32), groups,
        np.full(len(ids), ""),
    )  # fmt: skip


class Twice:
    """One champion, repaired by the first look once for each mode and seed, then by the second."""

    def __init__(self, train: ImageSet, clean: ImageSet, given: Any) -> None:
        self.train, self.clean, self.given, self.folder = train, clean, given, given.folder.resolve()
        where = (given.champion or given.folder).resolve()
        self.champion = champion(where / "champions", train, PRESETS["cpu"].champion.epochs)
        self.first = functools.cache(self._first)

    def config(self, mode: str, seed: int, *more: str) -> Config:
        return load_config(
            overrides=["training.device=cpu", f"seed={seed}", f"guard.mode={mode}", *self.given.settings, *more]
        )

    def photos(self, seed: int) -> list[np.ndarray]:
        """Of the clean set those that judge, that choose, and that the first and the second batch are made of."""
        order = np.random.default_rng(derive_seed(seed, "photos")).permutation(len(self.clean))
        start = JUDGING + CHOOSING
        return np.split(order, [JUDGING, start, start + (len(order) - start) // 2])

    def repair(self, served: Classifier, inputs: RepairInputs, config: Config, name: str) -> Repaired:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return repair_network(served, inputs, config, work_dir=folder)

    def _first(self, mode: str, seed: int) -> tuple[RepairInputs, Repaired]:
        _, choosing, photos, _ = self.photos(seed)
        rows = np.sort(np.random.default_rng(derive_seed(seed, "train")).permutation(len(self.train))[:TRAIN])
        batch = failures(self.champion, self.clean, self.given.looks.split(",")[0], photos, seed)
        inputs = RepairInputs(self.train.subset(rows), batch, self.clean.subset(np.sort(choosing)))
        return inputs, self.repair(self.champion, inputs, self.config(mode, seed), f"first-{mode}-{seed}")

    def again(self, mode: str, seed: int, share: str, settings: str) -> dict[str, Any]:
        inputs, first = self.first(mode, seed)
        judging, _, _, photos = self.photos(seed)
        config, served = self.config(mode, seed, f"method.replay_share={share}"), first.network
        batch = failures(served, self.clean, self.given.looks.split(",")[1], photos, seed)
        parts = {
            "repair": first.split.repair,
            "validation": first.split.validation,
            "heldout": first.split.heldout.batch,
        }
        roles = {str(i): role for role, part in parts.items() for i in part.images.sample_ids}
        split, earlier = split_beside(
            batch, inputs.failures, roles, **{k: v for k, v in vars(config.split).items() if "clean" not in k},
            seed=derive_seed(seed, "split"),
        )  # fmt: skip
        known = dataclasses.replace(inputs, failures=batch, split=split, earlier=earlier if float(share) else None)
        second = self.repair(served, known, config, f"second-{mode}-{seed}-{share}")
        clean = self.clean.subset(np.sort(judging))
        sets = {"earlier": earlier.heldout.batch.images, "new": split.heldout.batch.images, "clean": clean}
        found: dict[str, Any] = {"forms": [first.form.name, second.form.name], "weight": second.weight}
        for name, images in sets.items():
            before, after = (predict(n, images.pixels, images.labels).right for n in (served, second.network))
            found[name] = [int(before.sum()), int(after.sum()), len(images)]
        return {"mode": mode, "seed": seed, "share": share, "settings": settings, **found}


def table(lines: Sequence[dict[str, Any]]) -> str:
    rows = ["| guard | seed | replayed | forms | first look kept | new failures repaired | clean |", "| --- " * 7 + "|"]
    for line in lines:
        (kept, now, total), new, clean = line["earlier"], line["new"], line["clean"]
        rows.append(
            f"| {line['mode']} | {line['seed']} | {line['share']} | {', '.join(line['forms'])} | {kept}, then {now} of "
            f"{total} | {new[1]} of {new[2]} | {100 * (clean[1] - clean[0]) / clean[2]:+.2f} |"
        )
    return "\n".join(rows)


def main(arguments: Sequence[str]) -> None:
    parser = job_parser(__doc__, "train", "clean", seeds="0")
    parser.add_argument("--champion", type=Path, help="a folder that has the champion already; default: FOLDER")
    parser.add_argument("--modes", default="auto,off")
    parser.add_argument("--looks", default="gaussian_noise,contrast")
    parser.add_argument("--shares", default="0,0.25,0.5")
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    settings = "+".join([given.looks, *given.settings])
    wanted = [
        (mode, int(seed), share, settings)
        for mode in given.modes.split(",") for seed in given.seeds.split(",") for share in given.shares.split(",")
    ]  # fmt: skip

    def prepare() -> Any:
        return Twice(*load_sets(given.train.resolve(), given.clean.resolve()), given).again

    names = ("mode", "seed", "share", "settings")
    lines = run_missing(given.folder / "again.jsonl", wanted, names, prepare, minutes=given.minutes)
    if given.table:
        sys.stdout.write(table(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
