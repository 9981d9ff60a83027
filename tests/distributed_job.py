"""What each process of tests/test_distributed.py runs: short trainings on digits, of which it writes down what it saw.

torchrun --nproc-per-node 2 distributed_job.py FOLDER NAME...

NAME: a method; 'stopped' trains mixup for the first of two epochs, and 'resumed' goes on from there; 'killed'
ends rank 1 in the second epoch, as a machine that fails does, and 'survivor' goes on from there; 'explodes' has a loss
that is not finite on rank 1 alone.
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
from conftest import take_few_trials
from torch import Generator, Tensor
from training_helpers import SPEC, SmallNet, Stopped, champion, method_of, parts_of, stop_after_first

from repairops.config import MethodConfig, TrainingConfig
from repairops.core.methods import MethodData
from repairops.core.training import train
from repairops.core.training.checkpoint import state_tensors
from repairops.core.training.distributed import Ranks, current_ranks, start_ranks
from repairops.errors import LossNotFinite
from repairops.model.network import Classifier

STEPS = 9  # of an epoch
CONFIG = TrainingConfig(
    least_steps=0, epochs=2, batch_size=109, learning_rate=0.01, crop_padding=1, horizontal_flip=True, ema=0.9,
    epoch_images=1080, device=os.environ.get("REPAIROPS_TEST_DEVICE", "cpu"),
)  # fmt: skip


class Recorded:
    """A method that keeps what its first step is made of, the gradients that this step came to, and its losses."""

    def __init__(self, name: str, data: MethodData) -> None:
        method = "mixup" if name in ("stopped", "resumed", "killed", "survivor", "explodes") else name
        self.name, self.method = name, method_of(MethodConfig(name=method), parts_of(CONFIG), CONFIG.device)(data)
        self.losses: list[float] = []
        self.images = self.labels = self.draws = torch.empty(0)
        self.gradients: list[Tensor] = []

    def loss(
        self, classifier: Classifier, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, dict[str, float]]:
        if not self.losses:
            self.images, self.labels, self.draws = images.cpu(), labels.cpu(), generator.get_state()
        if len(self.losses) == 1:  # zeroed only before the next ones
            self.gradients = [p.grad.cpu().clone() for p in classifier.parameters() if p.grad is not None]
        if self.name == "killed" and current_ranks().rank and len(self.losses) == STEPS + 2:
            os._exit(9)
        loss, figures = self.method.loss(classifier, images, labels, generator)
        self.losses.append(loss.item())
        if self.name == "explodes" and current_ranks().rank and len(self.losses) >= 3:
            loss = loss * float("nan")
        return loss, figures


def network_without_dropout() -> Classifier:
    network = SmallNet(dropout=0)
    network.load_state_dict(champion().network.state_dict())
    return Classifier(network, SPEC).eval()


def run(name: str, folder: Path) -> dict[str, Any]:
    """A training by its name, below `folder`; the tensors of its first step go to a file there."""
    classifier, ranks = network_without_dropout(), current_ranks()
    made: list[Recorded] = []

    def method(data: MethodData) -> Recorded:
        made.append(Recorded(name, data))
        return made[0]

    work_dir = folder / {"stopped": "parts", "resumed": "parts", "survivor": "killed"}.get(name, name)
    stop = {"on_epoch": stop_after_first} if name == "stopped" else {}
    found: dict[str, Any] = {"history": [], "best_epoch": -1, "error": ""}
    try:
        with contextlib.suppress(Stopped):
            result = train(
                classifier, method, parts_of(CONFIG), CONFIG, seed=0, work_dir=work_dir, method_key="x", **stop
            )
            found |= {"history": result.history, "best_epoch": result.best_epoch}
    except LossNotFinite as error:
        found["error"] = str(error)
    if made:
        step = {name: getattr(made[0], name) for name in ("images", "labels", "draws", "gradients")}
        torch.save(step, folder / f"{name}-{ranks.rank}.pt")
    tensors = b"".join(t.numpy().tobytes() for t in state_tensors(classifier.cpu()).values())
    kinds = sorted({type(m).__name__ for m in classifier.modules()})
    losses = made[0].losses if made else []
    return found | {"losses": losses, "digest": hashlib.sha256(tensors).hexdigest(), "kinds": kinds}


def torchrun(folder: Path, processes: int, names: Sequence[str]) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [sys.executable, *start, __file__, str(folder), *names],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def launch(folder: Path, processes: int, names: Sequence[str]) -> list[dict[str, Any]]:
    """What each rank of a torchrun wrote down, which ends with 0, or by 'killed' as its last with 1."""
    done = torchrun(folder, processes, names)
    assert done.returncode == int(names[-1] == "killed"), done.stderr[-3000:]
    assert ("exitcode  : 9" in done.stderr) == (names[-1] == "killed"), done.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in range(processes)]


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    take_few_trials()
    ranks: Ranks = start_ranks()
    found: dict[str, object] = {"world": ranks.world}
    for name in names:
        found[name] = run(name, folder)
        (folder / f"rank{ranks.rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
