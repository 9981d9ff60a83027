"""How the challenger came about: the training curves and the point that was taken on the way to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repairops.report.charts import Curve, TradeOff, line_chart, trade_off_chart, trade_off_words
from repairops.report.facts import Outcome
from repairops.report.wording import (
    DASH,
    count,
    dig,
    duration,
    fixed,
    mapping,
    mappings,
    number,
    of,
    percent,
    plain,
    ratio,
)

LOSS = (("loss", "Training loss", "c1"),)
SHARES = (
    ("validation_accuracy", "Validation accuracy", "c1"),
    ("validation_repair_rate", "Validation repair rate", "c2"),
    ("repair_failures_accuracy", "Accuracy on repair failures", "c3"),
)

UNSEEN = "The champion was not trained on the clean validation images: what is lost there is lost on new images too."
REMEMBERED = (
    "The clean validation images are of the train set, which the champion probably remembers: they cannot show well "
    "what is lost on new images; the clean set shows it."
)


def training(outcome: Outcome) -> dict[str, Any]:
    values = mapping(outcome.get("training"))
    history = mappings(values.get("history"))
    epochs = [e if (e := number(row.get("epoch"))) is not None else float(i) for i, row in enumerate(history, 1)]
    best = number(values.get("best_epoch"))
    start = mapping(values.get("champion"))
    charts = [
        {"title": "Loss", **_chart(history, epochs, LOSS, best, percents=False)},
        {"title": "Accuracy", **_chart([start, *history], [0.0, *epochs], SHARES, best, percents=True)}
        if start and 0.0 not in epochs
        else {"title": "Accuracy", **_chart(history, epochs, SHARES, best, percents=True)},
    ]
    return {
        "charts": [chart for chart in charts if chart["figure"]],
        "from_champion": bool(start),
        "rows": [_epoch(row, epoch, best) for row, epoch in zip(history, epochs, strict=True)],
        "note": plain(values["note"]) if values.get("note") else "",
        "validation": _validation(values.get("validation_unseen")),
        "time": _effort(values),
        "trials": [_trial(row) for row in mappings(values.get("trials"))],
        "trade_off": _trade_off(outcome),
    }


def _validation(unseen: Any) -> str:
    """What the clean validation images can show; empty where an older outcome does not say which they were."""
    if unseen is None:
        return ""
    return UNSEEN if unseen is True else REMEMBERED


def _trial(row: Mapping[str, Any]) -> dict[str, Any]:
    """A candidate's short training, by which `method.name=auto` chose."""
    rate = number(row.get("learning_rate"))
    repaired = of(row.get("validation_repaired"), row.get("validation_failures"))
    accuracy = percent(ratio(row.get("validation_right"), row.get("validation_images")), 2)
    cells = [DASH if rate is None else f"{rate:.3g}", repaired, accuracy, duration(row.get("seconds"))]
    return {"name": plain(row.get("method")), "cells": cells, "chosen": row.get("chosen") is True}


def _effort(values: Mapping[str, Any]) -> str:
    """Time, device, speed, memory, and where a step's time goes, as far as they are known."""
    speed = number(values.get("images_per_second"))
    peaks = mapping(values.get("peak_memory_mb"))
    memory = [f"{count(mb)} MB of {plain(of).replace('gpu_', 'GPU ')}" for of, mb in peaks.items()]
    steps = [f"{plain(phase)} {percent(share, 0)}" for phase, share in mapping(values.get("step_shares")).items()]
    parts = (
        duration(values.get("seconds")) if number(values.get("seconds")) is not None else "",
        f"on {plain(values['device'])}" if values.get("device") else "",
        f"{count(speed)} images per second" if speed else "",
        f"a step's time: {', '.join(steps)}" if steps else "",
        f"at most {', '.join(memory)}" if memory else "",
    )
    return " · ".join(part for part in parts if part)


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
    label = (
        f"{' and '.join(c.name for c in curves)} over epochs {epochs[0]:g} to {epochs[-1]:g}{chosen}." if epochs else ""
    )
    drawn = line_chart(epochs, curves, label=label, percents=percents, marked=best, marked_text="chosen")
    return {"figure": drawn, "legend": [(c.name, c.kind) for c in curves] if len(curves) > 1 else []}


def _epoch(row: Mapping[str, Any], epoch: float, best: float | None) -> dict[str, Any]:
    cells = [f"{epoch:g}", fixed(row.get("loss"), 4)] + [percent(row.get(key), 2) for key, _, _ in SHARES]
    rate = number(row.get("learning_rate"))
    return {
        "cells": [*cells, DASH if rate is None else f"{rate:.3g}", duration(row.get("seconds"))],
        "best": epoch == best,
    }


def _trade_off(outcome: Outcome) -> dict[str, Any]:
    """The chart, and its rows by weight; points without figures are left out."""
    points = []
    for row in mappings(dig(outcome, "training", "tradeoff")):
        weight, accuracy, rate = (
            number(row.get(k)) for k in ("weight", "validation_accuracy", "validation_repair_rate")
        )
        if weight is not None and accuracy is not None and rate is not None:
            points.append(TradeOff(weight, accuracy, rate, row.get("chosen") is True))
    points.sort(key=lambda p: p.weight)
    return {
        "figure": trade_off_chart(points, label=trade_off_words(points)),
        "rows": [(f"{p.weight:g}", percent(p.accuracy, 2), percent(p.repair_rate, 1), p.chosen) for p in points],
    }
