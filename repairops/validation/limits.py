"""What validation knows of a whole failure batch, as figures with limits. Great Expectations compares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from repairops.config import ValidationConfig
from repairops.data.records import FailureBatch
from repairops.validation.facts import BENIGN, ROW_RULES, RowFacts

CLEAN_OVERLAP_SHARE = 0.01  # of the different images in a batch; one is always forgiven: black frames happen


@dataclass(frozen=True)
class BatchLimit:
    """A figure of the whole batch and its limit (`least` or `most`), with the sentence for when it is broken."""

    rule: str
    value: float
    sentence: str
    least: float | None = None
    most: float | None = None


def batch_limits(
    facts: RowFacts, breaks: np.ndarray, accepted: FailureBatch | None, config: ValidationConfig
) -> list[BatchLimit]:
    """The figures that the whole batch is judged by.

    breaks: bool (N, rules) in the order of `ROW_RULES`. Rows that are only stale or duplicate are no defects and are
    left out of the quarantined share altogether. The source rule applies where two or more sources are named.
    Images of the clean and the validation set are quarantined row by row; more than one of them, and more than 1% of
    the batch's different images, also fails the batch: what logs the failures then reads the data that judges.
    """
    rules = list(ROW_RULES)
    labels = accepted.images.labels if accepted else np.empty(0, dtype=np.int64)
    sources = accepted.sources[accepted.sources != ""] if accepted else np.empty(0, dtype=np.str_)
    quarantined = breaks.any(axis=1)
    benign = quarantined & ~np.delete(breaks, [rules.index(rule) for rule in BENIGN], axis=1).any(axis=1)
    judged, defects = int((~benign).sum()), int((quarantined & ~benign).sum())
    left, classes = len(labels), len(np.unique(labels))
    least = max(1, config.min_rows)
    limits = [
        BatchLimit("min_rows", left, f"{left} failures are left after quarantine, the minimum is {least}", least),
        BatchLimit(
            "min_classes",
            classes,
            f"the failures left are of {classes} classes, the minimum is {config.min_classes}",
            config.min_classes,
        ),
        _share(
            "max_quarantined_share",
            f"of {judged} rows (stale and duplicate ones not counted) {defects} were quarantined",
            defects,
            judged,
            config.max_quarantined_share,
        ),
    ]
    if left:
        name, count = _most_frequent([accepted.images.class_names[i] for i in labels] if accepted else [])
        fact = f"{count} of {left} failures left are of the class {name!r}"
        limits.append(_share("max_class_share", fact, count, left, config.max_class_share))
    if len(sources) and len(set(facts.sources.tolist()) - {""}) > 1:
        name, count = _most_frequent(sources.tolist())
        fact = f"{count} of {left} failures left come from the source {name!r}"
        limits.append(_share("max_source_share", fact, count, left, config.max_source_share))
    overlaps = breaks[:, rules.index("in_clean_set")] | breaks[:, rules.index("in_validation_set")]
    return [*limits, _clean_overlap(facts.ids, overlaps)]


def _share(rule: str, fact: str, count: int, total: int, most: float) -> BatchLimit:
    share = count / total if total else 0.0
    return BatchLimit(rule, share, f"{fact} ({share:.1%}), the limit is {most:.1%}", most=most)


def _most_frequent(names: Sequence[str]) -> tuple[str, int]:
    values, counts = np.unique(names, return_counts=True)
    return str(values[counts.argmax()]), int(counts.max())


def _clean_overlap(ids: np.ndarray, overlaps: np.ndarray) -> BatchLimit:
    different = len(set(ids.tolist()) - {""})
    found = len(set(ids[overlaps].tolist()))
    most = max(1, int(CLEAN_OVERLAP_SHARE * different))
    sentence = f"{found} of {different} different images are in the clean or validation set, the limit is {most}"
    return BatchLimit("clean_set_overlap", found, sentence, most=most)
