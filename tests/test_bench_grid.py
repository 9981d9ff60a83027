"""The grid of cells: the same figures again, after a kill, and from two processes at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from filelock import FileLock
from pipeline_helpers import context_fixture, start_command  # noqa: F401
from safetensors import SafetensorError, safe_open

from repairops.bench.budget import StepTime
from repairops.bench.grid import Grid, plan
from repairops.bench.presets import PRESETS, Coordinates, coordinates
from repairops.bench.rivals import Rival
from repairops.bench.run import Request, read_data, resolve, run
from repairops.errors import InvalidOption, NoBenchmarkData

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, ForkServerProcess

PATIENCE = 120  # seconds until something must have happened


def request(out: Path, *filters: str, **options: Any) -> Request:
    return Request("digits", out, filters=filters, **options)


def figures(out: Path) -> dict[str, Any]:
    """What the cells of a grid found, by digest."""
    return {record["digest"]: record["figures"] for record in Grid(out).records()}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of digits with its champion, corrupted images and step times, and no cell that trained."""
    out = tmp_path_factory.mktemp("template")
    torch.set_num_threads(1)
    assert run(request(out, "none"), workers=1) == {"done": 2}
    assert run(request(out, "fine_tune", "contrast", budget=10), workers=1) == {"done": 1}
    shutil.rmtree(out / "cells")
    return out


@pytest.fixture
def grid(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "grid")
    return tmp_path / "grid"


@pytest.mark.long
def test_the_other_corruptions_are_measured_where_asked_for(grid: Path) -> None:
    assert run(request(grid, "none", "contrast", others=50), workers=1) == {"done": 1}
    (found,) = figures(grid).values()
    assert list(found["others"]) == ["gaussian_noise"]
    assert found["others"]["gaussian_noise"]["n"] == 50
    assert found["others"]["gaussian_noise"]["right"] == found["others"]["gaussian_noise"]["champion_right"]


@pytest.mark.slow
def test_auto_spends_its_trials_from_its_budget_and_says_what_it_tried(grid: Path) -> None:
    assert run(request(grid, "contrast", budget=60, rivals=("style_guided", "auto")), workers=1) == {"done": 2}
    records = {record["cell"]["rival"]: record for record in Grid(grid).records()}
    auto, plain = (
        r["cell"]["training"]["epochs"] * r["cell"]["training"]["epoch_images"]
        for r in (records["auto"], records["style_guided"])
    )
    assert auto < plain
    trials = records["auto"]["figures"]["training"]["trials"]
    assert [trial["method"] for trial in trials] == ["style_guided", "fine_tune"] * 2
    assert sum(trial["chosen"] for trial in trials) == 1
    assert records["auto"]["figures"]["residual"]["right"] > 0
    assert not list(Grid(grid).cell(records["auto"]["digest"]).glob("trial*"))


def start(context: ForkServerContext, out: Path, log: Path, *options: str) -> ForkServerProcess:
    """`repairops bench run` in a process of its own."""
    bench = ["bench", "run", "--preset=digits", f"--out={out}", "--workers=1", *options]
    return start_command(context, bench, dict(os.environ), log)


@pytest.mark.long
def test_a_cell_gives_the_same_figures_twice_and_is_not_computed_again(grid: Path, template: Path) -> None:
    asked = ("fine_tune", "contrast")
    assert run(request(grid, *asked), workers=1) == {"done": 1}
    first = figures(grid)
    ((digest, found),) = first.items()
    record = Grid(grid).cell(digest) / "result.json"
    written = record.stat().st_mtime_ns
    assert run(request(grid, *asked), workers=1) == {"done": 1}
    assert record.stat().st_mtime_ns == written
    shutil.rmtree(grid / "cells")
    assert run(request(grid, *asked), workers=1) == {"done": 1}
    assert figures(grid) == first
    assert found["residual"]["right"] > 0
    assert not list(Grid(grid).cell(digest).glob("training*"))


@pytest.mark.long
@pytest.mark.usefixtures("few_trials")  # as in the process that is killed
def test_killed_in_the_middle_and_run_again_a_cell_ends_with_the_same_figures(
    grid: Path, tmp_path: Path, context: ForkServerContext
) -> None:
    whole, log = tmp_path / "whole", tmp_path / "log"
    shutil.copytree(grid, whole)
    options = ("--cells=fine_tune", "--cells=contrast", "--budget=250")
    process = start(context, grid, log, *options)
    deadline = time.monotonic() + PATIENCE
    while epochs_on_disk(grid) < 1:
        process.join(timeout=0.005)
        assert process.is_alive(), log.read_text()[-2000:]
        assert time.monotonic() < deadline
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (folder,) = (grid / "cells").iterdir()
    assert Grid(grid).state(folder.name) == "incomplete"
    assert figures(grid) == {}

    again = start(context, grid, tmp_path / "again", *options)
    again.join(PATIENCE)
    assert again.exitcode == 0, (tmp_path / "again").read_text()[-2000:]
    assert "Training goes on after epoch" in (tmp_path / "again").read_text()
    assert run(request(whole, "fine_tune", "contrast", budget=250), workers=1) == {"done": 1}
    assert figures(grid) == figures(whole)


def epochs_on_disk(out: Path) -> int:
    for file in out.glob("cells/*/training.safetensors"):
        try:
            with safe_open(file, framework="pt") as stored:
                return len(json.loads(stored.metadata()["history"])) - 1
        except (OSError, SafetensorError):
            return -1
    return -1


@pytest.mark.long
def test_two_processes_share_a_grid(grid: Path, tmp_path: Path, context: ForkServerContext) -> None:
    """Each cell is computed once, by either, and both end with every cell done or in the other's hands."""
    options = ("--cells=fine_tune,none,oracle", "--budget=40")
    logs = [tmp_path / f"log {number}" for number in range(2)]
    started = [start(context, grid, log, *options) for log in logs]
    for process in started:
        process.join(PATIENCE)
    outputs = [log.read_text() for log in logs]
    assert [process.exitcode for process in started] == [0, 0], outputs
    computed = [line for log in outputs for line in log.splitlines() if line.startswith("[")]
    assert len(computed) == 6
    assert len({line.split("] ")[1].split(":")[0] for line in computed}) == 6
    assert len(figures(grid)) == 6


@pytest.mark.slow
def test_one_command_with_two_workers(grid: Path) -> None:
    assert run(request(grid, "none,fine_tune", budget=15), workers=2) == {"done": 4}


def test_a_rival_whose_step_costs_twice_has_half_the_steps(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step_time(network: str, chosen: Rival, *others: object) -> StepTime:
        return StepTime(0.2 if chosen.method == "style_guided" else 0.1)

    monkeypatch.setattr("repairops.bench.grid.step_time", step_time)
    asked = request(grid, "contrast", budget=120, rivals=("style_guided", "fine_tune"))
    preset = resolve(asked)
    cells = [cell for cell, _ in plan(Grid(grid), preset, read_data(asked), coordinates(preset, asked.filters))]
    steps = {c.rival: c.training.epochs * c.training.epoch_images // c.training.batch_size for c in cells}
    assert steps == {"style_guided": 60, "fine_tune": 120}


def test_a_cell_in_another_process_s_hands_is_left_to_it(grid: Path) -> None:
    assert run(request(grid, "none", "contrast"), workers=1) == {"done": 1}
    (folder,) = (grid / "cells").iterdir()
    (folder / "result.json").unlink()
    with FileLock(folder / "lock"):
        assert run(request(grid, "none", "contrast"), workers=1) == {"incomplete": 1}
    assert run(request(grid, "none", "contrast"), workers=1) == {"done": 1}


def test_a_rival_that_does_not_fit_the_network_fails_alone(grid: Path) -> None:
    """batch_norm finds no BatchNorm in an LSTM; the other cell goes on."""
    asked = request(grid, "contrast", networks=("lstm_small",), rivals=("batch_norm", "none"))
    assert run(asked, workers=1) == {"done": 1, "failed": 1}
    (error,) = Grid(grid).records("error")
    assert "no BatchNorm layer" in error["error"]
    assert error["cell"]["rival"] == "batch_norm"


def test_filters_narrow_and_presets_are_replaced() -> None:
    preset = PRESETS["cpu-mini"]
    assert len(coordinates(preset)) == 4 * 6
    narrowed = coordinates(preset, ("fog,contrast", "none,oracle"))
    assert ["/".join(map(str, vars(c).values())) for c in narrowed] == [
        "resnet_small/fog/oracle/0",
        "resnet_small/fog/none/0",
        "resnet_small/contrast/oracle/0",
        "resnet_small/contrast/none/0",
    ]
    assert coordinates(preset, ("no such thing",)) == []
    given = {"seeds": (3,), "budget": 15, "rivals": ("random",), "networks": ("lstm_small",), "failures": 100}
    changed = resolve(Request("cpu-mini", Path(), **given))
    assert (changed.seeds, changed.budget_steps, changed.failure_batch) == ((3,), 15, 100)
    assert coordinates(changed, ("fog",)) == [Coordinates("lstm_small", "fog", "random", 3)]


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (Request("mini", Path()), InvalidOption),
        (Request("digits", Path(), rivals=("sleep",)), InvalidOption),
        (Request("digits", Path(), networks=("vgg",)), InvalidOption),
        (Request("digits", Path(), filters=("fogg",)), InvalidOption),
        (Request("cpu", Path()), NoBenchmarkData),
    ],
)
def test_wrong_requests_are_refused(asked: Request, error: type[Exception]) -> None:
    with pytest.raises(error):
        run(asked)
