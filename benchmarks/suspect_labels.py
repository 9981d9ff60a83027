"""Wrong labels among the failures: how many are found, at what false alarms, and what they cost a repair.

    python benchmarks/suspect_labels.py TRAIN CLEAN --folder out [--champion FOLDER] [--epochs 16] [--share 0.1]
        [--corruptions gaussian_noise,contrast] [--seeds 0] [--kinds other,right] [--set training.epoch_images=5000]

700 failures of a small champion under one corruption, of which a share has a wrong label: of the kind `other` a failure
with a label that is neither the true one nor the champion's answer, of the kind `right` an image that the champion has
right, logged as a failure by a wrong label. One JSON line a batch in FOLDER/suspects.jsonl: what the look for wrong
labels lists, and in what time.

With --repairs also what three repairs come to, one network each: by the true labels (the wrong ones left out), by the
logged ones, and with the suspects quarantined. `judged` is the repair rate on the held-out failures as logged, `true`
that on those of them that are rightly labelled, the same for all three. Nothing needs MLflow.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from default_command import CHOOSING, FAILURES, JUDGING, TRAIN, corrupted, job_parser
from style_failures import answers, champion, load_sets, run_missing, wrong_answers
from torch import Generator

from repairops import load_config
from repairops.bench.presets import PRESETS
from repairops.config import Config, GuardConfig, derive_seed
from repairops.core.parts import RepairInputs
from repairops.core.repair import Watch, repair_network
from repairops.data.records import FailureBatch, FailureSplit, HeldOutFailures, ImageSet
from repairops.data.split import split_failures
from repairops.model.evaluation import predict
from repairops.model.network import Classifier
from repairops.outcome.given import SuspectLabels

NAMES = ("corruption", "kind", "seed", "share", "settings", "repaired")
REPAIRS = {"true labels": "off", "logged labels": "report", "quarantine": "quarantine"}


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Failures as logged, with the true labels int64 (N,); what is left of the clean set judges and chooses."""

    failures: FailureBatch
    truth: np.ndarray
    inputs: RepairInputs
    judging: ImageSet

    @property
    def wrong(self) -> np.ndarray:
        return self.failures.images.labels != self.truth


def make_batch(
    network: Classifier, train: ImageSet, clean: ImageSet, corruption: str, seed: int, kind: str, share: float
) -> Batch:
    order = np.random.default_rng(derive_seed(seed, "photos")).permutation(len(clean))
    judging, choosing, guiding = np.split(order, [JUDGING, JUDGING + CHOOSING])
    draw = np.random.default_rng(derive_seed(seed, "labels", corruption, kind))
    generator = Generator().manual_seed(derive_seed(seed, corruption))
    half = torch.from_numpy(guiding[: len(guiding) // 2])
    images, truth, _, photos = wrong_answers(network, clean, half, corrupted, corruption, generator)
    chosen = draw.permutation(len(truth))[:FAILURES]
    images, labels, photos = images[chosen], truth[chosen].numpy().copy(), photos[chosen]
    mislabelled = round(share * len(labels))
    if kind == "right":
        rest = torch.from_numpy(guiding[len(guiding) // 2 :])
        shown = corrupted(clean.pixels[rest], corruption, 3, generator)
        right = torch.from_numpy(np.flatnonzero(answers(network, shown).numpy() == clean.labels[rest.numpy()]))
        right = right[torch.from_numpy(draw.permutation(len(right))[:mislabelled])]
        images[:mislabelled], photos[:mislabelled] = shown[right], rest[right]
        labels[:mislabelled] = clean.labels[rest[right].numpy()]
    predicted, known = answers(network, images).numpy(), labels.copy()
    for row in range(mislabelled):
        labels[row] = draw.choice([k for k in range(len(clean.class_names)) if k not in (known[row], predicted[row])])
    ids = np.array([f"{i:06d}" for i in range(len(labels))])
    failures = FailureBatch(
        ImageSet(images, labels, clean.class_names, ids), predicted, np.ones(len(ids), np.float32),
        np.array([f"photo {photo}" for photo in photos.tolist()]), np.full(len(ids), ""),
    )  # fmt: skip
    rows = np.sort(np.random.default_rng(derive_seed(seed, "train")).permutation(len(train))[:TRAIN])
    inputs = RepairInputs(train.subset(rows), failures, clean.subset(np.sort(choosing)))
    return Batch(failures, known, inputs, clean.subset(np.sort(judging)))


class Looks(Watch):
    """Keeps what the look for wrong labels listed, and the CPU seconds of each step."""

    shows_suspects = True

    def __init__(self) -> None:
        self.found: SuspectLabels | None = None
        self.seconds = dict[str, float]()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self.seconds[name] = round(time.process_time() - began, 1)

    def on_suspects(self, before: FailureSplit, after: FailureSplit, found: SuspectLabels) -> None:
        self.found = found


def listed_well(batch: Batch, found: SuspectLabels) -> dict[str, Any]:
    """Of the wrong and of the right labels, how many are listed."""
    listed = np.isin(batch.failures.images.sample_ids, [suspect.sample_id for suspect in found.listed])
    wrong = batch.wrong
    return {
        "failures": len(wrong), "wrong": int(wrong.sum()), "found": int((listed & wrong).sum()),
        "false_alarms": int((listed & ~wrong).sum()), "known": found.known, "note": found.note,
    }  # fmt: skip


def look(network: Classifier, batch: Batch, config: Config) -> dict[str, Any]:
    """The look alone, without a repair; a training is made as short as one can be."""
    watch, short = Looks(), dataclasses.replace(config.training, epochs=1, epoch_images=config.training.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        given = dataclasses.replace(config, training=short, guard=GuardConfig(mode="off"))
        repair_network(network, batch.inputs, given, work_dir=Path(folder), watch=watch)
    assert watch.found is not None
    return {**listed_well(batch, watch.found), "style_seconds": watch.seconds["style"],
            "labels_seconds": watch.seconds["labels"]}  # fmt: skip


def repairs(network: Classifier, batch: Batch, config: Config) -> dict[str, Any]:
    """Three repairs: see the head of this file. true_heldout: the rightly labelled failures that none of them saw."""
    found: dict[str, Any] = {}
    heldout: np.ndarray | None = None
    for name, mode in REPAIRS.items():
        inputs = batch.inputs
        if name == "true labels":
            # The same parts for all three: split as logged, the wrong ones left out of what guides and chooses.
            inputs = dataclasses.replace(inputs, split=_true_split(batch, config))
        given = dataclasses.replace(
            config,
            guard=GuardConfig(mode="off"),
            validation=dataclasses.replace(config.validation, suspect_labels=mode),
        )
        watch = Looks()
        with tempfile.TemporaryDirectory() as folder:
            repaired = repair_network(network, inputs, given, work_dir=Path(folder), watch=watch)
        judged = repaired.split.heldout.batch
        if heldout is None:  # the first one's has no wrong label, and all of the right ones
            heldout = judged.images.sample_ids
        rows = np.flatnonzero(np.isin(batch.failures.images.sample_ids, heldout))
        images = batch.failures.images.pixels[torch.from_numpy(rows)]
        right = predict(repaired.network, images, batch.truth[rows]).right
        clean = predict(repaired.network, batch.judging.pixels, batch.judging.labels)
        found[name] = {
            "true": int(right.sum()), "true_heldout": len(rows),
            "judged": int(predict(repaired.network, judged.images.pixels, judged.images.labels).right.sum()),
            "judged_heldout": len(judged),
            "clean_change": round(100 * (clean.accuracy - predict(network, batch.judging.pixels,
                                                                  batch.judging.labels).accuracy), 2),
            "seconds": watch.seconds,
        }  # fmt: skip
    return {"repairs": found}


def _true_split(batch: Batch, config: Config) -> FailureSplit:
    split = split_failures(
        batch.failures, heldout_fraction=config.split.heldout_fraction,
        validation_fraction=config.split.validation_fraction,
        near_duplicate_similarity=config.split.near_duplicate_similarity, seed=derive_seed(config.seed, "split"),
    )  # fmt: skip
    wrong = batch.failures.images.sample_ids[batch.wrong]
    parts = (
        part.subset(np.flatnonzero(~np.isin(part.images.sample_ids, wrong)))
        for part in (split.repair, split.validation, split.heldout.batch)
    )
    repair, validation, heldout = parts
    return FailureSplit(repair, validation, HeldOutFailures(heldout))


def table(lines: Sequence[dict[str, Any]]) -> str:
    rows = ["| corruption | kind | seed | wrong labels found | right labels listed |", "| --- " * 5 + "|"]
    for line in lines:
        right = line["failures"] - line["wrong"]
        found, alarms = line["found"] / line["wrong"], line["false_alarms"] / right
        rows.append(
            f"| {line['corruption']} | {line['kind']} | {line['seed']} | {line['found']} of {line['wrong']} "
            f"({found:.0%}) | {line['false_alarms']} of {right} ({alarms:.1%}) |"
        )
        for name, each in line.get("repairs", {}).items():
            rows.append(
                f"| | {name} | | truly repaired {each['true']} of {each['true_heldout']}, judged {each['judged']} of "
                f"{each['judged_heldout']} | clean {each['clean_change']:+.2f} |"
            )
    return "\n".join(rows)


def main(arguments: Sequence[str]) -> None:
    parser = job_parser(__doc__, "train", "clean", seeds="0")
    parser.add_argument("--champion", type=Path, help="a folder that has the champion already; default: FOLDER")
    parser.add_argument("--epochs", type=int, default=PRESETS["cpu"].champion.epochs, help="of the champion")
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--kinds", default="other,right")
    parser.add_argument("--corruptions", default="gaussian_noise,contrast")
    parser.add_argument("--repairs", action="store_true")
    given = parser.parse_args(arguments)

    def prepare() -> Any:
        train, clean = load_sets(given.train, given.clean)
        network = champion((given.champion or given.folder) / "champions", train, given.epochs)

        def run(corruption: str, kind: str, seed: int, share: float, settings: str, repaired: bool) -> dict[str, Any]:
            config = load_config(overrides=[f"seed={seed}", "training.device=cpu", *filter(None, settings.split("+"))])
            batch = make_batch(network, train, clean, corruption, seed, kind, share)
            cell = dict(zip(NAMES, (corruption, kind, seed, share, settings, repaired), strict=True))
            more = repairs(network, batch, config) if repaired else {}
            return {**cell, **look(network, batch, config), **more}

        return run

    settings = "+".join(given.settings)
    wanted = [
        (corruption, kind, int(seed), given.share, settings, given.repairs)
        for seed in given.seeds.split(",")
        for corruption in given.corruptions.split(",")
        for kind in given.kinds.split(",")
    ]
    lines = run_missing(given.folder / "suspects.jsonl", wanted, NAMES, prepare, minutes=given.minutes)
    if given.table:
        sys.stdout.write(table(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
