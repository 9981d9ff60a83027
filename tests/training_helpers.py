"""Real small things to train on: scikit-learn's digits, a small network with BatchNorm, its failures under noise."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import take_few_trials
from sklearn.datasets import load_digits
from torch import Generator, Tensor, nn

from repairops.config import MethodConfig, StyleConfig, TrainingConfig
from repairops.core.looks import fit_to_failures
from repairops.core.methods import STYLED, Method, MethodData, make_method
from repairops.core.parts import TrainingParts, cut_parts
from repairops.core.styles import Style
from repairops.core.training.loop import make_jitter
from repairops.data.records import Clusters, FailureBatch, ImageSet, InputSpec
from repairops.model.network import Classifier, to_unit

NAMES = tuple("0123456789")
FITTED: dict[str, Style] = {}
SPEC = InputSpec(channels=1, height=8, width=8, class_names=NAMES, mean=(0.3,), std=(0.35,))


def image_set(pixels: np.ndarray | Tensor, labels: np.ndarray) -> ImageSet:
    ids = np.array([f"{i:06d}" for i in range(len(labels))])
    return ImageSet(torch.as_tensor(pixels), np.asarray(labels, dtype=np.int64), NAMES, ids)


@functools.cache
def digits() -> tuple[ImageSet, ImageSet]:
    """(train set sorted by label: 1,200 images, the other 597), uint8 (N, 1, 8, 8)."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    pixels = (data.images[order] * 255 / 16).round().astype(np.uint8)[:, None]
    labels = data.target[order]
    by_label = np.argsort(labels[:1200], kind="stable")
    return image_set(pixels[:1200][by_label], labels[:1200][by_label]), image_set(pixels[1200:], labels[1200:])


class SmallNet(nn.Module):
    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(512, 10),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def degrade(images: Tensor, seed: int) -> Tensor:
    """Half the contrast and Gaussian noise: what the champion has not seen. (N, C, H, W) in 0..1."""
    noise = torch.randn(images.shape, generator=Generator().manual_seed(seed))
    return (0.5 * images + 0.3 + 0.2 * noise).clamp(0, 1)


@functools.cache
def _trained() -> dict[str, Tensor]:
    train, _ = digits()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same champion in every process, whatever its number of threads
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = Classifier(SmallNet(), SPEC)
        learn(classifier, train, epochs=6, batch_size=64)
    torch.set_num_threads(threads)
    return classifier.network.state_dict()


def learn(classifier: Classifier, train: ImageSet, *, epochs: int, batch_size: int) -> None:
    """Trains in place with Adam, in an order drawn from torch's global generator."""
    optimizer = torch.optim.Adam(classifier.parameters(), lr=3e-3)
    images, labels = to_unit(train.pixels), torch.from_numpy(train.labels)
    for _ in range(epochs):
        for index in torch.randperm(len(labels)).split(batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(classifier(images[index]), labels[index]).backward()
            optimizer.step()


def champion() -> Classifier:
    """A fresh copy of one trained network, in eval mode."""
    with torch.random.fork_rng():
        network = SmallNet()
    network.load_state_dict(_trained())
    return Classifier(network, SPEC).eval()


def failure_batch(images: ImageSet, predicted: np.ndarray) -> FailureBatch:
    empty = np.array([""] * len(images))
    return FailureBatch(images, predicted, np.ones(len(images), np.float32), empty, empty)


@functools.cache
def failures() -> tuple[FailureBatch, FailureBatch]:
    """The champion's failures on degraded unseen digits: (repair part, validation part)."""
    _, unseen = digits()
    pixels = (degrade(to_unit(unseen.pixels), seed=1) * 255).round().to(torch.uint8)
    network = champion()
    with torch.no_grad():
        predicted = network(to_unit(pixels)).argmax(1).numpy()
    wrong = np.flatnonzero(predicted != unseen.labels)
    batch = failure_batch(image_set(pixels, unseen.labels).subset(wrong), predicted[wrong])
    middle = len(wrong) // 2
    return batch.subset(np.arange(middle)), batch.subset(np.arange(middle, len(wrong)))


def clusters_of(assignments: list[int], probabilities: list[float]) -> Clusters:
    return Clusters(
        np.array(assignments, dtype=np.int64), np.zeros(len(assignments), np.float32), np.array(probabilities)
    )


def one_cluster(count: int) -> Clusters:
    return clusters_of([0] * count, [1 / count] * count)


def parts_of(
    config: TrainingConfig,
    *,
    train_set: ImageSet | None = None,
    failed: tuple[FailureBatch, FailureBatch] | None = None,
    unseen: ImageSet | None = None,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> TrainingParts:
    """The parts of a training: by default the digits, the champion's failures on them, and one cluster."""
    repair, validation = failed or failures()
    return cut_parts(
        digits()[0] if train_set is None else train_set, unseen, repair, validation,
        clusters or one_cluster(len(repair)), config, seed=seed,
    )  # fmt: skip


def method_data(config: TrainingConfig) -> MethodData:
    """What a method sees of `parts_of`, as the training loop gives it."""
    parts = parts_of(config)
    jitter = make_jitter(parts.train_set, config.crop_padding, config.horizontal_flip)
    return MethodData(parts.sample, parts.failures, parts.clusters, jitter, torch.device("cpu"), champion)


def _fitted(parts: TrainingParts, device: torch.device) -> Style:
    """The style of failures against a train set, fitted once in a process, from few trials."""
    pixels = parts.failures.images.pixels, parts.sample.pixels
    key = hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in pixels)).hexdigest() + str(device)
    if key not in FITTED:
        with pytest.MonkeyPatch.context() as patch:
            take_few_trials(patch.setattr)
            FITTED[key] = fit_to_failures(parts, champion(), StyleConfig(), device, seed=0)
    return FITTED[key]


def method_of(config: MethodConfig, parts: TrainingParts, device: str = "cpu") -> Callable[[MethodData], Method]:
    """What `train` makes its method by: the configured one, with a style fitted to the failures where it takes one."""
    style = _fitted(parts, torch.device(device)) if config.name in STYLED else None
    return lambda data: make_method(config, dataclasses.replace(data, style=style), Generator().manual_seed(0))


class Degradation:
    """A style that is the true degradation, for any reference."""

    def apply(self, content: Tensor, reference: Tensor, generator: Generator) -> Tensor:
        return degrade(content, int(torch.randint(0, 2**31, (1,), generator=generator)))


class Stopped(Exception):
    """A training that was interrupted, see `stop_after_first`."""


def stop_after_first(epoch: int, figures: dict[str, float]) -> None:
    """For `on_epoch`: interrupts a training once its first epoch has its checkpoint."""
    if epoch == 1:
        raise Stopped


class Identity:
    """A style that changes nothing."""

    def apply(self, content: Tensor, reference: Tensor, generator: Generator) -> Tensor:
        return content
