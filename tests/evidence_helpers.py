"""Evidence for the gate: good of two classes, as a page shows it of ten, and of all kinds at random."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from repairops.gate.evidence import (
    Calibration,
    ConfidenceBin,
    Evidence,
    FieldCounts,
    LatencyFigures,
    OnnxAccuracy,
    PairedCounts,
    ParityCounts,
    RepairCounts,
    RoutedCounts,
    Routing,
    Slice,
)

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PARITY = ParityCounts(n=10_300, decisions_differ=0, max_difference=3.1e-6)
LOST = (3, 2, 5, 7, 3, 6, 2, 2, 3, 4)
CLUSTERS = ((98, 120), (61, 78), (44, 54), (20, 32), (8, 16))  # repaired, of all
WON = (2, 3, 4, 4, 3, 5, 2, 2, 3, 3)


def counts(n: int, lost: int = 0, won: int = 0, right: float = 0.9) -> PairedCounts:
    """n images, of which the champion has the share `right`; `lost` and `won` by the challenger."""
    both = round(n * right) - lost
    return PairedCounts(both, lost, won, n - both - lost - won)


def good_evidence(**changes: Any) -> Evidence:
    """Evidence that passes every check at the defaults, but for what is changed."""
    made = Evidence(
        clean=counts(10_000, 20, 15),
        clean_by_class={"cat": counts(5000, 12, 5), "dog": counts(5000, 8, 10)},
        heldout_repaired=230,
        heldout_total=300,
        parity=ParityCounts(10_300, 0, 3e-6),
        heldout_by_cluster={"0": RepairCounts(130, 150), "1": RepairCounts(100, 150)},
        slices=(Slice("source", "cam 1", RepairCounts(230, 300)), Slice("site", "north", counts(5000, 12, 5))),
        corruptions={"noise": counts(1000, 20, 15), "blur": counts(1000, 3, 4)},
        calibration=Calibration((ConfidenceBin(0.9, 1.0, 100, 95, 0.97),), (ConfidenceBin(0.9, 1.0, 100, 94, 0.97),)),
        onnx_accuracy=OnnxAccuracy(counts(10_000, 20, 15)),
        routing=Routing(RoutedCounts(40, 10_000), RoutedCounts(280, 300)),
        latency=(LatencyFigures(1, 2.0, 2.5, 2.1, 2.6), LatencyFigures(32, 9.0, 9.5, 9.1, 9.6)),
        heldout=counts(300, 4, 2, 232 / 300),
        field_rows=FieldCounts(900, 100, 880, 3, RepairCounts(18, 30)),
        earlier=counts(210, 2, 3, 0.6),
    )
    return replace(made, **changes)


def page_evidence(more_lost: int = 0, parity: ParityCounts = PARITY) -> Evidence:
    """10,000 clean images of ten classes; `more_lost` further negative flips in each class."""
    by_class = {
        name: PairedCounts(940 - 4 * i - more_lost, lost + more_lost, won, 60 + 4 * i - lost - won)
        for i, (name, lost, won) in enumerate(zip(CLASSES, LOST, WON, strict=True))
    }
    values = list(by_class.values())
    total = PairedCounts(
        *(sum(getattr(c, k) for c in values) for k in ("both_right", "champion_only", "challenger_only", "both_wrong"))
    )
    return Evidence(
        total,
        by_class,
        231,
        300,
        parity,
        latency=(LatencyFigures(1, 1.91, 2.4, 1.93, 2.52), LatencyFigures(32, 21.3, 24.0, 21.8, 25.9)),
        heldout_by_cluster={str(i): RepairCounts(right, n) for i, (right, n) in enumerate(CLUSTERS)},
        slices=(
            Slice("source", "camera 7", RepairCounts(149, 181)),
            Slice("source", "camera 8", RepairCounts(82, 119)),
            Slice("site", "north", PairedCounts(1830, 9, 6, 155)),
            Slice("site", "south", PairedCounts(7390, 28, 25, 557)),
        ),
        corruptions={
            "gaussian_noise": PairedCounts(610, 24, 71, 295),
            "motion_blur": PairedCounts(702, 31, 29, 238),
            "fog": PairedCounts(731, 12, 40, 217),
            "jpeg_compression": PairedCounts(744, 38, 14, 204),
        },
        calibration=Calibration(reliability(0.03), reliability(0.02)),
        onnx_accuracy=OnnxAccuracy(total),
    )


def reliability(excess: float) -> tuple[ConfidenceBin, ...]:
    """Ten bins, in each of which the mean confidence is above the accuracy by `excess`."""
    return tuple(
        ConfidenceBin(i / 10, (i + 1) / 10, 100 * i, round(100 * i * (i + 0.5) / 10), (i + 0.5) / 10 + excess)
        for i in range(10)
    )


def paired(draw: np.random.Generator, most: int = 2000) -> PairedCounts:
    n = int(draw.integers(0, most))
    return PairedCounts(*draw.multinomial(n, draw.dirichlet([20, 0.4, 0.4, 2])).tolist())


def repaired(draw: np.random.Generator) -> RepairCounts:
    total = int(draw.integers(0, 200))
    return RepairCounts(int(draw.integers(0, total + 1)), total)


def field_counts(draw: np.random.Generator) -> FieldCounts:
    """Perhaps without a field row, a failure, or one that was held out."""
    right, failed = draw.integers(0, 400, 2).tolist() if draw.integers(0, 4) else (0, 0)
    judged, held = int(draw.integers(0, right + 1)), int(draw.integers(0, failed + 1))
    broken, repaired = int(draw.integers(0, judged + 1)) // 10, int(draw.integers(0, held + 1))
    return FieldCounts(right, failed, judged, broken, RepairCounts(repaired, held))


def bins(draw: np.random.Generator) -> tuple[ConfidenceBin, ...]:
    found = []
    for low in (0.0, 0.5):
        n = int(draw.integers(0, 50))
        mean = float(draw.uniform(low, low + 0.5)) if n else 0.0
        found.append(ConfidenceBin(low, low + 0.5, n, int(draw.integers(0, n + 1)), mean))
    return tuple(found)


def random_evidence(draw: np.random.Generator) -> Evidence:
    """Counts of all kinds: empty sets, no ONNX file, outputs that are not finite, nothing measured."""
    heldout, differences = repaired(draw), [1e-6, 1e-2, float("nan"), float("inf")]
    parity = ParityCounts(int(draw.integers(0, 3)) * 50, int(draw.integers(0, 2)), float(draw.choice(differences)))
    times = [LatencyFigures(size, *draw.uniform(0, 3, 4).tolist()) for size in (1, 32)[: int(draw.integers(0, 3))]]
    some = bool(draw.integers(0, 2))
    return Evidence(
        clean=paired(draw),
        clean_by_class={name: paired(draw, 300) for name in ("cat", "dog", "café")[: int(draw.integers(0, 4))]},
        heldout_repaired=heldout.repaired,
        heldout_total=heldout.total,
        parity=parity if draw.integers(0, 4) else ParityCounts(reason="no function for eigh"),
        latency=tuple(times),
        champion_finite=bool(draw.integers(0, 8)),
        challenger_finite=bool(draw.integers(0, 8)),
        heldout_by_cluster={str(number): repaired(draw) for number in range(int(draw.integers(0, 4)))},
        slices=(Slice("source", "cam 1", repaired(draw)), Slice("site", "north", paired(draw, 300))) if some else (),
        corruptions={"noise": paired(draw, 300)} if draw.integers(0, 2) else {},
        calibration=Calibration(bins(draw), bins(draw)) if draw.integers(0, 2) else None,
        onnx_accuracy=OnnxAccuracy(paired(draw)) if draw.integers(0, 2) else None,
        heldout=paired(draw, 200) if draw.integers(0, 4) == 0 else None,
        field_rows=field_counts(draw) if draw.integers(0, 3) == 0 else None,
    )
