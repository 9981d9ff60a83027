"""The report's tables as rows of texts, and as Markdown and CSV, beside the paper's own figures. No torch."""

from __future__ import annotations

import csv
import importlib.resources
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from repairops.bench import summary as s
from repairops.bench.summary import Record

Published = dict[tuple[str, str], dict[str, float]]  # the paper's: (network, row) to corruption or 'mean' to figure


def failure_counts() -> dict[str, dict[str, int]]:
    """Table III: corruption to network to failures at all five severities of 10,000 images."""
    rows = _published_rows("table3_failure_counts.csv")
    return {row.pop("corruption"): {k: int(v) for k, v in row.items()} for row in rows}


def residual_accuracy() -> Published:
    """Table IV: accuracy on residual failures by network and method, in percent."""
    return _published_table("table4_residual_failure_accuracy.csv", "method")


def clustering_ablation() -> Published:
    """Table V: the same with and without clusters."""
    return _published_table("table5_clustering_ablation.csv", "variant")


def _published_table(name: str, key: str) -> Published:
    return {(row.pop("network"), row.pop(key)): {k: float(v) for k, v in row.items()} for row in _published_rows(name)}


def _published_rows(name: str) -> list[dict[str, str]]:
    file = importlib.resources.files("repairops.bench") / "published" / name
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


CORRUPTIONS = tuple(failure_counts())  # the paper's order


@dataclass(frozen=True)
class Table:
    """name: of its file. text: what a reader must know, below the title."""

    name: str
    title: str
    text: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"### {self.title}\n\n{self.text}\n\n{body}\n"

    def csv(self) -> str:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([self.columns, *self.rows])
        return out.getvalue()


def tables(records: Sequence[Record]) -> list[Table]:
    """All that the records allow, group by group (see `summary.groups`)."""
    found: list[Table] = []
    for network, own in s.groups(records).items():
        found += [overview(network, own), *clean_kept(network, own), *guarded(network, own), failures(network, own)]
        found += [residuals(network, own, "residual")]
        found += [residuals(network, own, "disjoint"), *ablation(network, own)]
    return found


def overview(network: str, records: Sequence[Record]) -> Table:
    """One row a rival: means over the corruptions that it has cells for; those that lack some come last, and say so."""
    rows = [
        (
            *_standing(name, own, ceiling),
            str(s.over_seeds(own, s.clean_after, s.clean_images)),
            *_clean_and_corrupted(own),
            _number(_mean(own, s.on_batch)),
            _number(_mean(own, s.others_gain)),
            f"{median(r['costs']['cpu_seconds'] for r in own):.0f}",
            f"{max(r['costs']['peak_memory_mb'] for r in own):.0f}",
            str(sum(bool(r["figures"]["training"]) and not r["figures"]["training"]["best_epoch"] for r in own)),
            f"{len(own)}",
        )
        for name, own, ceiling in _rivals(records, len(s.distinct(records, "corruption")))
    ]
    columns = (
        "rival", "residual", "disjoint", "of oracle", "clean", "change", "negative flips", "corrupted", "on batch",
        "others", "CPU s", "MB", "kept champion", "cells",
    )  # fmt: skip
    text = (
        "Accuracy in percent, mean over corruptions ± half a 95% interval (over seeds, or over images where there are "
        "one or two). residual: failures that guided nothing; disjoint: those of them whose photo guided nothing "
        "either, at no severity; of oracle: disjoint as a share of the oracle's, on the same corruptions; change: "
        "of clean accuracy in points; corrupted: all images under the corruption; on batch: the repair failures "
        "themselves; others: points gained on the other corruptions; kept champion: cells in which no epoch was "
        "chosen. Sorted by disjoint."
    )
    return Table(f"overview-{network}", f"{network}: all rivals", text, columns, tuple(sorted(rows, key=_place)))


def clean_kept(network: str, records: Sequence[Record]) -> list[Table]:
    """The rivals where each may lose no more clean accuracy than a repair may: what they are worth to a user."""
    rows = [
        (*_standing(name, own, ceiling), *_clean_and_corrupted(own), f"{_mean(own, s.weight):.0f}%", f"{len(own)}")
        for name, own, ceiling in _rivals(s.kept(records), len(s.distinct(records, "corruption")))
    ]
    columns = ("rival", "residual", "disjoint", "of oracle", "change", "negative flips", "corrupted", "weight", "cells")
    text = (
        "As above, with the weights between the champion and the fine-tuned network that repair most among those that "
        "lose at most what a repair may lose (training.max_clean_drop) on clean photos set aside for that choice. "
        "weight: how far these lie from the champion. Sorted by disjoint."
    )
    title = f"{network}: all rivals, clean accuracy kept"
    return [Table(f"kept-{network}", title, text, columns, tuple(sorted(rows, key=_place)))] if rows else []


def guarded(network: str, records: Sequence[Record]) -> list[Table]:
    """The rivals behind their guards."""
    rows = [
        (
            *_standing(name, own, ceiling),
            *_clean_and_corrupted(own),
            _number(_mean(own, s.changed)),
            _number(_mean(own, s.routed)),
            f"{_mean(own, s.separation):.3f}",
            f"{len(own)}",
        )
        for name, own, ceiling in _rivals(s.guarded(records), len(s.distinct(records, "corruption")))
    ]
    columns = (
        "rival", "residual", "disjoint", "of oracle", "change", "negative flips", "corrupted", "changed", "routed",
        "AUC", "cells",
    )  # fmt: skip
    text = (
        "As above, the fine-tuned network beside the champion behind a guard (guard.mode=on), whose limits are chosen "
        "on clean photos set aside for that and on validation failures. changed: clean decisions that are others now; "
        "routed: clean images that the repaired network answers; AUC: how well the guard tells these photos from "
        "validation failures. Cells in which no guarded form kept clean accuracy are left out. Sorted by disjoint."
    )
    title = f"{network}: all rivals behind their guards"
    return [Table(f"guarded-{network}", title, text, columns, tuple(sorted(rows, key=_place)))] if rows else []


def _rivals(records: Sequence[Record], corruptions: int) -> Iterator[tuple[str, list[Record], dict[str, float]]]:
    """Each rival's name, its records, and the oracle's means; the name says where it lacks some of the corruptions."""
    ceiling = _means(s.select(records, rival="oracle"), s.disjoint)
    for name in s.distinct(records, "rival"):
        own = s.select(records, rival=name)
        measured = len(s.distinct(own, "corruption"))
        lacking = "" if measured == corruptions else f" ({measured} of {corruptions} corruptions)"
        yield name + lacking, own, ceiling


def _standing(name: str, own: Sequence[Record], ceiling: dict[str, float]) -> tuple[str, str, str, str]:
    return (
        name,
        str(s.over_seeds(own, s.residual, s.residual_images)),
        str(s.over_seeds(own, s.disjoint, s.disjoint_images)),
        _share_of_ceiling(own, ceiling),
    )


def _clean_and_corrupted(own: Sequence[Record]) -> tuple[str, str, str]:
    return (
        f"{_mean(own, s.clean_change):+.1f}",
        _number(_mean(own, s.negative_flips)),
        _number(_mean(own, s.corrupted_after)),
    )


def _place(row: Sequence[str]) -> tuple[bool, float]:
    """Whole rows first, then the higher disjoint accuracy."""
    return "(" in row[0], -float(row[2].split(" ")[0]) if row[2] != "-" else 0.0


def failures(network: str, records: Sequence[Record]) -> Table:
    """Table III, with the champion's accuracy."""
    published = failure_counts()
    rows = []
    for name in s.distinct(records, "corruption", CORRUPTIONS):
        record = s.select(records, corruption=name)[0]
        accuracy = record["figures"]["champion_accuracy_by_severity"]
        rows.append(
            (
                name,
                str(record["figures"]["failures"]),
                *(f"{100 * a:.1f}" for a in accuracy),
                str(published.get(name, {}).get(record["cell"]["network"], "-")),
            )
        )
    columns = ("corruption", "failures", *(f"severity {k}" for k in range(1, 6)), "paper: failures")
    text = f"Champion: {s.clean_before(records[0]):.1f}% on the clean set; its accuracy under each corruption, percent."
    return Table(
        f"table3-{network}", f"{network}: failures before repair (Table III, Fig. 3)", text, columns, tuple(rows)
    )


def residuals(network: str, records: Sequence[Record], which: str) -> Table:
    """Table IV: a row a rival, a column a corruption; on all residual failures or on the photo-disjoint ones."""
    measure = s.residual if which == "residual" else s.disjoint
    corruptions, subject = s.distinct(records, "corruption", CORRUPTIONS), records[0]["cell"]["network"]
    rows = []
    for name in s.distinct(records, "rival"):
        own = s.select(records, rival=name)
        cells = [s.select(own, corruption=c) for c in corruptions]
        mean = _number(_mean(own, measure)) if all(cells) else "-"
        rows.append((name, *(_number(_mean(cell, measure)) for cell in cells), mean))
    published = [(row, figures) for (net, row), figures in residual_accuracy().items() if net == subject]
    if which == "residual":
        for row, figures in published:
            rows.append((f"paper: {row}", *_published(figures, corruptions)))
    kind = "all residual failures" if which == "residual" else "photo-disjoint residual failures"
    text = f"Accuracy on {kind}, percent. The mean is over the corruptions shown."
    columns = ("rival", *corruptions, "mean")
    return Table(f"table4-{which}-{network}", f"{network}: {kind} (Table IV)", text, columns, tuple(rows))


def ablation(network: str, records: Sequence[Record]) -> list[Table]:
    """Table V where both variants were run."""
    variants = {"cluster": "style_guided", "no_cluster": "style_guided_no_clusters"}
    corruptions = s.distinct(records, "corruption", CORRUPTIONS)
    if not all(s.select(records, rival=rival) for rival in variants.values()):
        return []
    rows = []
    for variant, rival in variants.items():
        own = s.select(records, rival=rival)
        cells = [_number(_mean(s.select(own, corruption=c), s.residual)) for c in corruptions]
        rows.append((rival, *cells, _number(_mean(own, s.residual))))
        figures = clustering_ablation().get((records[0]["cell"]["network"], variant))
        if figures:
            rows.append((f"paper: {variant}", *_published(figures, corruptions)))
    text = "Accuracy on all residual failures, percent."
    title = f"{network}: with and without clusters (Table V)"
    return [Table(f"table5-{network}", title, text, ("variant", *corruptions, "mean"), tuple(rows))]


def _published(figures: Mapping[str, float], corruptions: Sequence[str]) -> list[str]:
    """The paper's figures for these corruptions, and their mean."""
    own = [figures[c] for c in corruptions]
    return [_number(value) for value in [*own, fmean(own)]]


def _means(records: Sequence[Record], measure: s.Measure) -> dict[str, float]:
    return {c: _mean(s.select(records, corruption=c), measure) for c in s.distinct(records, "corruption")}


def _share_of_ceiling(records: Sequence[Record], ceiling: dict[str, float]) -> str:
    own = {c: m for c, m in _means(records, s.disjoint).items() if c in ceiling}
    if not own:
        return "-"
    return f"{100 * fmean(own.values()) / fmean(ceiling[c] for c in own):.0f}%"


def _mean(records: Sequence[Record], measure: s.Measure) -> float:
    values = [measure(r) for r in records]
    return fmean(values) if values else float("nan")


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.1f}"
