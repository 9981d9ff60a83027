"""What each style is worth: unmixed cross-entropy on clean and styled images, no failure label used for training.

    python benchmarks/style_worth.py TRAIN CLEAN --folder out [--corruptions fog,snow] [--styles oracle,auto] [...]

One cell is one corruption, one style, one seed: the champion is fine-tuned on train images and as many restyled ones,
and judged on residual failures, all and those whose photos are not in the failure batch, and on the clean set. One
JSON line a cell in FOLDER/worth.jsonl; cells that are there are left out, so a run goes on where one stopped. `oracle`
restyles by the true corruption, `none` trains on clean images alone. --table prints the Markdown table.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from style_failures import EIGHT, Failures, answers, champion, failures, load_sets
from torch import Generator, Tensor

from repairops.bench.rivals import TrueCorruption
from repairops.clustering import cluster_failures
from repairops.config import StyleConfig, derive_seed
from repairops.images import sample_ids
from repairops.methods.references import reference_weights
from repairops.network import Classifier, to_unit
from repairops.records import Clusters, FailureBatch, ImageSet
from repairops.style import AUTO, STYLES, Style, Witness, fit_style
from repairops.training.loop import make_jitter

BATCH, MOMENTUM, DECAY = 100, 0.9, 5e-4


def as_batch(found: Failures, names: tuple[str, ...]) -> FailureBatch:
    import numpy as np

    images = ImageSet(found.images, found.labels.numpy(), names, sample_ids(found.images))
    blank = np.full(len(images), "")
    unknown = np.full(len(images), -1)
    return FailureBatch(images, unknown, np.full(len(images), np.nan, dtype=np.float32), blank, blank)


def make_style(
    name: str, corruption: str, found: Failures, clusters: Clusters, train: ImageSet, classifier: Classifier,
    config: StyleConfig, seed: int,
) -> Style:  # fmt: skip
    if name == "oracle":
        return TrueCorruption(corruption)
    generator = Generator().manual_seed(derive_seed(seed, "style"))
    sample = torch.randperm(len(train), generator=generator)[:2000]
    witness = Witness(
        classifier,
        torch.from_numpy(clusters.assignments).long(),
        found.labels,
        torch.from_numpy(train.labels)[sample],
    )
    return fit_style(
        name, to_unit(found.images), to_unit(train.pixels[sample]), config, generator, witness if name == AUTO else None
    )


def fine_tune(
    classifier: Classifier, train: ImageSet, style: Style | None, weights: Tensor, images: int, epochs: int,
    rate: float, seed: int,
) -> None:  # fmt: skip
    generator = Generator().manual_seed(derive_seed(seed, "training"))
    used = torch.randperm(len(train), generator=generator)[:images]
    steps = images // BATCH * epochs
    optimiser = torch.optim.SGD(classifier.parameters(), rate, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    jitter = make_jitter(train, -1, True)
    classifier.train().to(memory_format=torch.channels_last)
    for _ in range(epochs):
        for rows in used[torch.randperm(images, generator=generator)].split(BATCH):
            content = jitter(to_unit(train.pixels[rows]), generator)
            labels = torch.from_numpy(train.labels)[rows]
            batch = [content]
            if style is not None:
                reference = torch.multinomial(weights, len(rows), replacement=True, generator=generator)
                with torch.no_grad():
                    batch.append(style.apply(content, reference, generator))
            joined = torch.cat(batch).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = classifier(joined)
            losses = [F.cross_entropy(part.float(), labels) for part in logits.split(len(rows))]
            optimiser.zero_grad(set_to_none=True)
            torch.stack(losses).sum().backward()
            optimiser.step()
            schedule.step()


def cell(name: str, corruption: str, seed: int, given: argparse.Namespace, sets: tuple[ImageSet, ImageSet],
         original: Classifier) -> dict[str, object]:  # fmt: skip
    train, clean = sets
    began = time.process_time()
    found = failures(given.folder, original, clean, corruption, given.photos, given.batch, seed)
    clusters = cluster_failures(
        as_batch(found, train.class_names),
        clusters=5,
        per_class=False,
        restarts=3,
        seed=derive_seed(seed, "clustering"),
    )
    config = StyleConfig(levels=given.levels if name == "wct2" else 2, weights=given.weights)
    style = None if name == "none" else make_style(name, corruption, found, clusters, train, original, config, seed)
    challenger = copy.deepcopy(original)
    fine_tune(challenger, train, style, reference_weights(clusters), given.images, given.epochs, given.rate, seed)
    right = answers(challenger, found.residual[: given.residuals]) == found.residual_labels[: given.residuals]
    disjoint = found.disjoint[: given.residuals]
    kept = answers(challenger, clean.pixels) == torch.from_numpy(clean.labels)
    line = {
        "corruption": corruption, "style": name, "seed": seed, "images": given.images, "epochs": given.epochs,
        "residuals": len(right), "residual": float(right.float().mean()),
        "disjoint": float(right[disjoint].float().mean()),
        "clean": float(kept.float().mean()), "cpu_seconds": round(time.process_time() - began, 1),
    }  # fmt: skip
    if name == AUTO and style is not None:
        line["shares"] = {n: round(float(style.shares[:, i].mean()), 3) for i, n in enumerate(style.styles)}
    return line


def table(lines: list[dict[str, object]]) -> str:
    """Mean over the seeds of the accuracy on residual failures, %, and over the corruptions that all styles have."""
    styles = list(dict.fromkeys(str(line["style"]) for line in lines))
    corruptions = [c for c in EIGHT if any(line["corruption"] == c for line in lines)]
    rows = ["| style | " + " | ".join(corruptions) + " | mean | clean |", "| --- |" + " --- |" * (len(corruptions) + 2)]
    for style in styles:
        own = [line for line in lines if line["style"] == style]
        cells = []
        for corruption in corruptions:
            values = [float(line["residual"]) for line in own if line["corruption"] == corruption]  # type: ignore[arg-type]
            cells.append(100 * sum(values) / len(values) if values else None)
        whole = None not in cells
        mean = f"{sum(c for c in cells if c is not None) / len(cells):.1f}" if whole else "-"
        kept = sum(float(line["clean"]) for line in own) / len(own)  # type: ignore[arg-type]
        shown = ["-" if c is None else f"{c:.1f}" for c in cells]
        rows.append(f"| {style} | {' | '.join(shown)} | {mean} | {100 * kept:.1f} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("train", type=Path)
    parser.add_argument("clean", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("style-bench"))
    parser.add_argument("--champions", type=Path, help="Folder of the benchmark's champions; default: in FOLDER.")
    parser.add_argument("--champion-epochs", type=int, default=7)
    parser.add_argument("--corruptions", default=",".join(EIGHT))
    parser.add_argument("--styles", default=",".join(["none", "oracle", AUTO, *(s for s in STYLES if s != "wct2")]))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--images", type=int, default=8000, help="Train images of an epoch.")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.03)
    parser.add_argument("--residuals", type=int, default=5000)
    parser.add_argument("--weights", default="", help="Of wct2.")
    parser.add_argument("--levels", type=int, default=4, help="Of wct2.")
    parser.add_argument("--minutes", type=float, default=0, help="No new cell after so long; 0 = no limit.")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    file = given.folder / "worth.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(line["corruption"], line["style"], line["seed"]) for line in lines}
    wanted = [
        (corruption, style, int(seed))
        for seed in given.seeds.split(",")
        for style in given.styles.split(",")
        for corruption in given.corruptions.split(",")
    ]
    missing = [cell_ for cell_ in wanted if cell_ not in done]
    began = time.monotonic()
    if missing:
        sets = load_sets(given.train, given.clean)
        original = champion(given.champions or given.folder / "champions", sets[0], given.champion_epochs)
    for corruption, style, seed in missing:
        if given.minutes and time.monotonic() - began > 60 * given.minutes:
            break
        line = cell(style, corruption, seed, given, sets, original)
        with file.open("a") as out:
            out.write(json.dumps(line) + "\n")
        lines.append(line)
        sys.stderr.write(f"{json.dumps(line)}\n")
    if given.table:
        sys.stdout.write(table(lines) + "\n")


if __name__ == "__main__":
    main()
