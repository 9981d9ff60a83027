"""Several processes of one training: real torchrun processes on the CPU, against a single one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

METHODS = ("style_guided", "mixup", "sensei", "batch_norm", "interrupted")


def launch(folder: Path, processes: int, names: Sequence[str]) -> list[dict[str, Any]]:
    """What each rank wrote down."""
    folder.mkdir()
    job = Path(__file__).with_name("distributed_job.py")
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    done = subprocess.run(
        [sys.executable, *start, str(job), str(folder), *names],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in range(processes)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    return {processes: launch(folder / str(processes), processes, METHODS) for processes in (1, 2)}


@pytest.mark.parametrize("name", [name for name in METHODS if name != "interrupted"])
def test_two_ranks_have_the_losses_of_one_over_twenty_steps(runs: dict[int, list[dict[str, Any]]], name: str) -> None:
    """BatchNorm, augmentation, failures and all: the same global batch and seed."""
    (alone,), (first, second) = runs[1], runs[2]
    assert (alone["world"], first["world"]) == (1, 2)
    assert len(alone[name]["losses"]) == 20
    assert np.ptp(alone[name]["losses"]) > 0.01
    np.testing.assert_allclose(first[name]["losses"], alone[name]["losses"], atol=1e-4)
    np.testing.assert_allclose(first[name]["losses"], second[name]["losses"], rtol=0, atol=0)


def test_all_ranks_end_with_the_same_weights_as_one_process(runs: dict[int, list[dict[str, Any]]]) -> None:
    (alone,), (first, second) = runs[1], runs[2]
    for name in ("style_guided", "mixup"):
        assert first[name]["digest"] == second[name]["digest"]
        np.testing.assert_allclose(first[name]["weights"], alone[name]["weights"], atol=1e-4)
        assert first[name]["history"] == second[name]["history"]  # rank 0's, seconds too: all decide alike
        for one, two in zip(alone[name]["history"], first[name]["history"], strict=True):
            assert one["validation_right"] == two["validation_right"]
        assert not first[name]["patched"]


def test_ranks_go_on_from_the_first_one_s_checkpoint(runs: dict[int, list[dict[str, Any]]]) -> None:
    """Only rank 0 has written it; after the second epoch all have the weights of an uninterrupted training."""
    for found in runs[2]:
        stopped, resumed = found["interrupted"]
        assert (len(stopped["losses"]), len(resumed["losses"])) == (10, 10)
        assert stopped["losses"] + resumed["losses"] == found["style_guided"]["losses"]
        assert resumed["digest"] == found["style_guided"]["digest"]


@pytest.mark.slow
def test_three_ranks_with_shares_of_unequal_size(runs: dict[int, list[dict[str, Any]]], tmp_path: Path) -> None:
    found = launch(tmp_path / "3", 3, ["style_guided"])
    np.testing.assert_allclose(found[2]["style_guided"]["losses"], runs[1][0]["style_guided"]["losses"], atol=1e-4)
