"""Processor time and peak memory of logging and of validating failures, each count in a process of its own.

    OMP_NUM_THREADS=1 python benchmarks/validation.py [--counts 20000] [--what log|validate]

Failures are noisy pictures of 32x32 pixels as PNG files, a hundredth of them twice; the sets that they are looked
for in have 50,000 train and 10,000 clean images. `log` is all of `log_failures`, into a registry of its own;
`validate` is the contract, with a small network's answers. Prints one JSON line a count.
"""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

NAMES = tuple(f"class {number}" for number in range(10))


def pictures(count: int, seed: int) -> np.ndarray:
    """Patches of several sizes and some noise, uint8 (N, 32, 32, 3): as in photos, large ones differ most."""
    draw = np.random.default_rng(seed)
    if count > 10_000:
        return np.concatenate([pictures(min(10_000, count - start), seed + start) for start in range(0, count, 10_000)])
    found = draw.integers(-8, 9, (count, 32, 32, 3), dtype=np.int16)
    for side, strength in ((2, 90), (4, 45), (8, 25)):
        patches = draw.integers(-strength, strength + 1, (count, side, side, 1), dtype=np.int16)
        found += patches.repeat(32 // side, axis=1).repeat(32 // side, axis=2)
    return (found + 128).clip(0, 255).astype(np.uint8)


def encoded(count: int) -> list[bytes]:
    from PIL import Image

    files = []
    for picture in pictures(count, 1):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
        files.append(buffer.getvalue())
    files[: count // 100] = files[-(count // 100) :] if count >= 100 else []
    return files


def now() -> float:
    return time.process_time()


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_log(count: int, folder: Path) -> dict[str, float]:
    import mlflow

    import repairops

    uri = f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    mlflow.MlflowClient().create_registered_model("cls")
    files, labels = encoded(count), [NAMES[i % 10] for i in range(count)]
    before, start = peak_mb(), now()
    repairops.log_failures("cls", files, labels, tracking_uri=uri)
    return {"before_mb": round(before), "peak_mb": round(peak_mb()), "cpu_s": round(now() - start, 1)}


def measure_validate(count: int, folder: Path) -> dict[str, float]:
    import torch
    from torch import nn

    from repairops.config import ImagesConfig, ValidationConfig
    from repairops.data.copies import look, near_copies
    from repairops.data.records import InputSpec
    from repairops.data.sets import from_arrays
    from repairops.model.evaluation import predict
    from repairops.model.network import Classifier
    from repairops.store.failure_rows import make_rows, read_rows, write_rows
    from repairops.validation.contract import validate

    spec = InputSpec(3, 32, 32, NAMES)
    labels = [NAMES[i % 10] for i in range(count)]
    write_rows(make_rows(encoded(count), labels), folder)
    parts = sorted(folder.glob("part-*.parquet"))
    train, clean = (
        from_arrays(pictures(n, seed), np.arange(n) % 10, NAMES) for n, seed in ((50_000, 10**6), (10_000, 10**7))
    )
    sets = {"clean set": clean, "train set": train}
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    classifier = Classifier(network, spec)

    def classify(pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        found = predict(classifier, pixels, np.zeros(len(pixels), np.int64))
        return found.labels, found.confidence

    def find_copies(pixels: torch.Tensor) -> dict[str, np.ndarray]:
        failures = look(pixels, np.arange(len(pixels)))
        return {name: near_copies(failures, images.looked) for name, images in sets.items()}

    import great_expectations  # noqa: F401  its import takes seconds, whatever the count

    before, start = peak_mb(), now()
    rows = type(read_rows(parts[0])).concatenate([read_rows(part) for part in parts])
    read = now()
    report = validate(
        rows.frame(), spec, classify, clean_ids=set(clean.sample_ids.tolist()),
        train_ids=set(train.sample_ids.tolist()), find_copies=find_copies,
        images=ImagesConfig(), config=ValidationConfig(),
    )  # fmt: skip
    return {
        "accepted": len(report.accepted) if report.accepted else 0,
        "before_mb": round(before),
        "peak_mb": round(peak_mb()),
        "read_s": round(read - start, 1),
        "validate_s": round(now() - read, 1),
    }


@click.command()
@click.option("--counts", default="20000", show_default=True)
@click.option("--what", type=click.Choice(["log", "validate"]), default="validate", show_default=True)
@click.option("--one", type=int, default=0, hidden=True)
def main(counts: str, what: str, one: int) -> None:
    if not one:
        for count in counts.split(","):
            subprocess.run([sys.executable, __file__, "--what", what, "--one", count], check=True)
        return
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        os.environ["REPAIROPS_HOME"] = f"{name}/home"
        found = (measure_log if what == "log" else measure_validate)(one, Path(name))
    sys.stdout.write(json.dumps({"what": what, "failures": one, **found}) + "\n")


if __name__ == "__main__":
    main()
