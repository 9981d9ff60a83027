"""Damage in one of many parts: classes, slices, corruptions. Asks for proof of harm, not of harmlessness.

Proof that each of many small parts is unharmed would take thousands of images in each.
"""

from __future__ import annotations

from typing import Any

from repairops.errors import listing
from repairops.gate.evidence import PairedCounts, Result
from repairops.gate.exact import exact_p_value
from repairops.gate.phrases import as_share, difference_points, one_sentence, signed_points
from repairops.gate.statistics import holm


def fall_row(name: str, counts: PairedCounts, margin_points: float) -> dict[str, Any]:
    """One part's figures. p_value: of a fall beyond the margin, one-sided and exact; None without images."""
    row: dict[str, Any] = {"name": name, "n": counts.n, "champion": None, "challenger": None}
    if not counts.n:
        return row | {"difference_points": None, "p_value": None}
    return row | {
        "champion": counts.champion_right / counts.n,
        "challenger": counts.challenger_right / counts.n,
        "difference_points": difference_points(counts),
        "p_value": exact_p_value(counts.champion_only, counts.challenger_only, counts.n, as_share(margin_points)),
    }


def damage(
    rows: list[dict[str, Any]], margin: float, confidence: float, measure: str, part: str, absent_words: str
) -> tuple[Result, str]:
    """The answer over all parts; the rows' p-values become Holm's.

    FAIL where a part falls significantly beyond the margin (percentage points); INCONCLUSIVE where one falls beyond it
    on too few images to be sure, or has no images, or there is no part at all.
    """
    if fallen := proven(rows, confidence):
        return "FAIL", f"{measure.capitalize()} falls by more than the {margin:g} points allowed in {told(fallen)}."
    present, unsure = [row for row in rows if row["n"]], beyond(rows, margin)
    absent = [row["name"] for row in rows if not row["n"]]
    reasons = []
    if unsure:
        reasons.append(
            f"{measure} falls by more than {margin:g} points in {told(unsure)}, on too few images to be sure"
        )
    if absent or not rows:
        reasons.append(f"{absent_words} {listing(absent, 5) if rows else f'any {part}'}")
    if reasons:
        return "INCONCLUSIVE", one_sentence(reasons)
    lowest = min(present, key=lambda row: row["difference_points"])
    largest = f"the largest fall is {told([lowest])}" if lowest["difference_points"] < 0 else "none falls at all"
    return "PASS", f"No {part} loses more than {margin:g} points of {measure}; {largest}."


def proven(rows: list[dict[str, Any]], confidence: float) -> list[dict[str, Any]]:
    """The parts that fall significantly beyond the margin; the rows' p-values become Holm's over all parts."""
    present = [row for row in rows if row["n"]]
    for row, adjusted in zip(present, holm([row["p_value"] for row in present]), strict=True):
        row["p_value"] = adjusted
    return [row for row in present if row["p_value"] <= 1 - confidence]


def beyond(rows: list[dict[str, Any]], margin: float) -> list[dict[str, Any]]:
    """The parts whose fall is seen to be beyond the margin (percentage points), proven or not."""
    return [row for row in rows if row["n"] and row["difference_points"] < -margin - 1e-9]


def told(rows: list[dict[str, Any]]) -> str:
    ordered = sorted(rows, key=lambda row: row["difference_points"])
    return listing(
        [f"{row['name']} ({signed_points(row['difference_points'])} of {row['n']:,} images)" for row in ordered], 5
    )
