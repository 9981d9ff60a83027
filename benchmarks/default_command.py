"""What the default command comes to on a normal champion: is a repair registered, and what does it repair and cost?

    python benchmarks/default_command.py TRAIN CLEAN --folder out [--corruptions fog,contrast] [--seeds 0,1,2]
        [--set guard.mode=off ...] [--champion FOLDER]

A champion of the benchmark (`resnet_small` of preset cpu) is registered with 20,000 train images, 5,000 clean photos
that judge and 1,250 that choose; 700 failures of other photos under one corruption, severities 1 to 5, are logged, and
`repairops.repair` runs with its defaults and what --set says. One JSON line a job in FOLDER/default.jsonl; jobs that
are there are left out, and those without a line that have trained are judged again. --champion: a grid's folder that
has the champion already. --table prints the Markdown table.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from style_failures import champion, load_sets, run_missing, wrong_answers
from torch import Generator, Tensor

from repairops import load_config, log_failures, log_model, repair
from repairops.bench.champions import input_spec
from repairops.bench.corruptions import corrupt_pixels
from repairops.bench.presets import PRESETS
from repairops.config import derive_seed
from repairops.data.records import ImageSet
from repairops.model.network import from_unit, to_unit
from repairops.outcome import Outcome

COMPOUND = ("defocus_blur", "gaussian_noise")  # one after the other, as 'blur_and_noise'
TWO_LOOKS = ("gaussian_noise", "contrast")  # each on every other photo, as 'noise_or_contrast'
SIX = ("gaussian_noise", "contrast", "fog", "defocus_blur", "speckle_noise", "blur_and_noise")
TRAIN, JUDGING, CHOOSING, FAILURES = 20_000, 5_000, 1_250, 700


def corrupted(pixels: Tensor, name: str, severity: int, generator: Generator) -> Tensor:
    """uint8 (N, C, H, W) to the same; of the compound each part at this severity."""
    if name == "speckle_noise":  # of ImageNet-C's extra corruptions
        deviation = (0.06, 0.1, 0.12, 0.16, 0.2)[severity - 1]
        images = to_unit(pixels)
        return from_unit(images + images * (deviation * torch.randn(images.shape, generator=generator)))
    if name == "noise_or_contrast":
        pixels = pixels.clone()
        for first, part in enumerate(TWO_LOOKS):
            pixels[first::2] = corrupt_pixels(pixels[first::2], part, severity, generator)
        return pixels
    if name != "blur_and_noise":
        return corrupt_pixels(pixels, name, severity, generator)
    for part in COMPOUND:
        pixels = corrupt_pixels(pixels, part, severity, generator)
    return pixels


def enter_registry(folder: Path) -> Path:
    """A registry of a job's own in this folder, which becomes the current one."""
    folder.mkdir(parents=True, exist_ok=True)
    uri = f"sqlite:///{folder.resolve()}/mlflow.db"
    os.environ |= {"REPAIROPS_HOME": str(folder / "home"), "MLFLOW_TRACKING_URI": uri}
    os.chdir(folder)  # sqlite's artifacts lie beside it
    return folder


def repair_by_default(seed: int, settings: str, *, rerun: bool) -> Outcome:
    """By the defaults but for the seed and what the settings say, joined by '+', on the CPU."""
    config = load_config(overrides=[f"seed={seed}", "training.device=cpu", *filter(None, settings.split("+"))])
    return repair("prod/cls", config=config, rerun=rerun)


class Field:
    """The registered champion, and the photos that fail in the field."""

    def __init__(self, train: ImageSet, clean: ImageSet, folder: Path, champions: Path) -> None:
        self.train, self.clean, self.folder = train, clean, folder
        self.network = champion(champions / "champions", train, PRESETS["cpu"].champion.epochs)

    def run(self, corruption: str, seed: int, settings: str) -> dict[str, Any]:
        """Logs model and failures into a registry of this job's own, repairs, and says what came of it."""
        name = f"{corruption}-{seed}-{settings.replace('/', '_')}"[:100]
        registry = enter_registry(self.folder / "jobs" / name)
        trained = (registry / "logged").exists()  # then what was trained is taken again
        if not trained:
            self.log(corruption, seed)
            (registry / "logged").touch()
        outcome = repair_by_default(seed, settings, rerun=trained)
        return {"corruption": corruption, "seed": seed, "settings": settings, **figures(outcome.values)}

    def log(self, corruption: str, seed: int) -> None:
        order = np.random.default_rng(derive_seed(seed, "photos")).permutation(len(self.clean))
        judging, choosing, guiding = np.split(order, [JUDGING, JUDGING + CHOOSING])
        rows = np.random.default_rng(derive_seed(seed, "train")).permutation(len(self.train))[:TRAIN]
        log_model(
            self.network.network, "cls", input_spec(self.train), train_set=self.train.subset(np.sort(rows)),
            clean_set=self.clean.subset(np.sort(judging)), validation_set=self.clean.subset(np.sort(choosing)),
        )  # fmt: skip
        pixels, labels, groups = self.failures(corruption, guiding, seed)
        log_failures("prod/cls", pixels, labels.tolist(), groups=groups)

    def failures(self, corruption: str, photos: np.ndarray, seed: int) -> tuple[Tensor, np.ndarray, list[str]]:
        generator = Generator().manual_seed(derive_seed(seed, corruption))
        images, labels, _, sources = wrong_answers(
            self.network, self.clean, torch.from_numpy(photos), corrupted, corruption, generator
        )
        chosen = np.random.default_rng(derive_seed(seed, "batch", corruption)).permutation(len(labels))[:FAILURES]
        return images[chosen], labels[chosen].numpy(), [f"photo {photo}" for photo in sources[chosen].tolist()]


def figures(values: dict[str, Any]) -> dict[str, Any]:
    """Of an outcome: what the table needs."""
    evidence, form = values["evidence"], values.get("form", {"name": "one"})
    clean, routing = evidence["clean"], evidence.get("routing")
    n = sum(clean.values())
    checks = {check["name"]: check["result"] for check in values["verdict"]["checks"]}
    rival = values.get("comparison")  # with --set method.compare=...
    return {
        "outcome": values["outcome"],
        "verdict": values["verdict"]["result"],
        "failed": [name for name, result in checks.items() if result != "PASS"],
        "form": form["name"],
        "separation": form.get("separation"),
        "heldout": evidence["heldout_total"],
        "repaired": evidence["heldout_repaired"],
        "champion_accuracy": 100 * (clean["both_right"] + clean["champion_only"]) / n,
        "clean_change": 100 * (clean["challenger_only"] - clean["champion_only"]) / n,
        "changed": 100 * (clean["challenger_only"] + clean["champion_only"]) / n,
        "routed": 100 * routing["clean"]["routed"] / routing["clean"]["total"] if routing else None,
        "weight": next((p["weight"] for p in values["training"].get("tradeoff", []) if p["chosen"]), None),
        "latency": [
            round(row["challenger_median_ms"] / row["champion_median_ms"], 2) for row in evidence.get("latency", [])
        ],
        "seconds": values["seconds"],
        "commit": values.get("commit", ""),
        **({"rival": {key: rival[key] for key in ("method", "form", "clean", "heldout_repaired")}} if rival else {}),
    }


def table(lines: Sequence[dict[str, Any]]) -> str:
    rows = [
        "| corruption | seed | settings | form | repaired | clean | changed | routed | verdict |",
        "| --- " * 9 + "|",
    ]
    for line in lines:
        share = 100 * line["repaired"] / line["heldout"]
        routed = "-" if line["routed"] is None else f"{line['routed']:.1f}%"
        rival = line.get("rival")
        beside = f"; {rival['method']} {rival['heldout_repaired']}" if rival else ""
        rows.append(
            f"| {line['corruption']} | {line['seed']} | {line['settings'] or 'default'} | {line['form']} | "
            f"{line['repaired']} of {line['heldout']} ({share:.0f}%){beside} | {line['clean_change']:+.2f} | "
            f"{line['changed']:.1f}% | {routed} | {line['verdict']} |"
        )
    return "\n".join(rows)


def job_parser(text: str | None, *files: str, seeds: str) -> argparse.ArgumentParser:
    """The options that scripts of whole jobs share; files: names of those that come first."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in files:
        parser.add_argument(name, type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", default=seeds)
    parser.add_argument("--set", dest="settings", action="append", default=[], help="stage.option=value")
    parser.add_argument("--minutes", type=float, default=0.0, help="start no job after this long")
    parser.add_argument("--table", action="store_true")
    return parser


def main(arguments: Sequence[str]) -> None:
    parser = job_parser(__doc__, "train", "clean", seeds="0,1,2")
    parser.add_argument("--champion", type=Path, help="a grid's folder; default: FOLDER")
    parser.add_argument("--corruptions", default=",".join(SIX))
    given = parser.parse_args(arguments)
    folder: Path = given.folder.resolve()
    settings, champions = "+".join(given.settings), (given.champion or given.folder).resolve()
    train_path, clean_path = given.train.resolve(), given.clean.resolve()

    def prepare() -> Any:
        return Field(*load_sets(train_path, clean_path), folder, champions).run

    wanted = [(c, int(s), settings) for s in given.seeds.split(",") for c in given.corruptions.split(",")]
    folder.mkdir(parents=True, exist_ok=True)
    lines = run_missing(
        folder / "default.jsonl", wanted, ("corruption", "seed", "settings"), prepare, minutes=given.minutes
    )
    if given.table:
        sys.stdout.write(table(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
