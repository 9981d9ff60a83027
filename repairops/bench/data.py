"""The benchmark's image sets: CIFAR-10, sets of the user's own, scikit-learn's digits; and their corrupted copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from repairops.bench.corruptions import SEVERITIES, corrupt_pixels
from repairops.config import ImagesConfig, derive_seed
from repairops.data.records import CleanSet, ImageSet, InputSpec
from repairops.data.sets import from_arrays, load_image_set, peek_image_size, whole_file
from repairops.data.sources import peek_class_names
from repairops.errors import DatasetNotFound, UnreadableDataset

DIGITS_TRAIN = 1200  # of scikit-learn's 1,797 digits; the others are the clean set
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")  # of CIFAR-10


@dataclass(frozen=True, eq=False)
class BenchData:
    """train and clean set. published: a folder of CIFAR-10-C's own .npy files, or None: corruptions are made here."""

    train: ImageSet
    clean: CleanSet
    published: Path | None = None

    @cached_property
    def digest(self) -> str:
        """Names both sets, and whether the corrupted images are the published ones."""
        return f"{self.train.digest[:16]}-{self.clean.images.digest[:16]}" + ("-published" if self.published else "")


def load_data(train: Path, clean: Path, published: Path | None = None) -> BenchData:
    """Two ImageFolders or parquets of one size, that of the train set's first image.

    Raises DatasetNotFound, UnreadableDataset, ClassMismatch.
    """
    names, size = peek_class_names(train), peek_image_size(train)
    if names is None or size is None:
        raise UnreadableDataset(train, "it carries no class names, or its first image cannot be read")
    spec = InputSpec(*size, names)
    sets = [load_image_set(p, spec, ImagesConfig(), role=r) for p, r in ((train, "train set"), (clean, "clean set"))]
    return BenchData(sets[0], CleanSet(sets[1]), published)


def load_cifar10(folder: Path, published: Path | None = None) -> BenchData:
    """CIFAR-10 by torchvision's own loader, which downloads it into `folder` where it is not there."""
    from torchvision.datasets import CIFAR10

    sets = []
    for train in (True, False):
        loaded = CIFAR10(str(folder), train=train, download=True)
        sets.append(from_arrays(loaded.data, np.asarray(loaded.targets), CLASSES, source="CIFAR-10"))
    return BenchData(sets[0], CleanSet(sets[1]), published)


def load_digits() -> BenchData:
    """scikit-learn's handwritten digits, 8x8 in grey: for tests and for trying the commands out in seconds."""
    from sklearn.datasets import load_digits as load

    digits = load()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images, labels = digits.images[order, :, :, None] / 16, digits.target[order]
    names = tuple("0123456789")
    train, clean = slice(None, DIGITS_TRAIN), slice(DIGITS_TRAIN, None)
    return BenchData(
        from_arrays(images[train], labels[train], names, source="digits"),
        CleanSet(from_arrays(images[clean], labels[clean], names, source="digits")),
    )


def corrupted_images(data: BenchData, corruption: str, folder: Path) -> np.ndarray:
    """The clean set under a corruption, memory-mapped uint8 (5 * N, H, W, C): all of severity 1, then of 2, and so on.

    That is the layout of CIFAR-10-C's files, which are taken where the data has them; else the file is made once
    in `folder`, always with the same draws. Raises DatasetNotFound, UnreadableDataset.
    """
    if data.published:
        return _published(data, corruption)
    path = folder / f"{data.clean.images.digest[:16]}-{corruption}.npy"
    written = kept(path, lambda part: _write(data.clean.images.pixels, corruption, part))
    mapped: np.ndarray = np.load(written, mmap_mode="r")
    return mapped


def kept(path: Path, write: Callable[[Path], object]) -> Path:
    """The file; where it is not there it is written now, once for all processes that share its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            with whole_file(path) as part:
                write(part)
    return path


def _write(pixels: Tensor, corruption: str, path: Path) -> None:
    count, channels, height, width = pixels.shape
    shape = (len(SEVERITIES) * count, height, width, channels)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    for place, severity in enumerate(SEVERITIES):
        generator = torch.Generator().manual_seed(derive_seed(0, "corruption", corruption, severity))
        corrupted = corrupt_pixels(pixels, corruption, severity, generator)
        out[place * count : (place + 1) * count] = corrupted.permute(0, 2, 3, 1).numpy()
    out.flush()


def _published(data: BenchData, corruption: str) -> np.ndarray:
    assert data.published is not None
    path, labels_path = data.published / f"{corruption}.npy", data.published / "labels.npy"
    for file in (path, labels_path):
        if not file.exists():
            raise DatasetNotFound("CIFAR-10-C", str(file), "Unpack CIFAR-10-C.tar there, or leave out --cifar10-c.")
    images: np.ndarray = np.load(path, mmap_mode="r")
    wanted = np.tile(data.clean.images.labels, len(SEVERITIES))
    if len(images) != len(wanted) or not np.array_equal(np.load(labels_path), wanted):
        raise UnreadableDataset(
            data.published, "its labels are not those of the clean set in its order; use it with CIFAR-10's test set"
        )
    return images


def take_rows(images: np.ndarray, rows: np.ndarray) -> Tensor:
    """Rows of (M, H, W, C) as uint8 (R, C, H, W)."""
    order = np.argsort(rows, kind="stable")  # a mapped file is read forwards
    taken = np.empty((len(rows), *images.shape[1:]), np.uint8)
    taken[order] = images[rows[order]]
    return torch.from_numpy(taken).permute(0, 3, 1, 2).contiguous()
