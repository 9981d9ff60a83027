"""Renews the measured parts of docs/benchmarks.md: `python docs/extensions/benchmarks.py`.

A part stands between `<!-- measured: NAME -->` and `<!-- end -->`, and comes from docs/benchmarks/NAME.jsonl.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from repairops.bench.report import provenance, read_records, write_report

DOCS = Path(__file__).parents[1]
PAGE, FOLDER = DOCS / "benchmarks.md", DOCS / "benchmarks"
PICTURES = ("fig3", "fig4", "fig5", "fig6")
PART = re.compile(r"(<!-- measured: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(text: str, *, pictures: bool = False) -> str:
    """The page's text with its measured parts renewed; with `pictures`, the plots are written too."""

    def part(match: re.Match[str]) -> str:
        name = match[2]
        source = FOLDER / f"{name}.jsonl"
        with tempfile.TemporaryDirectory() as folder:
            _, tables = write_report(source, Path(folder))
            shown = sorted(p for p in Path(folder).glob("*.png") if p.name.startswith(PICTURES))
            links = [f"![{p.stem} of {name}](benchmarks/{name}-{p.name})\n" for p in shown]
            if pictures:
                for picture in shown:
                    (FOLDER / f"{name}-{picture.name}").write_bytes(picture.read_bytes())
        body = [provenance(read_records(source)[0]), *(table.markdown() for table in tables), *links]
        return match[1] + "\n" + "\n".join(body) + "\n" + match[3]

    return PART.sub(part, text)


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8"), pictures=True), encoding="utf-8")
    sys.stderr.write(f"{PAGE} renewed\n")
