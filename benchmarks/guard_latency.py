"""What a guarded version costs to serve: its ONNX file beside the champion's own, one thread, in turn.

    python benchmarks/guard_latency.py [--networks resnet18,mobilenet_v3_small] [--side 224] [--runs 40]

Networks of torchvision with random weights, twice each, and a guard that tells dark images from bright ones: what costs
time does not depend on the weights, and a batch has as many flagged rows as is wanted. One JSON line a network and
batch; the ratio is that of the medians of calls in turn (`measure_latency`).
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision import models

from repairops.data.records import InputSpec
from repairops.model.guarded import Guard, look_statistics
from repairops.model.network import Classifier, from_unit, to_unit
from repairops.model.onnx import export_onnx, measure_latency
from repairops.model.routing import guarded

CLASSES = tuple(f"class {number}" for number in range(1000))


def images(count: int, flagged: int, side: int) -> Tensor:
    """uint8 (count, 3, side, side): dark ones, and `flagged` bright ones among them."""
    generator = torch.Generator().manual_seed(0)
    found = 0.4 * torch.rand(count, 3, side, side, generator=generator)
    found[torch.randperm(count, generator=generator)[:flagged]] += 0.6
    return from_unit(found)


def guard_between(dark: Tensor, bright: Tensor) -> tuple[Guard, float]:
    """A guard, and a probability that is above those of the dark images and below those of the bright ones."""
    statistics = [look_statistics(to_unit(part)) for part in (dark, bright)]
    torch.manual_seed(0)
    guard = Guard(statistics[0].shape[1])
    guard.mean, guard.deviation = torch.cat(statistics).mean(0), torch.cat(statistics).std(0).clamp_min(1e-3)
    with torch.no_grad():
        apart = (statistics[1].mean(0) - statistics[0].mean(0)) / guard.deviation
        guard.hidden.weight.copy_(apart.expand_as(guard.hidden.weight) / apart.square().sum())
        guard.odds.weight.abs_()
        low, high = (guard.odds_of(part) for part in statistics)
        assert low.max() < high.min()
        limit = (low.max() + high.min()) / 2
    return guard.eval().requires_grad_(False), float(limit.sigmoid())


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="resnet18,mobilenet_v3_small")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--runs", type=int, default=40)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    spec = InputSpec(3, given.side, given.side, CLASSES)
    for name in given.networks.split(","):
        torch.manual_seed(1)
        champion = Classifier(models.get_model(name, weights=None).eval(), spec)
        repaired = copy.deepcopy(champion.network)
        guard, limit = guard_between(images(8, 0, given.side), images(8, 8, given.side))
        pair = guarded(champion, repaired, guard, limit, limit)
        with tempfile.TemporaryDirectory() as folder:
            files = Path(folder) / "champion.onnx", Path(folder) / "guarded.onnx"
            export_onnx(champion.network, spec, files[0])
            export_onnx(pair.network, spec, files[1])
            for size, flagged in ((1, 0), (8, 0), (32, 0), (8, 2), (32, 8), (1, 1)):
                batch = images(size, flagged, given.side)
                times = measure_latency(*files, spec, batch, batch_sizes=(size,), runs=given.runs, max_seconds=90)[0]
                told = {"network": name, "batch": size, "flagged": flagged, "runs": times.runs}
                told |= {"champion_ms": times.champion_median_ms, "guarded_ms": times.challenger_median_ms}
                told["ratio"] = round(times.challenger_median_ms / times.champion_median_ms, 3)
                sys.stdout.write(json.dumps(told) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
