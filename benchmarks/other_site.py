"""What the default command comes to where the failures are another site's, and no corruption explains their look.

    python benchmarks/other_site.py MNIST --folder out [--sites mnist,digits] [--seeds 0,1,2]
        [--set training.epochs=20 ...]

MNIST: 10,000 or more of its images, a parquet file or an ImageFolder. A champion of site `mnist` is trained on 4,000 of
its digits, 4,800 others judge and 1,200 choose; scikit-learn's digits, scaled to 16x16 pixels like all images here, are
what it meets in the field. Of site `digits` the other way round: 900 train, 600 judge, 297 choose. Two further sites
are other writers' hands and no other collection: `upright` is the three fifths of MNIST's digits that lean least to the
right, and meets the fifth that leans most; `bold` those with most ink, and meets the fifth with least. Champions are
the demo's small network, logged as pt2, MLflow's own default; every field image that one gets wrong is a failure, up to
1,600. One JSON line a job in FOLDER/site.jsonl; jobs that are there are left out. --table prints the Markdown table.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from default_command import enter_registry, figures, job_parser, repair_by_default, table
from style_failures import run_missing
from torch import Tensor

from repairops import log_failures, log_model
from repairops.config import ImagesConfig, derive_seed
from repairops.data.records import ImageSet, InputSpec
from repairops.data.sets import from_arrays, load_image_set
from repairops.data.sources import peek_class_names
from repairops.demo.champion import train_champion
from repairops.model.evaluation import logits
from repairops.model.network import Classifier, from_unit, to_unit

SIDE, FAILURES = 16, 1600
SIZES = {  # train, judging, choosing
    "mnist": (4000, 4800, 1200),
    "digits": (900, 600, 297),
    "upright": (2500, 2500, 1000),
    "bold": (2500, 2500, 1000),
}
SPEC = InputSpec(1, SIDE, SIDE, tuple("0123456789"))


def scaled(images: Tensor) -> Tensor:
    """uint8 (N, 1, H, W) to 16x16 pixels."""
    return from_unit(F.interpolate(to_unit(images), (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False))


def mnist(path: Path) -> ImageSet:
    found = load_image_set(path, InputSpec(1, 28, 28, tuple(peek_class_names(path) or ())), ImagesConfig())
    return from_arrays(scaled(found.pixels), found.labels, SPEC.class_names)


def digits() -> ImageSet:
    """The 1,797 of the Optical Recognition of Handwritten Digits set, 8x8 pixels of 17 shades."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.from_numpy(found.images / 16)[:, None].float()
    return from_arrays(scaled(from_unit(images)), found.target, SPEC.class_names)


def lean(pixels: Tensor) -> np.ndarray:
    """Of each image: how far its ink moves to the right from a row to the one above it, by its second moments."""
    ink = to_unit(pixels)[:, 0]
    place = torch.arange(SIDE).float()
    mass = ink.sum((1, 2))
    across, down = (
        place[None] - ((ink.sum(axis) * place).sum(1) / mass)[:, None] for axis in (1, 2)
    )  # (N, SIDE) from the centre of the ink
    both = torch.einsum("nyx,nx,ny->n", ink, across, down)
    return (-both / torch.einsum("nyx,ny->n", ink, down.square())).numpy()


def of_two_hands(images: ImageSet, measured: np.ndarray) -> tuple[ImageSet, ImageSet]:
    """The three fifths of each class with the lowest values, and the fifth with the highest."""
    ranks = np.zeros(len(images))
    for label in np.unique(images.labels):
        rows = np.flatnonzero(images.labels == label)
        ranks[rows] = measured[rows].argsort().argsort() / len(rows)
    return images.subset(np.flatnonzero(ranks < 0.6)), images.subset(np.flatnonzero(ranks >= 0.8))


class Sites:
    """Champions of each site with its field."""

    def __init__(self, path: Path, folder: Path) -> None:
        first, second, self.folder = mnist(path), digits(), folder
        self.sites = {
            "mnist": (first, second),
            "digits": (second, first),
            "upright": of_two_hands(first, lean(first.pixels)),
            "bold": of_two_hands(first, -to_unit(first.pixels).mean((1, 2, 3)).numpy()),
        }

    def run(self, site: str, seed: int, settings: str) -> dict[str, Any]:
        home, field = self.sites[site]
        order = np.random.default_rng(derive_seed(seed, "images", site)).permutation(len(home))
        train, judging, choosing, _ = np.split(order, np.cumsum(SIZES[site]))
        network = train_champion(home.subset(np.sort(train)), SPEC, seed)
        answers = logits(Classifier(network, SPEC), field.pixels, device=torch.device("cpu")).argmax(1)
        wrong = np.flatnonzero(answers != field.labels)
        drawn = np.random.default_rng(derive_seed(seed, "batch", site)).permutation(wrong)[:FAILURES]

        enter_registry(self.folder / "jobs" / f"{site}-{seed}-{settings}")
        log_model(
            network, "cls", SPEC, train_set=home.subset(np.sort(train)), clean_set=home.subset(np.sort(judging)),
            validation_set=home.subset(np.sort(choosing)), serialization_format="pt2",
        )  # fmt: skip
        log_failures("prod/cls", field.pixels[drawn], field.labels[drawn].tolist())
        outcome = repair_by_default(seed, settings, rerun=True)
        known = {"field": len(field), "wrong": len(wrong), "method": outcome.values["config"]["method"]["name"]}
        return {"corruption": site, "seed": seed, "settings": settings, **known, **figures(outcome.values)}


def main(arguments: Sequence[str]) -> None:
    parser = job_parser(__doc__, "mnist", seeds="0,1,2")
    parser.add_argument("--sites", default="mnist,digits")
    given = parser.parse_args(arguments)
    path, folder = given.mnist.resolve(), given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(s, int(n), "+".join(given.settings)) for n in given.seeds.split(",") for s in given.sites.split(",")]
    keys = ("corruption", "seed", "settings")
    lines = run_missing(folder / "site.jsonl", wanted, keys, lambda: Sites(path, folder).run, minutes=given.minutes)
    if given.table:
        sys.stdout.write(table(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
