"""What the gate decides from, and what it says: counts and figures, no tensors; plain JSON in outcome.json.

Standard library only. Where the JSON of a value is not its fields, `to_dict` gives it, and `unfolded` its fields'
values from it; "null" marks a field that is null in JSON where it is None (see `outcome.plain`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from repairops.config.fields import Level


@dataclass(frozen=True)
class PairedCounts:
    """Champion and challenger on the same images, as counts."""

    both_right: int
    champion_only: int  # negative flips: the champion had it right, the challenger has it wrong
    challenger_only: int
    both_wrong: int

    @property
    def n(self) -> int:
        return self.both_right + self.champion_only + self.challenger_only + self.both_wrong

    @property
    def champion_right(self) -> int:
        return self.both_right + self.champion_only

    @property
    def challenger_right(self) -> int:
        return self.both_right + self.challenger_only


@dataclass(frozen=True)
class RepairCounts:
    """Held-out failures that the challenger has right, of all in that part."""

    repaired: int
    total: int


@dataclass(frozen=True)
class Slice:
    """The part of a set that has one value in one of its columns.

    In JSON the counts stand beside the names: {"set": "failures", "column": "source", "value": "cam 4",
    "repaired": 3, "total": 9}, or {"set": "clean", ..., "both_right": 90, "champion_only": 1, ...}.
    """

    column: str
    value: str
    counts: RepairCounts | PairedCounts

    @property
    def of(self) -> Literal["failures", "clean"]:
        return "failures" if isinstance(self.counts, RepairCounts) else "clean"

    def to_dict(self) -> dict[str, Any]:
        return {"set": self.of, "column": self.column, "value": self.value, **asdict(self.counts)}

    @staticmethod
    def unfolded(values: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**values, "counts": values}


@dataclass(frozen=True)
class ConfidenceBin:
    """Clean images of which one network's confidence is in (low, high]: how many, how many right, mean confidence."""

    low: float
    high: float
    n: int
    right: int
    confidence: float  # mean; 0 where n is 0


@dataclass(frozen=True)
class Calibration:
    """Reliability of both networks on the clean set, by equal bins of confidence.

    In JSON: {"champion_ece": 0.02, "challenger_ece": 0.03, "bins": {"champion": [...], "challenger": [...]}}; the two
    expected calibration errors (0..1) follow from the bins.
    """

    champion: tuple[ConfidenceBin, ...]
    challenger: tuple[ConfidenceBin, ...]

    @property
    def champion_ece(self) -> float:
        return expected_calibration_error(self.champion)

    @property
    def challenger_ece(self) -> float:
        return expected_calibration_error(self.challenger)

    def to_dict(self) -> dict[str, Any]:
        return {"champion_ece": self.champion_ece, "challenger_ece": self.challenger_ece, "bins": asdict(self)}

    @staticmethod
    def unfolded(values: Mapping[str, Any]) -> Mapping[str, Any]:
        bins = values.get("bins")
        return bins if isinstance(bins, Mapping) else {}


def expected_calibration_error(bins: Sequence[ConfidenceBin]) -> float:
    """Mean distance of accuracy from confidence over the bins, weighted by their images, 0..1; NaN without images.

    Source: Naeini et al. 2015 (AAAI); Guo et al. 2017 (ICML).
    """
    n = sum(b.n for b in bins)
    return sum(abs(b.right - b.n * b.confidence) for b in bins) / n if n else math.nan


@dataclass(frozen=True)
class OnnxAccuracy:
    """Both ONNX files on the clean set under one runtime.

    In JSON the accuracies (0..1) and n stand beside the counts that they follow from:
    {"champion": 0.91, "challenger": 0.912, "n": 10000, "counts": {"both_right": ...}}.
    """

    counts: PairedCounts

    def to_dict(self) -> dict[str, Any]:
        n = self.counts.n
        return {
            "champion": self.counts.champion_right / n if n else None,
            "challenger": self.counts.challenger_right / n if n else None,
            "n": n,
            "counts": asdict(self.counts),
        }


@dataclass(frozen=True)
class ParityCounts:
    """PyTorch against ONNX Runtime. `reason` is empty where the export worked."""

    n: int = 0
    decisions_differ: int = 0
    max_difference: float = math.nan  # of logits, absolute
    reason: str = ""


@dataclass(frozen=True)
class LatencyFigures:
    """Median and 99th percentile of one call with `batch_size` images under ONNX Runtime, milliseconds, of `runs`."""

    batch_size: int
    champion_median_ms: float
    champion_p99_ms: float
    challenger_median_ms: float
    challenger_p99_ms: float
    runs: int = 100


@dataclass(frozen=True)
class RoutedCounts:
    """Images of a part that the guard sends to the repaired network, in whole or in part, of all in that part."""

    routed: int
    total: int


@dataclass(frozen=True)
class FieldCounts:
    """A labelled sample of the field's traffic.

    right, failed: images of it that the champion has right, wrong. judged: of the right ones those that judge (the
    others share a scene with a failure that has trained or chosen). broken: of these, wrong now. heldout: its failures
    that were held out.
    """

    right: int
    failed: int
    judged: int
    broken: int
    heldout: RepairCounts

    @property
    def consistent(self) -> bool:
        """Whether these can be counts of one sample: a file may say anything."""
        held, whole = self.heldout, self.right + self.failed
        rows, failures = 0 <= self.broken <= self.judged <= self.right, 0 <= held.repaired <= held.total <= self.failed
        return rows and failures and whole < 10**9


@dataclass(frozen=True)
class Routing:
    """Who answers in a guarded version, on the images that judge.

    clean, heldout, field_rows: clean images, held-out failures, field rows that judge, if any; by class name, by the
    nearest cluster's id, by source, and by the clean set's slices.
    clean_histogram, heldout_histogram: images by the guard's probability, in equal bins of 0..1.
    latency: as `Evidence.latency`, for images that are routed; empty where there were none or it was not measured.
    """

    clean: RoutedCounts
    heldout: RoutedCounts
    clean_by_class: Mapping[str, RoutedCounts] = field(default_factory=dict)
    heldout_by_class: Mapping[str, RoutedCounts] = field(default_factory=dict)
    heldout_by_cluster: Mapping[str, RoutedCounts] = field(default_factory=dict)
    heldout_by_source: Mapping[str, RoutedCounts] = field(default_factory=dict)
    clean_by_slice: Mapping[str, RoutedCounts] = field(default_factory=dict)
    field_rows: RoutedCounts | None = None
    clean_histogram: tuple[int, ...] = ()
    heldout_histogram: tuple[int, ...] = ()
    latency: tuple[LatencyFigures, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """All that the gate decides from. Kept whole in outcome.json, so that its verdict can be computed again.

    clean_by_class: by class name, every class of the clean set's names, without images too.
    heldout_by_cluster: by the cluster's id as text, the held-out failures nearest to its centre.
    slices: parts of the held-out failures, and of the clean set, by a column's values.
    corruptions: by corruption, both networks on the same corrupted clean images.
    latency: one entry for each batch size, clean images; empty where it was not measured.
    routing: of a guarded challenger.
    heldout: both networks on the held-out failures; of a consolidation, whose champion has most of them right.
    field_rows: where a sample of the field's traffic was logged.
    earlier: both networks on what the champion's own repairs held out, where it was repaired before.
    champion_finite, challenger_finite: no NaN or infinity in the outputs on clean set and held-out failures.
    """

    clean: PairedCounts
    clean_by_class: Mapping[str, PairedCounts]
    heldout_repaired: int
    heldout_total: int
    parity: ParityCounts
    latency: tuple[LatencyFigures, ...] = ()
    champion_finite: bool = True
    challenger_finite: bool = True
    heldout_by_cluster: Mapping[str, RepairCounts] = field(default_factory=dict)
    slices: tuple[Slice, ...] = ()
    corruptions: Mapping[str, PairedCounts] = field(default_factory=dict)
    calibration: Calibration | None = field(default=None, metadata={"null": True})
    onnx_accuracy: OnnxAccuracy | None = field(default=None, metadata={"null": True})
    routing: Routing | None = None
    heldout: PairedCounts | None = None
    field_rows: FieldCounts | None = None
    earlier: PairedCounts | None = None


Result = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Figure = int | float | str | None
Figures = Mapping[str, Figure | tuple[Mapping[str, Figure], ...]]  # rows by name where a check looks at many things


@dataclass(frozen=True)
class Check:
    """One rule of the gate with its result. `figures` are plain JSON numbers, for the report."""

    name: str
    level: Level
    result: Result
    summary: str  # one sentence for a reviewer, with the figures in words
    figures: Figures = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """FAIL where a required check fails, else INCONCLUSIVE where one is, else PASS."""

    result: Result
    checks: tuple[Check, ...]
