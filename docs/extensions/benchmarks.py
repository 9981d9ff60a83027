"""The measured parts of the docs, from the JSON lines of docs/benchmarks.

`python docs/extensions/benchmarks.py` renews the table and the chart of docs/benchmarks.md, of all files together. As a
hook of mkdocs this makes a page of each file's tables, with their plots; these pages are not kept.
"""

from __future__ import annotations

import re
import sys
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

from repairops.bench.plots import plot_standings
from repairops.bench.report import read_records, write_report
from repairops.bench.standing import Standing, standing_table, standings

DOCS = Path(__file__).parents[1]
PAGE, FOLDER = DOCS / "benchmarks.md", DOCS / "benchmarks"
CHART = FOLDER / "standings.png"
PART = re.compile(r"(<!-- measured -->\n).*?(<!-- end -->)", re.DOTALL)


def sources() -> list[Path]:
    return sorted(FOLDER.glob("*.jsonl"))


def all_standings() -> list[Standing]:
    """Of all files, each with the same networks, budget and number of failures."""
    return list(chain.from_iterable(standings(read_records(source)[0]) for source in sources()))


def rendered(text: str) -> str:
    """The page's text with its measured part renewed."""
    table = standing_table(all_standings()).markdown().split("\n", 2)[2]  # without its title
    return PART.sub(lambda match: f"{match[1]}\n{table}\n{match[2]}", text)


def on_files(files: Any, config: Any) -> Any:
    """mkdocs: adds a page for each file of JSON lines, and its plots."""
    from mkdocs.structure.files import File

    for source in sources():
        with tempfile.TemporaryDirectory() as folder:
            page, _ = write_report(source, Path(folder))
            text = page.read_text(encoding="utf-8").replace("# Benchmark\n", f"# Tables: {source.stem}\n", 1)
            for picture in Path(folder).glob("*.png"):
                name = f"{source.stem}-{picture.name}"
                text = text.replace(f"]({picture.name})", f"]({name})")
                files.append(File.generated(config, f"benchmarks/{name}", content=picture.read_bytes()))
        files.append(File.generated(config, f"benchmarks/{source.stem}.md", content=text))
    return files


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    plot_standings(all_standings(), CHART)
    sys.stderr.write(f"{PAGE} renewed\n")
