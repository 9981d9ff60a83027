"""The ONNX form that is served: the same decisions, no worse than the champion's, and no slower."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from repairops.config import GateConfig
from repairops.gate.accuracy import against_margin
from repairops.gate.evidence import Evidence, LatencyFigures
from repairops.gate.phrases import Ruling, allowed, can_be, goes


def check_onnx_parity(evidence: Evidence, policy: GateConfig) -> Ruling:
    """PASS where PyTorch and ONNX Runtime decide alike, with outputs within the tolerance."""
    parity, limit = evidence.parity, policy.parity_tolerance
    figures = asdict(parity) | {"tolerance": limit}
    del figures["reason"]
    if parity.reason:
        return "FAIL", f"The challenger has no usable ONNX form: {parity.reason.rstrip('.')}.", figures
    if parity.n == 0:
        return "INCONCLUSIVE", "PyTorch and ONNX Runtime were compared on no image.", figures
    if not math.isfinite(parity.max_difference):
        return "FAIL", "The outputs of PyTorch or ONNX Runtime hold NaN or infinity.", figures
    if parity.decisions_differ or parity.max_difference > limit:
        decisions = f"decide differently on {parity.decisions_differ:,} of {parity.n:,} images"
        outputs = f"their outputs differ by up to {parity.max_difference:.2g}, and {limit:.2g} is allowed"
        return "FAIL", f"PyTorch and ONNX Runtime {decisions}; {outputs}.", figures
    alike = f"PyTorch and ONNX Runtime decide alike on all {parity.n:,} images"
    return "PASS", f"{alike}; their outputs differ by at most {parity.max_difference:.2g}.", figures


def check_onnx_accuracy(evidence: Evidence, policy: GateConfig) -> Ruling:
    """Clean non-regression once more, on the files that are served: both networks under ONNX Runtime."""
    figures: dict[str, Any] = {"n": 0, "margin_points": policy.margin_points, "confidence": policy.confidence}
    if evidence.onnx_accuracy is None or not evidence.onnx_accuracy.counts.n:
        return "INCONCLUSIVE", "Champion and challenger were not compared under ONNX Runtime.", figures
    counts = evidence.onnx_accuracy.counts
    result, found = against_margin(counts, policy.margin_points, policy.confidence)
    changed = f"Under ONNX Runtime clean accuracy {goes(counts)}; {can_be(found)}"
    return result, f"{changed}, and {allowed(policy.margin_points)}.", figures | {"n": counts.n} | found


def check_latency(evidence: Evidence, policy: GateConfig) -> Ruling:
    """The median at every batch size against the champion's; the 99th percentile is shown, a busy machine makes it."""
    limit = policy.max_latency_ratio
    rows = [_latency_row(measured) for measured in evidence.latency]
    slowest = max(rows, key=lambda row: row["ratio"] or 0.0, default=None)
    figures: dict[str, Any] = {"batches": rows, "ratio": None, "max_ratio": limit}
    if slowest is None or any(row["ratio"] is None for row in rows):
        return "INCONCLUSIVE", "The latency was not measured.", figures
    ratio = figures["ratio"] = slowest["ratio"]
    what = "One inference" if slowest["batch_size"] == 1 else f"A batch of {slowest['batch_size']}"
    took = (
        f"{what} takes {slowest['challenger_median_ms']:.3g} ms under ONNX Runtime, {ratio:.2f} times the champion's "
        f"{slowest['champion_median_ms']:.3g} ms"
    )
    return ("PASS" if ratio <= limit else "FAIL"), f"{took}; at most {limit:g} times is allowed.", figures


def _latency_row(measured: LatencyFigures) -> dict[str, Any]:
    before, after = measured.champion_median_ms, measured.challenger_median_ms
    usable = 0 < before < math.inf and 0 < after < math.inf
    row = asdict(measured) | {"ratio": after / before if usable else None}
    del row["runs"]
    return row
