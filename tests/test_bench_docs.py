"""docs/benchmarks.md says what its JSON lines say, and names what there is."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from docs_helpers import DOCS, table_rows

from repairops.bench.corruptions import CORRUPTIONS
from repairops.bench.networks import NETWORKS
from repairops.bench.presets import PRESETS
from repairops.bench.rivals import EXTRA

PAGE = DOCS / "benchmarks.md"


def test_page_is_what_its_json_lines_give() -> None:
    path = DOCS / "extensions" / "benchmarks.py"
    specification = importlib.util.spec_from_file_location("docs_benchmarks", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    text = PAGE.read_text(encoding="utf-8")
    assert module.rendered(text) == text
    parts = re.findall(r"<!-- measured: ([\w-]+) -->", text)
    assert sorted(parts) == sorted(file.stem for file in (DOCS / "benchmarks").glob("*.jsonl"))
    for picture in re.findall(r"\]\((benchmarks/[^)]+\.png)\)", text):
        assert (DOCS / picture).stat().st_size < 100_000, picture


def test_page_names_every_preset_network_bound_and_corruption() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [row[0].strip("`") for row in table_rows(PAGE, "## Running it")[1:]] == list(PRESETS)
    rows = {row[0].strip("`"): int(row[1].replace(",", "")) for row in table_rows(PAGE, "## Networks")[1:]}
    assert rows == {name: network.parameters for name, network in NETWORKS.items() if name in PRESETS["paper"].networks}
    assert all(f"`{name}`" in text for name in NETWORKS)
    assert [row[0].strip("`") for row in table_rows(PAGE, "## Protocol")[1:]] == list(EXTRA)
    speeds = {cell for row in table_rows(PAGE, "## Corruptions")[1:] for cell in row[::2]}
    assert speeds == set(CORRUPTIONS)


def test_paper_s_figures_are_named_by_their_source() -> None:
    source = Path(__file__).parents[1] / "repairops" / "bench" / "published" / "SOURCE.md"
    assert "10.1109/TR.2021.3096332" in source.read_text(encoding="utf-8")
