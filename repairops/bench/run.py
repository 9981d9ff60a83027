"""`repairops bench run`: data, plan, and one or more processes that work through the cells."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from repairops.bench.data import BenchData, load_cifar10, load_data, load_digits
from repairops.bench.grid import Grid, champion_of, plan, work
from repairops.bench.networks import NETWORKS
from repairops.bench.presets import PRESETS, Preset, coordinates
from repairops.bench.rivals import rival
from repairops.errors import InvalidOption, NoBenchmarkData, listing

logger = logging.getLogger("repairops")


@dataclass(frozen=True)
class Request:
    """What `bench run` is asked for. data: paths of train and clean set; cifar10: torchvision's folder.

    networks, rivals, seeds, budget, failures (of the batch) and others replace the preset's where they are given.
    """

    preset: str
    out: Path
    data: tuple[Path, Path] | None = None
    cifar10: Path | None = None
    published: Path | None = None
    filters: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    budget: int = 0
    failures: int = 0
    device: str = ""
    others: int = -1


def run(request: Request, workers: int = 0) -> Counter[str]:
    """Works until every cell is done, failed, or claimed by a process of another command.

    workers: processes of this command; 0 = one for each core on a CPU, one on a GPU. On a CPU each works on one
    thread: two such processes do more than one with two, and a figure does not depend on the number of cores.
    Returns how many cells are in each state.
    """
    preset, data = resolve(request), read_data(request)
    on_cpu = preset.training.device == "cpu"
    workers = workers or (os.cpu_count() or 1 if on_cpu else 1)
    grid, places = Grid(request.out), coordinates(preset, request.filters)
    if not places:
        raise InvalidOption("cells", ", ".join(request.filters), "parts of networks, corruptions, rivals or seeds")
    threads = torch.get_num_threads()
    if on_cpu:
        torch.set_num_threads(1)
    try:
        cells = plan(grid, preset, data, places)
        for network in dict.fromkeys(place.network for place in places):
            champion_of(grid, preset, data, network)
        logger.info("%d cells in %s, %d at once", len(cells), grid.root, workers)
        context = multiprocessing.get_context("spawn")
        helpers = [
            context.Process(target=_helper, args=(request, logger.level)) for _ in range(min(workers, len(cells)) - 1)
        ]
        for helper in helpers:
            helper.start()
        work(grid, preset, data, cells)
        for helper in helpers:
            helper.join()
        return work(grid, preset, data, cells)  # what a helper left that died
    finally:
        torch.set_num_threads(threads)


def _helper(request: Request, level: int) -> None:
    logging.basicConfig(level=level, format="%(message)s")
    torch.set_num_threads(1)
    preset, data = resolve(request), read_data(request)
    grid = Grid(request.out)
    work(grid, preset, data, list(reversed(plan(grid, preset, data, coordinates(preset, request.filters)))))


def resolve(request: Request) -> Preset:
    """The preset with what the request replaces. Raises InvalidOption for unknown names."""
    if request.preset not in PRESETS:
        raise InvalidOption("preset", request.preset, f"one of {listing(PRESETS)}")
    preset = PRESETS[request.preset]
    for name in request.networks:
        if name not in NETWORKS:
            raise InvalidOption("networks", name, f"one of {listing(NETWORKS, 20)}")
    for name in request.rivals:
        rival(name)
    training = preset.training
    if request.device:
        training = dataclasses.replace(training, device=request.device)
    return dataclasses.replace(
        preset,
        training=training,
        networks=request.networks or preset.networks,
        rivals=request.rivals or preset.rivals,
        seeds=request.seeds or preset.seeds,
        budget_steps=request.budget or preset.budget_steps,
        failure_batch=request.failures or preset.failure_batch,
        others=preset.others if request.others < 0 else request.others,
    )


def read_data(request: Request) -> BenchData:
    """Raises NoBenchmarkData where a preset needs data and none is named."""
    if request.data:
        return load_data(*request.data, request.published)
    if request.cifar10:
        return load_cifar10(request.cifar10, request.published)
    if request.preset == "digits":
        return load_digits()
    raise NoBenchmarkData(request.preset)
