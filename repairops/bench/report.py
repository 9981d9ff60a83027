"""`repairops bench report`: records of cells to one page, CSV files, plots and JSON lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from repairops.bench.grid import Grid
from repairops.bench.plots import plot_standings, plots
from repairops.bench.standing import standing_table, standings
from repairops.bench.summary import Record, place
from repairops.bench.tables import Table, tables
from repairops.errors import NoBenchmarkResults


def read_records(source: Path) -> tuple[list[Record], list[Record]]:
    """(cells that are done, cells that failed) of a grid's folder, or of a file of JSON lines (no failed ones)."""
    if source.is_file():
        lines = source.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line], []
    grid = Grid(source)
    return grid.records(), grid.records("error")


def write_report(source: Path, folder: Path) -> tuple[Path, list[Table]]:
    """Writes results.jsonl, report.md, a CSV file for each table and the plots. Returns the page and its tables.

    Raises NoBenchmarkResults.
    """
    records, failed = read_records(source)
    if not records:
        raise NoBenchmarkResults(source)
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "results.jsonl").write_text(lines, encoding="utf-8")
    stand = standings(records)
    found = ([standing_table(stand)] if stand else []) + tables(records)
    for table in found:
        (folder / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
    pictures = plots(records, folder)
    if stand:
        pictures.insert(0, plot_standings(stand, folder / "standings.png"))
    parts = ["# Benchmark\n", provenance(records), *(table.markdown() for table in found)]
    parts += [f"![{picture.stem}]({picture.name})\n" for picture in pictures]
    if failed:
        parts.append("## Cells that failed\n\n" + "".join(f"- {place(r)}: {r['error']}\n" for r in failed))
    page = folder / "report.md"
    page.write_text("\n".join(parts), encoding="utf-8")
    return page, found


def provenance(records: Sequence[Record]) -> str:
    """How many cells, of which data, code and machines; the budgets."""
    cells = [record["cell"] for record in records]
    summary = (
        f"{len(records)} cells; seeds {_listed(c['seed'] for c in cells)}; budget "
        f"{_listed(c['budget_steps'] for c in cells)} steps of plain fine-tuning; failure batch "
        f"{_listed(c['failure_batch'] for c in cells)}; repairops {_listed(c['version'] for c in cells)}, commit "
        f"{_listed(r['environment']['commit'] or 'unknown' for r in records)}; torch "
        f"{_listed(r['environment']['torch'] for r in records)}."
    )
    machines = Counter(
        f"{e['machine']}, {e['device']}, {e['threads']} thread(s) a process"
        for record in records
        for e in [record["environment"]]
    )
    return "\n".join([summary, "", *(f"- {count} cells on {machine}" for machine, count in machines.items()), ""])


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(v) for v in dict.fromkeys(values))
