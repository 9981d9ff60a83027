"""What the benchmarks of styles share: a small champion, its failures under a corruption, and cells, each made once."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from degradations import degrade_pixels
from torch import Generator, Tensor

from repairops.bench.champions import (
    ChampionConfig,
    champion_arguments,
    load_champion,
    save_champion,
    train_champion,
)
from repairops.bench.corruptions import SEVERITIES
from repairops.config import ImagesConfig, derive_seed
from repairops.data.records import ImageSet, InputSpec
from repairops.data.sets import load_image_set
from repairops.data.sources import peek_class_names
from repairops.model.device import cpu_has_bfloat16
from repairops.model.network import Classifier, to_unit

EIGHT = (
    "gaussian_noise", "contrast", "fog", "defocus_blur", "impulse_noise", "jpeg_compression", "motion_blur", "snow",
)  # fmt: skip


@dataclass(frozen=True)
class Failures:
    """uint8 images (N, C, H, W), labels, severities and photos, int64 (N,), of a failure batch and of the residuals."""

    images: Tensor
    labels: Tensor
    severities: Tensor
    photos: Tensor
    residual: Tensor
    residual_labels: Tensor
    disjoint: Tensor  # bool: the residual failure's photo is not in the batch
    total: int


def load_sets(train: Path, clean: Path) -> tuple[ImageSet, ImageSet]:
    """CIFAR-10 as two parquet files or ImageFolders."""
    names = tuple(peek_class_names(train) or ())
    spec = InputSpec(3, 32, 32, names)
    return load_image_set(train, spec, ImagesConfig()), load_image_set(clean, spec, ImagesConfig())


def champion(folder: Path, train: ImageSet, epochs: int) -> Classifier:
    """`resnet_small` of the benchmark, trained on `train` with seed 0; kept in `folder`.

    In bfloat16 where the CPU computes in it: emulated, a step takes 3.4 times as long as in float32.
    """
    config = ChampionConfig(epochs=epochs, bfloat16=cpu_has_bfloat16())
    arguments = champion_arguments("resnet_small", train, config, 0)
    found = load_champion(folder, arguments)
    if found is None:
        found = train_champion("resnet_small", train, config, seed=0, device=torch.device("cpu"))
        save_champion(folder, found, arguments)
    return found


@torch.no_grad()
def answers(classifier: Classifier, pixels: Tensor) -> Tensor:
    """Answers int64 (N,), for uint8 (N, C, H, W), in bfloat16 where the CPU computes in it."""
    classifier.eval()
    found = []
    for chunk in torch.split(pixels, 500):
        with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16()):
            found.append(classifier(to_unit(chunk).contiguous(memory_format=torch.channels_last)).argmax(1))
    return torch.cat(found)


def wrong_answers(
    classifier: Classifier,
    clean: ImageSet,
    photos: Tensor,
    corrupt: Callable[[Tensor, str, int, Generator], Tensor],
    corruption: str,
    generator: Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, labels, severities and photos of all that the classifier gets wrong, one severity after the other.

    photos: int64, of the clean set. corrupt: as `corrupt_pixels`.
    """
    pixels, truth = clean.pixels[photos], torch.from_numpy(clean.labels)[photos]
    parts = []
    for severity in SEVERITIES:
        corrupted = corrupt(pixels, corruption, severity, generator)
        wrong = (answers(classifier, corrupted) != truth).nonzero()[:, 0]
        parts.append((corrupted[wrong], truth[wrong], torch.full((len(wrong),), severity), photos[wrong]))
    images, labels, severities, sources = (torch.cat(column) for column in zip(*parts, strict=True))
    return images, labels, severities, sources


def failures(
    folder: Path, classifier: Classifier, clean: ImageSet, corruption: str, photos: int, batch: int, seed: int
) -> Failures:
    """The champion's failures on `photos` clean images at all severities: `batch` of them, the rest residual."""
    path = folder / f"failures-{corruption}-{photos}-{batch}-{seed}.pt"
    if path.exists():
        return Failures(**torch.load(path, weights_only=True))
    random = np.random.default_rng(derive_seed(seed, "failures", corruption))
    chosen = torch.from_numpy(random.permutation(len(clean))[:photos])
    generator = Generator().manual_seed(derive_seed(seed, corruption))
    images, labels, severities, sources = wrong_answers(
        classifier, clean, chosen, degrade_pixels, corruption, generator
    )
    order = torch.from_numpy(random.permutation(len(images)))
    first, rest = order[:batch], order[batch:]
    made = {
        "images": images[first], "labels": labels[first], "severities": severities[first], "photos": sources[first],
        "residual": images[rest], "residual_labels": labels[rest],
        "disjoint": ~torch.isin(sources[rest], sources[first]), "total": len(images),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(made, path)
    return Failures(**made)


def run_missing(
    file: Path,
    wanted: Iterable[tuple[Any, ...]],
    names: tuple[str, ...],
    prepare: Callable[[], Callable[..., dict[str, Any]]],
    minutes: float = 0,
) -> list[dict[str, Any]]:
    """The JSON lines of FILE, after the wanted cells that it lacks were run and appended, one by one.

    names: the fields of a line that tell its cell. prepare: called if a cell is missing, gives what runs one. No cell
    begins after `minutes`, 0 = no limit.
    """
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {tuple(line[name] for name in names) for line in lines}
    missing = [cell for cell in wanted if cell not in done]
    began = time.monotonic()
    run = prepare() if missing else None
    for cell in missing:
        if run is None or (minutes and time.monotonic() - began > 60 * minutes):
            break
        line = run(*cell)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as out:
            out.write(json.dumps(line) + "\n")
        lines.append(line)
        sys.stderr.write(f"{json.dumps(line)}\n")
    return lines
