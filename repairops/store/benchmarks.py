"""A benchmark's report as an MLflow run, its champions as models."""

from __future__ import annotations

import json
from pathlib import Path

from repairops.bench.champions import load_champion
from repairops.bench.grid import Grid
from repairops.bench.report import read_records
from repairops.bench.summary import Record, clean_after, disjoint, distinct, groups, residual, select
from repairops.store.connection import connect, experiment_id, talking
from repairops.store.flavors import ClassifierFlavors


def log_benchmark(folder: Path, source: Path, experiment: str, tracking_uri: str | None = None) -> str:
    """Logs the report's folder, mean figures by network and rival, and the grid's champions. Returns the run's id.

    Metrics are named NETWORK.RIVAL.residual, .disjoint (percent of residual failures) and .clean. Champions are logged
    as PyTorch models with their input specification, where `source` is a grid's folder.
    """
    client = connect(tracking_uri, create=True)
    import mlflow

    records, _ = read_records(source)
    with (
        talking("log the benchmark"),
        mlflow.start_run(experiment_id=experiment_id(client, experiment), run_name="benchmark") as run,
    ):
        mlflow.set_tags({"repairops.kind": "benchmark", "repairops.cells": len(records)})
        mlflow.log_metrics(_metrics(records))
        mlflow.log_artifacts(str(folder))
        if source.is_dir():
            _log_champions(Grid(source), run.info.run_id)
    return str(run.info.run_id)


def _metrics(records: list[Record]) -> dict[str, float]:
    metrics = {}
    for network, group in groups(records).items():
        for rival in distinct(group, "rival"):
            own = select(group, rival=rival)
            for name, measure in (("residual", residual), ("disjoint", disjoint), ("clean", clean_after)):
                metrics[f"{network}.{rival}.{name}"] = sum(measure(record) for record in own) / len(own)
    return metrics


def _log_champions(grid: Grid, run_id: str) -> None:
    from safetensors import safe_open

    for path in sorted((grid.root / "champions").glob("*.safetensors")):
        with safe_open(path, framework="pt") as stored:
            arguments = json.loads(stored.metadata()["arguments"])
        champion = load_champion(path.parent, arguments)
        assert champion is not None
        flavors = ClassifierFlavors(champion.network, champion.spec, "pickle")
        flavors.log(run_id, {"model_factory": ""}, name=f"champion-{arguments['network']}")
