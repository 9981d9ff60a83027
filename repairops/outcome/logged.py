"""What a job says of its record to MLflow, whose pages compare runs by it: parameters and metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from repairops.config import GateConfig, load
from repairops.gate.evidence import Check, LatencyFigures
from repairops.outcome.record import Record
from repairops.outcome.sections import Comparison, Training

# Logged also where they have the default: what tells most repairs apart, and what most verdicts hang on.
MAIN = (
    "method.name", "method.recipe", "style.name", "training.epochs", "training.learning_rate", "training.batch_size",
    "guard.mode", "gate.confidence", "gate.margin_points", "gate.min_repair_rate",
)  # fmt: skip
RESULTS = {"PASS": 1.0, "INCONCLUSIVE": 0.5, "FAIL": 0.0}
LONGEST = 500  # characters of a parameter's value
_KNOWN = re.compile("n|confidence|max_.*|min_.*|tolerance|(.*_)?margin_points")  # which others say
_WORST = ("difference_points", "rate")  # of a check's rows, the lowest is a metric

Judges = Literal["", "clean_set", "failures"]  # the data that a figure was measured on


class Measured(NamedTuple):
    name: str
    value: float
    on: Judges = ""


def parameters(record: Record) -> dict[str, str]:
    """The configuration as MLflow's parameters, `stage.option`: MAIN, and what differs from the defaults.

    No value is an empty text. The seed and what is repaired stand under `job.`, since `mlflow run` logs parameters of
    its own of these names, which no other value may have.
    """
    found = {"job.seed": str(record.seed), "job.failures": str(sum(batch.rows or 0 for batch in record.batches))}
    found |= {"job.model": record.model.uri} if record.model else {}
    found |= {name: str(record.config[name.partition(".")[0]][name.partition(".")[2]]) for name in MAIN}
    found |= {name: _text(value) for name, value in load.changed_options(record.config).items() if "." in name}
    return {name: value[:LONGEST] for name, value in found.items() if value}


def metrics(record: Record) -> list[Measured]:
    """What a record came to, in the groups `gate/`, `judge/`, `train/` and `time/`; only numbers that are finite.

    gate/CHECK: 1 for a pass, 0 for a failure, 0.5 where the evidence is too thin; gate/CHECK.FIGURE: what it measured,
    such as the difference with its bounds; of many parts the lowest. gate/all_required: the verdict.
    judge/: of both networks on the images that judge; compare/: of a rival on the same. train/: on those that
    choose, of what was chosen. time/: seconds.
    """
    found = [
        *_judged(record),
        *_compared(record.comparison),
        *_gate(record),
        *_trained(record.training),
        *_times(record),
    ]
    return [each._replace(value=float(each.value)) for each in found if math.isfinite(each.value)]


def _judged(record: Record) -> Iterator[Measured]:
    evidence = record.evidence
    if evidence is None:
        return
    clean, failures = evidence.clean, evidence.heldout_total
    if clean.n:
        yield Measured("judge/champion_clean_accuracy", clean.champion_right / clean.n, "clean_set")
        yield Measured("judge/challenger_clean_accuracy", clean.challenger_right / clean.n, "clean_set")
        yield Measured("judge/negative_flips", clean.champion_only, "clean_set")
        yield Measured("judge/positive_flips", clean.challenger_only, "clean_set")
        yield Measured("judge/clean_images", clean.n, "clean_set")
    if failures:
        yield Measured("judge/heldout_repair_rate", evidence.heldout_repaired / failures, "failures")
        yield Measured("judge/heldout_repaired", evidence.heldout_repaired, "failures")
        yield Measured("judge/heldout_failures", failures, "failures")
    if found := evidence.calibration:
        yield Measured("judge/champion_ece", found.champion_ece, "clean_set")
        yield Measured("judge/challenger_ece", found.challenger_ece, "clean_set")
    if routing := evidence.routing:
        yield from _latency(routing.latency, "routed_")
        for name, part, on in (("clean", routing.clean, "clean_set"), ("failures", routing.heldout, "failures")):
            if part.total:
                yield Measured(f"judge/{name}_routed", part.routed / part.total, on)  # type: ignore[arg-type]
    yield from _latency(evidence.latency, "")
    yield from _traffic(record)


def _compared(rival: Comparison | None) -> Iterator[Measured]:
    """Of the method that was trained beside, in a group of its own."""
    if rival and rival.heldout_total:
        yield Measured("compare/heldout_repair_rate", rival.heldout_repaired / rival.heldout_total, "failures")
    if rival and rival.clean.n:
        yield Measured("compare/clean_accuracy", rival.clean.challenger_right / rival.clean.n, "clean_set")
        yield Measured("compare/negative_flips", rival.clean.champion_only, "clean_set")


def _traffic(record: Record) -> Iterator[Measured]:
    """Of the field's traffic, where a sample of it was logged: shares in 0..1."""
    from repairops.gate.field import field_accuracy

    evidence = record.evidence
    if evidence is None or not (counts := evidence.field_rows) or not counts.consistent:
        return
    found = field_accuracy(counts, (record.policy or GateConfig()).confidence)
    figures = {
        "failing": found.failing.value,
        "champion_accuracy": found.before.value,
        "challenger_accuracy": found.after.value,
        "accuracy_change": found.change.value,
        "accuracy_change_lower": found.change.lower,
        "accuracy_change_upper": found.change.upper,
        "images": counts.right + counts.failed,
        "broken": counts.broken,
    }
    known = {name: value for name, value in figures.items() if value is not None}
    yield from (Measured(f"judge/field_{name}", value, "failures") for name, value in known.items())
    if (routing := evidence.routing) and routing.field_rows and routing.field_rows.total:
        yield Measured("judge/field_routed", routing.field_rows.routed / routing.field_rows.total, "failures")


def _latency(found: tuple[LatencyFigures, ...], kind: str) -> Iterator[Measured]:
    for each in found:
        for who in ("champion", "challenger"):
            for figure in ("median_ms", "p99_ms"):
                yield Measured(
                    f"judge/{kind}latency_{each.batch_size}_{who}_{figure}", getattr(each, f"{who}_{figure}")
                )


def _gate(record: Record) -> Iterator[Measured]:
    if record.verdict is None:
        return
    yield Measured("gate/all_required", RESULTS[record.verdict.result])  # the first chart that MLflow draws
    for check in record.verdict.checks:
        on: Judges = "failures" if "repair" in check.name or "field" in check.name else "clean_set"
        yield Measured(f"gate/{check.name}", RESULTS[check.result], on)
        for name, value in _figures(check):
            yield Measured(f"gate/{check.name}.{name}", value, on)


def _figures(check: Check) -> Iterator[tuple[str, float]]:
    for name, value in check.figures.items():
        if isinstance(value, int | float):
            if not _KNOWN.fullmatch(name):
                yield name, value
        elif isinstance(value, list | tuple):
            for figure in _WORST:
                rows = [row[figure] for row in value if isinstance(row.get(figure), int | float)]
                if rows:
                    yield f"{name}.lowest_{figure}", min(rows)  # type: ignore[type-var, misc]


def _trained(training: Training | None) -> Iterator[Measured]:
    if training is None:
        return
    point = next((each for each in training.tradeoff if each.chosen), None)
    figures: dict[str, float | None] = {
        "best_epoch": training.best_epoch,
        "weight": point.weight if point else None,
        "validation_accuracy": point.validation_accuracy if point else None,
        "validation_repair_rate": point.validation_repair_rate if point else None,
        "images_per_second": training.images_per_second,
        **{f"{name}_share": share for name, share in training.step_shares.items()},
        **{f"peak_{name}_mb": size for name, size in training.peak_memory_mb.items()},
    }
    yield from (Measured(f"train/{name}", value) for name, value in figures.items() if value is not None)


def _times(record: Record) -> Iterator[Measured]:
    yield from (Measured(f"time/{stage}", seconds) for stage, seconds in record.stages.items())
    if record.seconds is not None:
        yield Measured("time/total", record.seconds)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{key}={each}" for key, each in value.items())
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
