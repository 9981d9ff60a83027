"""The grid: a folder for each cell, named by the digest of its arguments; resumable, and shared by processes.

A cell is not launched (no folder), incomplete (cell.json), done (result.json) or failed (error.json). It is claimed by
a lock that the operating system drops when its process dies; what a dead process left behind is resumed from its
last checkpoint. Machines can share a grid where its folder lies on a file system with working locks.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from repairops import __version__
from repairops.bench import summary
from repairops.bench.budget import StepTime, step_time, within_budget
from repairops.bench.cell import PROTOCOL, Cell, run_cell
from repairops.bench.champions import champion_arguments, digest_of, load_champion, save_champion, train_champion
from repairops.bench.data import BenchData
from repairops.bench.environment import Costs, environment
from repairops.bench.presets import Coordinates, Preset
from repairops.bench.rivals import rival
from repairops.bench.summary import PLACE, Record
from repairops.config import ClusteringConfig
from repairops.core.methods import AUTO
from repairops.core.training.checkpoint import checkpoint_path
from repairops.core.trials import CANDIDATES
from repairops.data.sets import whole_file
from repairops.errors import RepairError
from repairops.model.device import resolve_device
from repairops.model.network import Classifier

logger = logging.getLogger("repairops")

UNIT = "fine_tune"  # the rival whose step is the unit of every budget


@dataclass(frozen=True)
class Grid:
    """A folder on disk. cells/DIGEST/, champions/, corrupted/ (images), answers/ (the champions'), steps/ (times)."""

    root: Path

    def cell(self, digest: str) -> Path:
        return self.root / "cells" / digest

    def state(self, digest: str) -> str:
        folder = self.cell(digest)
        for name, state in (("result.json", "done"), ("error.json", "failed"), ("cell.json", "incomplete")):
            if (folder / name).exists():
                return state
        return "not launched"

    def records(self, kind: str = "result") -> list[Record]:
        """All cells of this version that are done, in a fixed order; of kind 'error', those that failed."""
        found = [json.loads(p.read_text(encoding="utf-8")) for p in (self.root / "cells").glob(f"*/{kind}.json")]
        current = [r for r in found if (r["cell"].get("version"), r["cell"]["protocol"]) == (__version__, PROTOCOL)]
        return sorted(current, key=lambda r: (*(r["cell"][name] for name in PLACE), r["digest"]))


def plan(grid: Grid, preset: Preset, data: BenchData, places: Sequence[Coordinates]) -> list[tuple[Cell, StepTime]]:
    """The cells with their budgets in whole steps; measures the time of a step where the grid does not have it."""
    folder, times = grid.root / "steps", {}
    wanted = [pair for place in places for pair in ((place.network, UNIT), (place.network, place.rival))]
    for network, name in dict.fromkeys(wanted):
        chosen = rival(name)
        training = chosen.training_config(preset.training)
        untrained = chosen.twist == "untrained"
        # What auto will take is not known yet; its first candidate's step counts, which is not the cheaper one.
        timed = dataclasses.replace(chosen, method=CANDIDATES[0].method) if chosen.method == AUTO else chosen
        times[network, name] = StepTime(1.0) if untrained else step_time(network, timed, data.train, training, folder)
    return [_cell(preset, data, p, times[p.network, p.rival], times[p.network, UNIT]) for p in places]


def _cell(preset: Preset, data: BenchData, place: Coordinates, step: StepTime, unit: StepTime) -> tuple[Cell, StepTime]:
    chosen = rival(place.rival)
    training = chosen.training_config(preset.training)
    cost = 1.0 if step.error else max(round(step.seconds / unit.seconds, 1), 0.1)
    champion = champion_arguments(place.network, data.train, preset.champion, seed=0)
    trials = chosen.config.trial_share if chosen.method == AUTO else 0.0  # for each second of the training after them
    return Cell(
        **vars(place),
        champion=digest_of(champion),
        data=data.digest,
        budget_steps=preset.budget_steps,
        training=within_budget(training, cost, preset.budget_steps / (1 + trials), len(data.train), preset.checks),
        method=chosen.config,
        style=chosen.style_config,
        clustering=ClusteringConfig(by="pixels" if chosen.config.recipe == "paper" else "look"),
        failure_batch=preset.failure_batch,
        residuals=preset.residuals,
        corrupted=preset.corrupted,
        unseen=preset.unseen,
        others=() if preset.others < 0 else tuple(n for n in preset.corruptions if n != place.corruption),
        others_images=max(preset.others, 0),
    ), step


def work(grid: Grid, preset: Preset, data: BenchData, cells: Sequence[tuple[Cell, StepTime]]) -> Counter[str]:
    """Computes every cell that is not done and not claimed by another process; failed ones are tried again.

    Returns how many cells are in each state afterwards.
    """
    digests = [digest_of(cell.arguments()) for cell, _ in cells]
    done_before, began = sum(grid.state(d) == "done" for d in digests), time.monotonic()
    for (cell, step), digest in zip(cells, digests, strict=True):
        if grid.state(digest) == "done":
            continue
        folder = grid.cell(digest)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / "lock", timeout=0):
                if grid.state(digest) != "done":
                    line = _claimed(grid, preset, data, cell, digest, step)
                    done = sum(grid.state(d) == "done" for d in digests)
                    left = (time.monotonic() - began) / max(1, done - done_before) * (len(cells) - done) / 60
                    logger.info("[%d/%d] %s; about %.0f minutes left", done, len(cells), line, left)
        except Timeout:
            continue
    return Counter(grid.state(d) for d in digests)


def _claimed(grid: Grid, preset: Preset, data: BenchData, cell: Cell, digest: str, step: StepTime) -> str:
    """Runs a cell whose lock this process holds, and writes its record. Returns a line for the log."""
    record: dict[str, Any] = {"digest": digest, "cell": cell.arguments()}
    folder, place = grid.cell(digest), summary.place(record)
    _write(folder / "cell.json", record)
    (folder / "error.json").unlink(missing_ok=True)
    device = resolve_device(cell.training.device)
    if step.error:
        _write(folder / "error.json", {**record, "error": step.error})
        return f"{place} failed: {step.error}"
    champion = champion_of(grid, preset, data, cell.network)
    costs = Costs(device)
    try:
        figures = run_cell(cell, data, copy.deepcopy(champion), grid.root, folder)
    except (RepairError, RuntimeError) as error:  # RuntimeError: a GPU without memory; the other cells go on
        _write(folder / "error.json", {**record, "error": f"{error}"})
        logger.debug("", exc_info=True)
        return f"{place} failed: {error}"
    where = environment(device) | {"threads": torch.get_num_threads()}
    record |= {"figures": figures, "costs": costs.measured(), "environment": where}
    _write(folder / "result.json", record)
    checkpoint_path(folder).unlink(missing_ok=True)
    for trial in folder.glob("trial-*"):
        shutil.rmtree(trial)
    found = [measure(record) for measure in (summary.residual, summary.disjoint, summary.clean_after)]
    return f"{place}: {found[0]:.1f}% of residual failures, disjoint {found[1]:.1f}%, clean {found[2]:.1f}%"


def champion_of(grid: Grid, preset: Preset, data: BenchData, network: str) -> Classifier:
    """The network's champion: from the grid's folder, or trained now, once for all processes."""
    arguments, folder = champion_arguments(network, data.train, preset.champion, seed=0), grid.root / "champions"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{digest_of(arguments)}.lock"):
        champion = load_champion(folder, arguments)
        if champion is None:
            device = resolve_device(preset.training.device)
            champion = train_champion(network, data.train, preset.champion, seed=0, device=device)
            save_champion(folder, champion, arguments)
    return champion


def _write(path: Path, record: Mapping[str, Any]) -> None:
    """One line of JSON, in one step."""
    with whole_file(path) as part:
        part.write_text(json.dumps(record) + "\n", encoding="utf-8")
