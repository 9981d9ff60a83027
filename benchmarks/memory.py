"""Peak memory of a training at several sizes of the train set, each in a process of its own.

    OMP_NUM_THREADS=1 python benchmarks/memory.py [--sizes 10000,40000] [--seconds 5]

Random images of 32x32 pixels and a residual network; what counts is memory, not accuracy. Prints one JSON line a size.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
import torch
from stand_ins import NAMES, failure_batch, image_set, styled_method
from torch import nn

from repairops.config import MethodConfig, TrainingConfig
from repairops.core.clustering import cluster_failures
from repairops.core.parts import cut_parts
from repairops.core.training import train
from repairops.core.training.clock import memory_figures
from repairops.data.records import ImageSet, InputSpec
from repairops.model.network import Classifier

CPU = torch.device("cpu")


def random_set(count: int, seed: int) -> ImageSet:
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8))
    return image_set(pixels, rng, str(seed))


def network() -> nn.Module:
    def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU())

    layers = (block(3, 32, 2), block(32, 64, 2), block(64, 128, 2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def measure(size: int, seconds: float) -> dict[str, float]:
    torch.set_num_threads(1)
    batch = failure_batch(random_set(700, 1))
    clusters = cluster_failures(batch, clusters=5, per_class=False, restarts=1, seed=0)
    before = memory_figures(CPU)["memory_mb"]
    classifier = Classifier(network(), InputSpec(3, 32, 32, NAMES))
    config = TrainingConfig(epochs=1, device="cpu", max_minutes=seconds / 60)
    parts = cut_parts(random_set(size, 0), None, batch, batch.subset(np.arange(100)), clusters, config, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        method = styled_method(MethodConfig(), parts, classifier, CPU)
        result = train(classifier, method, parts, config, seed=0, work_dir=Path(folder), method_key="default")
    pixels = size * 3 * 32 * 32 / 2**20
    return {
        "train_images": size,
        "pixels_mb": round(pixels, 1),
        "before_mb": round(before, 1),
        "peak_mb": round(result.peak_memory_mb["memory"], 1),
        "steps": result.history[0]["steps"],
    }


@click.command()
@click.option("--sizes", default="10000,40000", show_default=True)
@click.option("--seconds", default=5.0, show_default=True, help="Of training at each size.")
@click.option("--one", type=int, default=0, hidden=True)
def main(sizes: str, seconds: float, one: int) -> None:
    if one:
        sys.stdout.write(json.dumps(measure(one, seconds)) + "\n")
        return
    for size in sizes.split(","):
        subprocess.run([sys.executable, __file__, "--one", size, "--seconds", str(seconds)], check=True)


if __name__ == "__main__":
    main()
