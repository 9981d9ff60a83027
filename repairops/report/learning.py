"""How the challenger came about: the training curves and the point that was taken on the way to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from repairops.outcome import Record
from repairops.outcome.sections import Epoch, Training
from repairops.report.charts import Curve, line_chart, trade_off_chart
from repairops.report.formats import count, duration, percent, plain

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


def training(record: Record) -> dict[str, Any]:
    """Charts and sentences; what can be read from the record as it is stands in the template."""
    found = record.training or Training()
    start = [found.champion] if found.champion else []
    charts = [
        {"title": "Loss", **_chart(found.history, LOSS, found.best_epoch, percents=False)},
        {"title": "Accuracy", **_chart([*start, *found.history], SHARES, found.best_epoch, percents=True)},
    ]
    seen = {None: "", True: UNSEEN, False: REMEMBERED}
    return {
        "charts": [chart for chart in charts if chart["figure"]],
        "validation": seen[found.validation_unseen],
        "time": _effort(found),
        "pace": _pace(found),
        "trade_off": trade_off_chart(found.tradeoff),
    }


def _pace(found: Training) -> str:
    """By which optimizer, how fast, and why so; '' for an older outcome."""
    if found.pace is None or not found.optimizer:
        return ""
    kind, pace = {"sgd": "SGD", "adamw": "AdamW"}.get(found.optimizer, plain(found.optimizer)), found.pace
    said = f"Trained by {kind} from a learning rate of {pace.learning_rate:g}"
    if not pace.change:
        return f"{said}."
    said += f"; a step at its default rate would change the weights by {percent(pace.change)}"
    return f"{said}. Gradients were cut at a norm of {pace.clip:.3g}."


def _effort(found: Training) -> str:
    """Time, device, speed, memory, and where a step's time goes, as far as they are known."""
    memory = [f"{count(mb)} MB of {plain(of).replace('gpu_', 'GPU ')}" for of, mb in found.peak_memory_mb.items()]
    steps = [f"{plain(phase)} {percent(share, 0)}" for phase, share in found.step_shares.items()]
    parts = (
        "" if found.seconds is None else duration(found.seconds),
        f"on {plain(found.device)}" if found.device else "",
        f"{count(found.images_per_second)} images per second" if found.images_per_second else "",
        f"a step's time: {', '.join(steps)}" if steps else "",
        f"at most {', '.join(memory)}" if memory else "",
    )
    return " · ".join(part for part in parts if part)


def _chart(
    history: Sequence[Epoch], wanted: Sequence[tuple[str, str, str]], best: int | None, percents: bool
) -> dict[str, Any]:
    """Curves of the `wanted` figures (attribute, name, style) over epochs; the champion is epoch 0."""
    epochs = [row.epoch or 0 for row in history]
    curves = [Curve(name, style, tuple(getattr(row, key) for row in history)) for key, name, style in wanted]
    curves = [curve for curve in curves if any(v is not None for v in curve.values)]
    chosen = f"; epoch {best} was chosen" if best is not None else ""
    over = f"{epochs[0]} to {epochs[-1]}" if epochs else ""
    label = f"{' and '.join(c.name for c in curves)} over epochs {over}{chosen}."
    drawn = line_chart(epochs, curves, label=label, percents=percents, chosen=best)
    return {"figure": drawn, "legend": [(c.name, c.kind) for c in curves] if len(curves) > 1 else []}
