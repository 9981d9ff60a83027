"""Images a second of whole training steps, augmentation included, on one process and on several, of one thread each.

    python benchmarks/ranks.py [--processes 2] [--rounds 3] [--network allconvnet] [--batch 128] [--steps 12]

Each round trains on one process and then on several, by torchrun, so that both see the same machine; the first step of
each training is left out, since it warms up. Smooth random images of 32x32 pixels by the default method; what counts is
time, not accuracy. Prints one JSON line a training and one with the medians and their quotient.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import torch
from stand_ins import NAMES, styled_method
from step_shares import images, labelled, stand_in_failures

from repairops.bench.networks import build_network
from repairops.config import MethodConfig, TrainingConfig
from repairops.core.clustering import cluster_failures
from repairops.core.methods import Method, MethodData
from repairops.core.parts import cut_parts
from repairops.core.training import train
from repairops.core.training.distributed import start_ranks
from repairops.data.records import InputSpec
from repairops.model.network import Classifier

SIDE = 32  # pixels


class Clock:
    """A method that keeps the time at which each of its steps begins."""

    def __init__(self, method: Method) -> None:
        self.method, self.began = method, list[float]()

    def loss(self, *arguments):  # type: ignore[no-untyped-def]
        self.began.append(time.perf_counter())
        return self.method.loss(*arguments)


def measure(network: str, batch: int, steps: int) -> dict[str, float]:
    """Train images a second of this process's training, or of all that torchrun started."""
    torch.set_num_threads(1)
    ranks = start_ranks()
    failures = stand_in_failures(SIDE, 100)
    clusters = cluster_failures(failures, clusters=5, per_class=False, restarts=1, seed=0)
    spec = InputSpec(3, SIDE, SIDE, NAMES)
    classifier = Classifier(build_network(network, spec, 0), spec)
    config = TrainingConfig(epochs=1, batch_size=batch, device="cpu", horizontal_flip=True, validation_fraction=0.01)
    train_set = labelled(images((steps + 2) * batch, SIDE, 0), 0)
    parts = cut_parts(train_set, None, failures, failures.subset(np.arange(20)), clusters, config, seed=0)
    make, clocks = styled_method(MethodConfig(), parts, classifier, torch.device("cpu")), list[Clock]()

    def timed(data: MethodData) -> Method:
        clocks.append(Clock(make(data)))
        return clocks[0]

    with tempfile.TemporaryDirectory() as folder:
        train(classifier, timed, parts, config, seed=0, work_dir=Path(folder), method_key="")
    began = clocks[0].began[1:]
    share = batch // ranks.world * ranks.world
    return {"rank": ranks.rank, "images_per_second": share * (len(began) - 1) / (began[-1] - began[0])}


@click.command()
@click.option("--processes", default=2, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--network", default="allconvnet", show_default=True, help="One of the benchmark's.")
@click.option("--batch", default=128, show_default=True)
@click.option("--steps", default=12, show_default=True)
@click.option("--worker", is_flag=True, hidden=True)
def main(processes: int, rounds: int, network: str, batch: int, steps: int, worker: bool) -> None:
    if worker:
        found = measure(network, batch, steps)
        if not found.pop("rank"):
            sys.stdout.write(json.dumps(found) + "\n")
        return
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    speeds: dict[int, list[float]] = {1: [], processes: []}
    for _ in range(rounds):
        for count in speeds:
            start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
            options = ["--worker", "--network", network, "--batch", str(batch), "--steps", str(steps)]
            done = subprocess.run(
                [*start, __file__, *options], env=environment, check=True, stdout=subprocess.PIPE, text=True
            )
            speeds[count].append(json.loads(done.stdout)["images_per_second"])
            sys.stdout.write(json.dumps({"processes": count, "images_per_second": round(speeds[count][-1], 1)}) + "\n")
            sys.stdout.flush()
    one, several = (statistics.median(speeds[count]) for count in (1, processes))
    summary = {"network": network, "batch": batch, "rounds": rounds, "one": round(one, 1), "several": round(several, 1)}
    load = round(os.getloadavg()[0], 2)
    sys.stdout.write(json.dumps(summary | {"times": round(several / one, 2), "load": load}) + "\n")


if __name__ == "__main__":
    main()
