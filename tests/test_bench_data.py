"""CIFAR-10 by torchvision's loader and CIFAR-10-C's published files, in their real layouts at a small size."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torchvision.datasets import CIFAR10

from repairops.bench.corruptions import corrupt_pixels
from repairops.bench.data import CLASSES, load_cifar10
from repairops.bench.grid import Grid
from repairops.cli import main

IN_A_FILE = 40


def images(seed: int) -> tuple[np.ndarray, list[int]]:
    """Blocks of colour on a grey ground, uint8 (N, 32, 32, 3), each class at a place and in a colour of its own."""
    random = np.random.default_rng(seed)
    labels = [int(label) for label in random.permutation(np.arange(IN_A_FILE) % 10)]
    pixels = random.integers(90, 130, (IN_A_FILE, 32, 32, 3)).astype(np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        row, column = divmod(label, 4)
        image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8, label % 3] = 250
    return pixels, labels


def write(path: Path, value: object) -> str:
    """Pickles a value, as CIFAR-10's files are; returns the md5 that torchvision asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value))
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as torchvision leaves it after a download: five train files, a test file, the names of the classes."""
    folder = tmp_path / "cifar"
    sums = {}
    for number, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        pixels, labels = images(number)
        rows = pixels.transpose(0, 3, 1, 2).reshape(IN_A_FILE, -1)
        sums[name] = write(folder / CIFAR10.base_folder / name, {"data": rows, "labels": labels})
    meta = write(folder / CIFAR10.base_folder / "batches.meta", {"label_names": list(CLASSES)})
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in sums if name != "test_batch"])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta})
    return folder


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """CIFAR-10-C's layout: a file a corruption, all of severity 1 first, and labels.npy. Drawn by another seed."""
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    pixels, labels = images(5)
    content = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    for name in ("gaussian_noise", "contrast"):
        generator = torch.Generator().manual_seed(77)
        parts = [corrupt_pixels(content, name, severity, generator).permute(0, 2, 3, 1) for severity in range(1, 6)]
        np.save(folder / f"{name}.npy", torch.cat(parts).numpy())
    np.save(folder / "labels.npy", np.tile(np.array(labels, np.uint8), 5))
    return folder


def test_torchvision_s_cifar10_arrives_as_it_was_written(cifar: Path) -> None:
    data = load_cifar10(cifar)
    assert (len(data.train), len(data.clean.images)) == (5 * IN_A_FILE, IN_A_FILE)
    assert data.train.class_names == CLASSES
    for number in range(5):
        pixels, labels = images(number)
        part = slice(number * IN_A_FILE, (number + 1) * IN_A_FILE)
        assert np.array_equal(data.train.pixels[part].permute(0, 2, 3, 1).numpy(), pixels)
        assert data.train.labels[part].tolist() == labels
    assert np.array_equal(data.clean.images.pixels.permute(0, 2, 3, 1).numpy(), images(5)[0])


@pytest.mark.slow
def test_the_command_repairs_on_both(cifar: Path, published: Path, tmp_path: Path) -> None:
    out = tmp_path / "grid"
    command = ["bench", "run", "--preset=digits", f"--cifar10={cifar}", f"--cifar10-c={published}", f"--out={out}"]
    result = CliRunner().invoke(main, [*command, "--rivals=none,fine_tune", "--budget=25", "--workers=1"])
    assert result.exit_code == 0, result.output
    records = Grid(out).records()
    assert len(records) == 4
    assert not (out / "corrupted").exists()  # the published images were taken
    for record in records:
        assert record["cell"]["data"].endswith("-published")
        assert sum(record["figures"]["clean"].values()) == 20  # of 40 photos, 8 choose and 12 guide
        trained = record["figures"]["training"]
        assert bool(trained) == (record["cell"]["rival"] == "fine_tune")


def test_published_files_of_other_images_are_refused(cifar: Path, published: Path, tmp_path: Path) -> None:
    np.save(published / "labels.npy", np.zeros(5 * IN_A_FILE, np.uint8))
    command = ["bench", "run", "--preset=digits", f"--cifar10={cifar}", f"--cifar10-c={published}"]
    result = CliRunner().invoke(main, [*command, f"--out={tmp_path / 'grid'}", "--cells=none", "--workers=1"])
    assert result.exit_code != 0
    assert "its labels are not those of the clean set" in result.output
    assert not Grid(tmp_path / "grid").records()
