"""What each style is worth: unmixed cross-entropy on clean and styled images, no failure label used for training.

    python benchmarks/style_worth.py TRAIN CLEAN --folder out [--corruptions fog,snow] [--styles oracle,auto] [...]

One cell is one corruption, one style, one seed: the champion is fine-tuned on train images and as many restyled ones,
and judged on residual failures, all and those whose photos are not in the failure batch, and on the clean set. One
JSON line a cell in FOLDER/worth.jsonl; cells that are there are left out, so a run goes on where one stopped. `oracle`
restyles by the true corruption, `none` trains on clean images alone. `wct2` (--weights) is slow, so it restyles each
image once and not anew in each epoch. Trains and convolves in bfloat16 where the CPU computes in it. --table prints the
Markdown table.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from style_failures import EIGHT, Failures, answers, champion, failures, load_sets, run_missing
from torch import Generator, Tensor

from repairops.bench.rivals import TrueCorruption
from repairops.config import StyleConfig, derive_seed
from repairops.core.clustering import cluster_failures
from repairops.core.methods.style_operations import reference_weights
from repairops.core.styles import AUTO, STYLES, Style, Witness, fit_style
from repairops.core.training.loop import make_jitter
from repairops.data.decoding import sample_ids
from repairops.data.records import Clusters, FailureBatch, ImageSet
from repairops.model.device import cpu_has_bfloat16
from repairops.model.network import Classifier, to_unit

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


@torch.no_grad()
def restyle_once(style: Style, train: ImageSet, rows: Tensor, weights: Tensor, generator: Generator) -> Tensor:
    """One restyled copy of each of these train images, uint8, in their order."""
    copies = []
    for part in rows.split(BATCH):
        reference = torch.multinomial(weights, len(part), replacement=True, generator=generator)
        styled = style.apply(to_unit(train.pixels[part]), reference, generator)
        copies.append((styled * 255).round().to(torch.uint8))
    return torch.cat(copies)


def fine_tune(
    classifier: Classifier, train: ImageSet, style: Style | None, weights: Tensor, images: int, epochs: int,
    rate: float, seed: int, *, once: bool,
) -> None:  # fmt: skip
    """once: each image is restyled once, before training, as the paper's authors do; else anew each time."""
    generator = Generator().manual_seed(derive_seed(seed, "training"))
    used = torch.randperm(len(train), generator=generator)[:images]
    copies = restyle_once(style, train, used, weights, generator) if style is not None and once else None
    steps = images // BATCH * epochs
    optimiser = torch.optim.SGD(classifier.parameters(), rate, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    jitter = make_jitter(train, -1, True)
    classifier.train().to(memory_format=torch.channels_last)
    for _ in range(epochs):
        for places in torch.randperm(images, generator=generator).split(BATCH):
            rows = used[places]
            content = jitter(to_unit(train.pixels[rows]), generator)
            labels = torch.from_numpy(train.labels)[rows]
            batch = [content]
            if copies is not None:
                batch.append(jitter(to_unit(copies[places]), generator))
            elif style is not None:
                reference = torch.multinomial(weights, len(rows), replacement=True, generator=generator)
                with torch.no_grad():
                    batch.append(style.apply(content, reference, generator))
            joined = torch.cat(batch).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16()):
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
    slow = name == "wct2"
    config = StyleConfig(
        levels=given.levels if slow else 2,
        weights=given.weights if slow else "",
        bfloat16=slow and cpu_has_bfloat16(),
    )
    style = None if name == "none" else make_style(name, corruption, found, clusters, train, original, config, seed)
    challenger = copy.deepcopy(original)
    fine_tune(
        challenger, train, style, reference_weights(clusters), given.images, given.epochs, given.rate, seed, once=slow
    )
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
        for figure in ("share", "repaired"):  # means over the clusters
            line[figure] = {
                rows[0].style: round(sum(vars(row)[figure] for row in rows) / len(rows), 3)
                for rows in zip(*style.mixes, strict=True)
            }
    return line


def table(lines: list[dict[str, Any]], seed: int) -> str:
    """Accuracy on residual failures, %, and means over the corruptions: of that, of that as a share of the oracle's, of
    the accuracy on those whose photos are not in the batch, and on the clean set. Means only where no cell is missing.
    """
    cells = {(line["style"], line["corruption"]): line for line in lines if line["seed"] == seed}
    styles = list(dict.fromkeys(style for style, _ in cells))

    def mean(style: str, figure: str) -> float | None:
        own = [cells[style, c][figure] for c in EIGHT if (style, c) in cells]
        return 100 * sum(own) / len(EIGHT) if len(own) == len(EIGHT) else None

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    oracle = mean("oracle", "residual")
    rows = [
        f"| seed {seed} | " + " | ".join(EIGHT) + " | mean | % of oracle | disjoint | clean |",
        "| --- |" + " --- |" * (len(EIGHT) + 4),
    ]
    for style in sorted(styles, key=lambda s: -(mean(s, "residual") or 0)):
        each = [100 * cells[style, c]["residual"] if (style, c) in cells else None for c in EIGHT]
        own = mean(style, "residual")
        share = 100 * own / oracle if own and oracle else None
        values = [*each, own, share, mean(style, "disjoint"), mean(style, "clean")]
        rows.append(f"| `{style}` | " + " | ".join(map(shown, values)) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("train", type=Path)
    parser.add_argument("clean", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("style-bench"))
    parser.add_argument("--results", type=Path, help="The JSON lines; default: worth.jsonl in FOLDER.")
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
    wanted = product(given.seeds.split(","), given.styles.split(","), given.corruptions.split(","))

    def prepare() -> Callable[..., dict[str, Any]]:
        sets = load_sets(given.train, given.clean)
        original = champion(given.champions or given.folder / "champions", sets[0], given.champion_epochs)
        return lambda corruption, style, seed: cell(style, corruption, seed, given, sets, original)

    cells = [(corruption, style, int(seed)) for seed, style, corruption in wanted]
    file = given.results or given.folder / "worth.jsonl"
    lines = run_missing(file, cells, ("corruption", "style", "seed"), prepare, given.minutes)
    if given.table:
        sys.stdout.write("\n\n".join(table(lines, int(seed)) for seed in given.seeds.split(",")) + "\n")


if __name__ == "__main__":
    main()
