"""The gate's options: its limits, and one line for each of its checks."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from repairops.config.fields import NOT_NEGATIVE, POINTS, SHARE, Level, Range, Rule, Stage, advisory, option, required

GENTLER = "Train more gently: a third of training.learning_rate, or fewer training.epochs."

KEEPING = "Raise method.replay_share or training.epochs, or gate.repair_margin_points if the loss is acceptable to you."


@dataclass(frozen=True)
class GateConfig(Stage):
    # At more confidence than 0.9999 the exact tests have no risk left to give, and no number of images passes.
    confidence: float = option(0.95, "One-sided.", Range("from 0.5 to 0.9999, one-sided", 0.5, 0.9999))
    margin_points: float = option(0.5, "Largest loss of clean accuracy allowed, in percentage points.", POINTS)
    min_repair_rate: float = option(
        0.3,
        "Share of held-out failures that must be right, at the lower bound.",
        Range("from 0 to 0.9999; that every failure is repaired cannot be shown", 0, 0.9999),
    )
    repair_margin_points: float = option(
        5.0,
        "Of a consolidation, and of a version that was repaired before: largest loss allowed of the held-out failures "
        "that are right, in percentage points.",
        POINTS,
    )
    field_margin_points: float = option(
        2.0, "Of field images that the champion has right: largest part that may break, in percentage points.", POINTS
    )
    class_margin_points: float = option(5.0, "Largest loss of recall allowed in a class, in percentage points.", POINTS)
    class_test: Literal["together", "each"] = option(
        "together",
        "Of `class_recall`, where a class falls beyond its margin and that is not proven: `together` asks whether "
        "chance explains it among so many classes, `each` is inconclusive at once, as gates before this option were.",
    )
    max_negative_flips: float = option(0.02, "Share of the clean set.", SHARE)
    parity_tolerance: float = option(1e-3, "Largest difference of a logit, PyTorch to ONNX.", NOT_NEGATIVE)
    max_latency_ratio: float = option(
        1.2, "Challenger's median time over the champion's.", Range("positive; 1 is the champion's own time", 1e-9)
    )
    min_part_repair_rate: float = option(
        0.1, "Share of held-out failures that must be right in each cluster and slice.", SHARE
    )
    corruption_margin_points: float = option(
        3.0, "Largest loss of accuracy allowed under a general corruption, in percentage points.", POINTS
    )
    corruption_images: int = option(
        1000, "Clean images that are corrupted, at most.", Range("0 (all clean images) or more", 0)
    )
    max_clean_routing: float = option(
        0.05, "Share of the clean set that the repaired network of a guarded version may answer.", SHARE
    )
    max_ece_rise: float = option(0.02, "Largest rise allowed of the expected calibration error.", SHARE)
    policy: str = option(
        "",
        "YAML file with all options of the gate, also `--policy`; see [Policy](../how-it-works/gate.md#policy).",
        affects_result=False,
    )
    policy_sha256: str = option("", "Digest of that file: filled from it, checked when given.", affects_result=False)
    clean_slices: str = option("", "Column of the clean set's parquet whose values are slices of it.")
    # The checks, in the order of the report.
    clean_non_regression: Level = required(
        "accuracy",
        "Clean non-regression",
        FAIL=f"{GENTLER} If the loss is acceptable to you, raise gate.margin_points.",
        INCONCLUSIVE="Give a larger clean set.",
    )
    repair_rate: Level = required(
        "repaired",
        "Repair rate",
        FAIL="Log more failures of the same kind, or raise training.epochs.",
        INCONCLUSIVE="Log more failures of the same kind, so that more of them are held out.",
    )
    repairs_kept: Level = required(
        "repaired",
        "Repairs kept",
        needs="heldout",
        only=True,
        FAIL="Keep the guarded version; or train longer (training.epochs), or raise gate.repair_margin_points if the "
        "loss is acceptable to you.",
        INCONCLUSIVE="Log more failures of the same kind and repair again, so that more of them are held out; or raise "
        "gate.repair_margin_points.",
    )
    earlier_repairs: Level = advisory(
        "repaired",
        "Earlier repairs kept",
        needs="earlier",
        only=True,
        FAIL=KEEPING,
        INCONCLUSIVE=KEEPING,
    )
    class_recall: Level = required(
        "classes",
        "Per-class clean recall",
        FAIL=f"Add train images of the classes that fell (listed on the review page). {GENTLER}",
        INCONCLUSIVE="Give a clean set with more images of the classes that fell or are missing (listed on the review "
        f"page). {GENTLER}",
    )
    negative_flips: Level = advisory(
        "accuracy", "Negative flips", FAIL=f"Look at the negative flips on the review page. {GENTLER}"
    )
    field_non_regression: Level = advisory(
        "field",
        "Field non-regression",
        needs="field_rows",
        FAIL=f"Look whether these images have the failures' look; give train images of the field. {GENTLER}",
        INCONCLUSIVE="Label more images of the field's traffic, right and wrong alike, and log them as such.",
    )
    cluster_repair: Level = advisory(
        "repaired",
        "Repair rate per cluster",
        FAIL="Look at that cluster on the review page: log more failures of its kind, or try another style.name where "
        "its styled images do not resemble them.",
    )
    clean_routing: Level = advisory(
        "accuracy",
        "Clean images routed",
        needs="routing",
        FAIL="Look at the clean images that the guard sends away on the review page; log clean images of their kind in "
        "the train set, or lower guard.max_routed.",
    )
    slices: Level = advisory(
        "repaired",
        "Slices",
        needs="slices",
        FAIL="Look at that slice on the review page: log more failures of it, or add train images of it.",
    )
    corruptions: Level = advisory(
        "robustness", "Other corruptions", FAIL=f"Decide whether the field sees that corruption. {GENTLER}"
    )
    calibration: Level = advisory(
        "robustness",
        "Calibration",
        FAIL=f"Recalibrate before promoting, or raise gate.max_ece_rise. {GENTLER}",
    )
    onnx_parity: Level = required(
        "served",
        "ONNX parity",
        FAIL="Correct what the exporter names, or set gate.onnx_parity=advisory if ONNX is not served.",
        INCONCLUSIVE="Read the exporter's reason, and run the job again.",
    )
    onnx_accuracy: Level = advisory("served", "ONNX accuracy", FAIL=f"As for clean non-regression. {GENTLER}")
    latency: Level = advisory(
        "served",
        "Latency",
        FAIL="Measure again on an idle machine; if it stays, raise gate.max_latency_ratio.",
    )


RULES: dict[str, Rule] = {f.name: f.metadata["rule"] for f in fields(GateConfig) if f.metadata["rule"]}


class Looser(NamedTuple):
    """An option of the gate that lets more pass than its default does."""

    name: str
    value: float | str
    default: float | str


def looser_than_default(policy: GateConfig) -> list[Looser]:
    """The limits and levels of a policy that are looser than the defaults, in the order of the options."""
    defaults = GateConfig()
    pairs = [Looser(f.name, getattr(policy, f.name), getattr(defaults, f.name)) for f in fields(GateConfig)]
    return [pair for pair in pairs if _is_looser(*pair)]


def _is_looser(name: str, value: Any, default: Any) -> bool:
    if name in RULES:
        return _LEVELS.index(value) > _LEVELS.index(default)
    if name == "confidence" or name.startswith("min_"):
        return bool(value < default)
    return bool(name.endswith(("_points", "_tolerance")) or name.startswith("max_")) and bool(value > default)


_LEVELS = ("required", "advisory", "off")
