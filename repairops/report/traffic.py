"""The field's traffic: what fails of it, accuracy before and after, and what broke, where a sample of it was logged."""

from __future__ import annotations

from typing import NamedTuple

from repairops.config import GateConfig
from repairops.gate.evidence import FieldCounts
from repairops.outcome import Record
from repairops.report.formats import DASH, count, of, percent, ratio, signed


class Said(NamedTuple):
    """A figure of the traffic in words, with its interval ('' where it has none) and what it was counted on."""

    what: str
    value: str
    interval: str
    counted: str


def sample(record: Record) -> FieldCounts | None:
    found = record.evidence.field_rows if record.evidence else None
    return found if found and found.consistent else None


def figures(record: Record) -> list[Said]:
    """Rows of the page's table; none without a sample."""
    from repairops.gate.field import field_accuracy

    if not (counts := sample(record)):
        return []
    found = field_accuracy(counts, (record.policy or GateConfig()).confidence)
    whole, held = counts.right + counts.failed, counts.heldout
    labelled = f"{count(whole)} labelled images of the traffic"
    weighed = f"{count(counts.judged)} field rows, {count(held.total)} held-out failures of the sample, by their shares"
    rows = [
        Said("Fails", percent(found.failing.value), _between(found.failing), labelled),
        Said("Accuracy before", percent(found.before.value, 2), _between(found.before), labelled),
        Said("Accuracy after", percent(found.after.value, 2), _between(found.after), weighed),
        Said("Change, points", _points(found.change.value), _points(*found.change[1:]), weighed),
        Said(
            "Right answers that broke",
            percent(ratio(counts.broken, counts.judged), 2),
            "",
            f"{of(counts.broken, counts.judged)} field rows",
        ),
    ]
    routing = record.evidence.routing if record.evidence else None
    if routing and (routed := routing.field_rows):
        share = percent(ratio(routed.routed, routed.total), 2)
        rows.append(
            Said("Answered by the repaired network", share, "", f"{of(routed.routed, routed.total)} field rows")
        )
    return rows


def note(record: Record) -> str:
    """What a reader must know of the figures, in one or two sentences."""
    if not (counts := sample(record)):
        return ""
    apart = counts.right - counts.judged
    left = f" {count(apart)} of them share a scene with a failure that has, and do not judge." if apart else ""
    return (
        f"{count(counts.right)} labelled images of the traffic are field rows: the champion has them right, and none "
        f"has trained or chosen.{left}"
    )


def before_after(record: Record) -> list[tuple[str, str, str, str]]:
    """Rows (what, champion, challenger, change), as `statements.before_after`."""
    if not (counts := sample(record)):
        return []
    _, before, after, change, broke, *_ = figures(record)
    whole = count(counts.right + counts.failed)
    moved = f"{change.value} points, {change.interval}"
    return [
        (f"Accuracy on field traffic (n = {whole})", before.value, after.value, moved),
        ("Right answers in the field that broke", DASH, of(counts.broken, counts.judged), broke.value),
    ]


def _between(estimate: tuple[float | None, float, float], digits: int = 1) -> str:
    return f"{percent(estimate[1], digits)} to {percent(estimate[2], digits)}"


def _points(*shares: float | None) -> str:
    return " to ".join(signed(None if share is None else 100 * share) for share in shares)
