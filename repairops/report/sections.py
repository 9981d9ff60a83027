"""Classes, clusters and training as plain values for the template. Each is empty where the outcome holds nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from repairops.report import facts
from repairops.report.facts import Outcome
from repairops.report.figures import Curve, dumbbell, line_chart, share_bar
from repairops.report.wording import (
    DASH,
    count,
    dig,
    duration,
    fixed,
    mapping,
    mappings,
    number,
    percent,
    plain,
    ratio,
    signed,
)

MAX_CLASSES = 40  # rows of the per-class table; the largest falls come first
MAX_LABELS = 5  # class names listed for one cluster


def classes(outcome: Outcome) -> dict[str, Any]:
    """Per-class recall, largest fall first; from the check's figures, else from the evidence."""
    found = next((c for c in facts.checks(outcome) if c.get("name") == "class_recall"), {})
    rows = [_class_row(row) for row in mappings(dig(found, "figures", "classes"))]
    rows = rows or [_counted_row(n, mapping(c)) for n, c in mapping(dig(outcome, "evidence", "clean_by_class")).items()]
    rows.sort(key=lambda row: (row["difference"] is None, row["difference"] or 0.0))
    margin = number(dig(outcome, "policy", "class_margin_points"))
    shown = rows[:MAX_CLASSES]
    recalls = [r for row in shown for r in (row["champion"], row["challenger"]) if r is not None]
    low, high = _recall_range(recalls)
    return {
        "rows": [_shown_class(row, (low, high), margin) for row in shown],
        "left_off": len(rows) - len(shown),
        "scale": (percent(low, 0), percent(high, 0)),
        "margin": fixed(margin, 1),
    }


def _recall_range(recalls: list[float]) -> tuple[float, float]:
    """The scale of the recalls: whole steps of 5 points around them."""
    return math.floor(20 * min(recalls, default=0.0)) / 20, math.ceil(20 * max(recalls, default=1.0)) / 20


def _class_row(row: Mapping[str, Any]) -> dict[str, Any]:
    champion, challenger = number(row.get("champion")), number(row.get("challenger"))
    n = number(row.get("n"))
    if n and max(champion or 0, challenger or 0) > 1:  # counts instead of recalls
        champion, challenger = ratio(champion, n), ratio(challenger, n)
    moved = number(row.get("difference_points"))
    if moved is None and champion is not None and challenger is not None:
        moved = 100 * (challenger - champion)
    return {"name": plain(row.get("name")), "n": n, "champion": champion, "challenger": challenger, "difference": moved}


def _counted_row(name: str, counts: Mapping[str, Any]) -> dict[str, Any]:
    both, lost, won, wrong = (
        number(counts.get(k)) or 0.0 for k in ("both_right", "champion_only", "challenger_only", "both_wrong")
    )
    n = both + lost + won + wrong
    return _class_row({"name": name, "n": n, "champion": ratio(both + lost, n), "challenger": ratio(both + won, n)})


def _shown_class(row: Mapping[str, Any], domain: tuple[float, float], margin: float | None) -> dict[str, Any]:
    champion, challenger, moved = row["champion"], row["challenger"], row["difference"]
    beyond = moved is not None and margin is not None and moved < -margin
    label = f"{row['name']}: {percent(champion)} before, {percent(challenger)} after."
    return {
        "name": row["name"],
        "n": count(row["n"]),
        "champion": percent(champion),
        "challenger": percent(challenger),
        "difference": signed(moved),
        "beyond": beyond,
        "figure": dumbbell(champion, challenger, domain, label=label, beyond=beyond),
    }


def clusters(outcome: Outcome) -> list[dict[str, Any]]:
    found = mappings(outcome.get("clusters"))
    largest = max((number(c.get("size")) or 0.0 for c in found), default=0.0)
    return [_cluster(cluster, i, largest) for i, cluster in enumerate(found)]


def _cluster(cluster: Mapping[str, Any], index: int, largest: float) -> dict[str, Any]:
    labels = sorted(mapping(cluster.get("labels")).items(), key=lambda item: -(number(item[1]) or 0.0))
    size = number(cluster.get("size")) or 0.0
    named = ", ".join(f"{plain(name)} {count(n)}" for name, n in labels[:MAX_LABELS])
    more = f" and {len(labels) - MAX_LABELS} more classes" if len(labels) > MAX_LABELS else ""
    done, total = _cluster_repaired(cluster)
    return {
        "id": number(cluster.get("id")) if number(cluster.get("id")) is not None else index,
        "title": f"Cluster {plain(cluster.get('id', index))}",
        "size": count(cluster.get("size")),
        "labels": named + more,
        "bar": share_bar([(size, "accepted"), (largest - size, "rest")], label=f"{count(size)} failures", width=120),
        "repaired": f"{count(done)} of {count(total)}" if total else count(done) if done is not None else "",
    }


def _cluster_repaired(cluster: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Held-out failures nearest to this cluster that are right now, and all of them, however written."""
    value = cluster.get("heldout_repaired")
    if isinstance(value, Mapping):
        return number(value.get("repaired")), number(value.get("total"))
    if isinstance(value, list | tuple) and len(value) == 2:
        return number(value[0]), number(value[1])
    return number(value), number(cluster.get("heldout_total"))


LOSS = (("loss", "Training loss", "c1"),)
SHARES = (
    ("validation_accuracy", "Validation accuracy", "c1"),
    ("validation_repair_rate", "Validation repair rate", "c2"),
    ("repair_failures_accuracy", "Accuracy on repair failures", "c3"),
)


def training(outcome: Outcome) -> dict[str, Any]:
    history = mappings(dig(outcome, "training", "history"))
    epochs = [e if (e := number(row.get("epoch"))) is not None else float(i) for i, row in enumerate(history)]
    best = number(dig(outcome, "training", "best_epoch"))
    charts = [
        {"title": "Loss", **_chart(history, epochs, LOSS, best, percents=False)},
        {"title": "Accuracy", **_chart(history, epochs, SHARES, best, percents=True)},
    ]
    values = mapping(outcome.get("training"))
    speed = number(values.get("images_per_second"))
    return {
        "charts": [chart for chart in charts if chart["figure"]],
        "rows": [_epoch(row, epoch, best) for row, epoch in zip(history, epochs, strict=True)],
        "note": plain(values["note"]) if values.get("note") else "",
        "time": " · ".join(
            part
            for part in (
                duration(values.get("seconds")) if number(values.get("seconds")) is not None else "",
                f"on {plain(values['device'])}" if values.get("device") else "",
                f"{count(speed)} images per second" if speed else "",
            )
            if part
        ),
    }


def _chart(
    history: list[Mapping[str, Any]],
    epochs: list[float],
    wanted: tuple[tuple[str, str, str], ...],
    best: float | None,
    percents: bool,
) -> dict[str, Any]:
    curves = [Curve(name, style, tuple(number(r.get(key)) for r in history)) for key, name, style in wanted]
    curves = [curve for curve in curves if any(v is not None for v in curve.values)]
    chosen = f"; epoch {best:g} was chosen" if best is not None else ""
    label = f"{' and '.join(c.name for c in curves)} over {len(history)} epochs{chosen}."
    drawn = line_chart(epochs, curves, label=label, percent=percents, marked=best, marked_text="chosen")
    return {"figure": drawn, "legend": [(c.name, c.kind) for c in curves]}


def _epoch(row: Mapping[str, Any], epoch: float, best: float | None) -> dict[str, Any]:
    cells = [f"{epoch:g}", fixed(row.get("loss"), 4)] + [percent(row.get(key), 2) for key, _, _ in SHARES]
    rate = number(row.get("learning_rate"))
    return {
        "cells": [*cells, DASH if rate is None else f"{rate:.3g}", duration(row.get("seconds"))],
        "best": epoch == best,
    }
