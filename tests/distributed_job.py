"""What each process of tests/test_distributed.py runs: short trainings on digits, whose losses it writes down.

torchrun --nproc-per-node 2 distributed_job.py FOLDER METHOD...
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from training_helpers import SPEC, SmallNet, champion, digits, failures, one_cluster

from repairops.config import MethodConfig, StyleConfig, TrainingConfig
from repairops.core.methods import RepairData, make_method
from repairops.core.training import train
from repairops.core.training.checkpoint import state_tensors
from repairops.core.training.ranks import Ranks, start_ranks
from repairops.model.network import Classifier

CONFIG = TrainingConfig(
    epochs=2, batch_size=108, learning_rate=0.01, crop_padding=1, horizontal_flip=True, ema=0.9,
    device=os.environ.get("REPAIROPS_TEST_DEVICE", "cpu"),
)  # fmt: skip


class Recorded:
    """A method that keeps its losses."""

    def __init__(self, name: str, data: RepairData) -> None:
        self.method = make_method(MethodConfig(name=name), StyleConfig(), data, Generator().manual_seed(0))
        self.losses: list[float] = []

    def loss(
        self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, dict[str, float]]:
        loss, figures = self.method.loss(classifier, images, labels, generator)
        self.losses.append(loss.item())
        return loss, figures


def network_without_dropout() -> Classifier:
    network = SmallNet(dropout=0)
    network.load_state_dict(champion().network.state_dict())
    return Classifier(network, SPEC).eval()


def run(name: str, work_dir: Path, epochs: int) -> dict[str, object]:
    """`epochs` of the two; a second call with both goes on after the first."""
    classifier, (repair, validation) = network_without_dropout(), failures()
    made: list[Recorded] = []

    def method(data: RepairData) -> Recorded:
        made.append(Recorded(name, data))
        return made[0]

    class Stop(Exception):
        pass

    def stop(epoch: int, figures: dict[str, float]) -> None:
        if epoch == epochs < CONFIG.epochs:
            raise Stop

    history = []
    with contextlib.suppress(Stop):
        history = train(
            classifier, method, digits()[0], repair, validation, one_cluster(len(repair)), CONFIG,
            seed=0, work_dir=work_dir, method_key=name, on_epoch=stop,
        ).history  # fmt: skip
    digest = hashlib.sha256(b"".join(t.numpy().tobytes() for t in state_tensors(classifier).values())).hexdigest()
    weights = torch.cat([p.detach().flatten() for p in classifier.parameters()])
    return {
        "losses": made[0].losses if made else [],
        "history": history,
        "digest": digest,
        "weights": weights.tolist(),
        "patched": any("forward" in vars(m) for m in classifier.modules()),
    }


def launch(folder: Path, processes: int, names: Sequence[str]) -> list[dict[str, Any]]:
    """What each rank of a torchrun wrote down."""
    folder.mkdir()
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [sys.executable, *start, __file__, str(folder), *names],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in range(processes)]


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    ranks: Ranks = start_ranks()
    found: dict[str, object] = {"world": ranks.world}
    for name in names:
        if name == "interrupted":
            first = run("style_guided", folder / name, epochs=1)
            found[name] = [first, run("style_guided", folder / name, epochs=2)]
        else:
            found[name] = run(name, folder / name, epochs=2)
    (folder / f"rank{ranks.rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
