"""Where a training step's time goes, by phase, for both recipes of style_guided.

    python benchmarks/step_shares.py [--device cuda] [--networks wideresnet,resnet18] [--epochs 3]

Smooth random images, train images and failures alike (failures paler and noisy); what counts is time, not accuracy.
`resnet18` is torchvision's at 224x224 pixels in batches of 64; any other name is a network of the benchmark, at 32x32
pixels in batches of 128. Prints one JSON line for each network and recipe: shares of the timed steps, train images a
second, MB.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
import torch
from stand_ins import NAMES, failure_batch, image_set, styled_method
from torch import Generator, Tensor, nn

from repairops.bench.networks import build_network
from repairops.config import MethodConfig, TrainingConfig
from repairops.core.clustering import cluster_failures
from repairops.core.parts import cut_parts
from repairops.core.training import train
from repairops.data.records import FailureBatch, ImageSet, InputSpec
from repairops.model.device import resolve_device
from repairops.model.network import Classifier

FAILURES = 700


def images(count: int, side: int, seed: int) -> Tensor:
    """Float32 (count, 3, side, side) in 0..1."""
    draw = Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=draw)
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")


def labelled(content: Tensor, seed: int) -> ImageSet:
    return image_set((content * 255).byte(), np.random.default_rng(seed), str(seed))


def stand_in_failures(side: int, count: int = FAILURES) -> FailureBatch:
    """Paler and noisy images."""
    pale = 0.3 + 0.4 * images(count, side, 1)
    noise = 0.1 * torch.randn(pale.shape, generator=Generator().manual_seed(2))
    return failure_batch(labelled((pale + noise).clamp(0, 1), 1))


def make_network(name: str, spec: InputSpec) -> nn.Module:
    if name == "resnet18":
        from torchvision.models import resnet18

        return resnet18(num_classes=len(NAMES))
    return build_network(name, spec, 0)


def measure(name: str, recipe: str, device: str, steps: int, epochs: int) -> dict[str, object]:
    side, batch = (224, 64) if name == "resnet18" else (32, 128)
    failures = stand_in_failures(side)
    clusters = cluster_failures(failures, clusters=5, per_class=False, restarts=1, seed=0)
    spec = InputSpec(3, side, side, NAMES)
    classifier = Classifier(make_network(name, spec), spec)
    config = TrainingConfig(
        epochs=epochs, batch_size=batch, epoch_images=steps * batch, device=device, horizontal_flip=True, patience=0
    )
    train_set = labelled(images((steps + 4) * batch, side, 0), 0)
    parts = cut_parts(train_set, None, failures, failures.subset(np.arange(100)), clusters, config, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        method = styled_method(MethodConfig(recipe=recipe), parts, classifier, resolve_device(device))
        result = train(classifier, method, parts, config, seed=0, work_dir=Path(folder), method_key=recipe)
    return {
        "network": name,
        "recipe": recipe,
        "side": side,
        "batch": batch,
        "steps": sum(h["steps"] for h in result.history),
        "shares": {phase: round(share, 3) for phase, share in result.step_shares.items()},
        "images_per_second": round(result.images_per_second),
        "peak_memory_mb": {kind: round(value) for kind, value in result.peak_memory_mb.items()},
        "bfloat16": result.bfloat16,
        "device": result.device,
        "torch": torch.__version__,
    }


@click.command()
@click.option("--device", default="auto", show_default=True)
@click.option("--networks", default="wideresnet,resnet18", show_default=True)
@click.option("--recipes", default="default,paper", show_default=True)
@click.option("--steps", default=40, show_default=True, help="Of an epoch.")
@click.option("--epochs", default=3, show_default=True)
def main(device: str, networks: str, recipes: str, steps: int, epochs: int) -> None:
    for name in networks.split(","):
        for recipe in recipes.split(","):
            sys.stdout.write(json.dumps(measure(name, recipe, device, steps, epochs)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
