"""The paper's own figures, from `published/`: what the report puts beside ours."""

from __future__ import annotations

import csv
import importlib.resources

Table = dict[tuple[str, str], dict[str, float]]  # (network, row) to corruption or 'mean' to figure


def failure_counts() -> dict[str, dict[str, int]]:
    """Table III: corruption to network to failures at all five severities of 10,000 images."""
    return {row.pop("corruption"): {k: int(v) for k, v in row.items()} for row in _rows("table3_failure_counts.csv")}


def residual_accuracy() -> Table:
    """Table IV: accuracy on residual failures by network and method, in percent."""
    return _table("table4_residual_failure_accuracy.csv", "method")


def clustering_ablation() -> Table:
    """Table V: the same with and without clusters."""
    return _table("table5_clustering_ablation.csv", "variant")


def _table(name: str, key: str) -> Table:
    return {(row.pop("network"), row.pop(key)): {k: float(v) for k, v in row.items()} for row in _rows(name)}


def _rows(name: str) -> list[dict[str, str]]:
    file = importlib.resources.files("repairops.bench") / "published" / name
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
