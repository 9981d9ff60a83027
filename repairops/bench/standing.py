"""Where the rivals stand: what each repairs, and what that costs of clean accuracy, by the form that is served."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from repairops.bench import summary as s
from repairops.bench.summary import Mean, Record
from repairops.bench.tables import Table

# A form that is served -> the records with its figures, of the records that have it.
FORMS: dict[str, Callable[[Sequence[Record]], list[Record]]] = {
    "fine-tuned": list,
    "on the line": s.kept,
    "guarded": s.guarded,
}


@dataclass(frozen=True)
class Standing:
    """A rival in one form, over cells that every rival of its group has.

    failures: size of the batch. repaired: photo-disjoint residual failures, percent. change: of clean accuracy in
    points; worst: of a single cell. changed: clean decisions, percent. images: that judge, failures and clean ones, in
    a cell on average.
    """

    group: str
    failures: int
    rival: str
    form: str
    repaired: Mean
    change: Mean
    worst: float
    changed: float
    cells: int
    images: tuple[int, int]


def standings(records: Sequence[Record]) -> list[Standing]:
    """Group by group (see `summary.groups`) every rival that was trained, in each form; most repaired first."""
    found = []
    for group, own in s.groups(records).items():
        trained = [record for record in own if record["figures"].get("kept")]
        by_rival = {name: s.select(trained, rival=name) for name in s.distinct(trained, "rival")}
        shared = set.intersection(*({_cell(r) for r in cells} for cells in by_rival.values())) if by_rival else set()
        of_group = [
            _standing(group, name, form, part)
            for name, cells in by_rival.items()
            for form, figures in FORMS.items()
            if (part := [r for r in figures(cells) if _cell(r) in shared])
        ]
        found += sorted(of_group, key=lambda standing: (list(FORMS).index(standing.form), -standing.repaired.mean))
    return found


def standing_table(found: Sequence[Standing]) -> Table:
    columns = (
        "network", "failures", "form", "rival", "repaired", "clean change", "worst cell", "changed", "cells", "seeds",
        "images",
    )  # fmt: skip
    rows = tuple(
        (
            one.group, f"{one.failures:,}", one.form, f"`{one.rival}`", str(one.repaired),
            f"{one.change.mean:+.2f} ± {one.change.half:.2f}", f"{one.worst:+.2f}", f"{one.changed:.1f}%",
            str(one.cells), str(one.repaired.seeds), " + ".join(f"{n:,}" for n in one.images),
        )
        for one in found
    )  # fmt: skip
    text = (
        "repaired: photo-disjoint residual failures that are right, percent; clean change: points; both as a mean over "
        "corruptions and seeds ± half a 95% interval (over seeds, or over images where there are one or two). worst "
        "cell: the largest clean loss of one cell; changed: clean decisions; images: failures and clean photos that "
        "judge a cell. Means are over the cells that every rival of the network has."
    )
    return Table("standings", "What is repaired, and what it costs", text, columns, rows)


def _cell(record: Record) -> tuple[str, int]:
    return record["cell"]["corruption"], record["cell"]["seed"]


def _standing(group: str, rival: str, form: str, records: Sequence[Record]) -> Standing:
    changes = [s.clean_change(record) for record in records]
    judging = [(s.disjoint_images(record), s.clean_images(record)) for record in records]
    failures = records[0]["cell"]["failure_batch"]
    return Standing(
        group=group.removesuffix(f"-{failures}-failures"),  # which has a column of its own
        failures=failures,
        rival=rival,
        form=form,
        repaired=s.over_seeds(records, s.disjoint, s.disjoint_images),
        change=s.change_over_seeds(records),
        worst=min(changes),
        changed=sum(map(s.changed, records)) / len(records),
        cells=len(records),
        images=(sum(n for n, _ in judging) // len(judging), sum(n for _, n in judging) // len(judging)),
    )
