"""docs/benchmarks.md says what its JSON lines say, and the pages beside it name what there is."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from docs_helpers import DOCS, table_rows

from repairops.bench.corruptions import CORRUPTIONS
from repairops.bench.networks import NETWORKS
from repairops.bench.presets import PRESETS
from repairops.bench.rivals import EXTRA

PAGE, RUNNING = DOCS / "benchmarks.md", DOCS / "benchmarks" / "running.md"


def extension() -> ModuleType:
    path = DOCS / "extensions" / "benchmarks.py"
    specification = importlib.util.spec_from_file_location("docs_benchmarks", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_page_is_what_the_json_lines_give() -> None:
    module, text = extension(), PAGE.read_text(encoding="utf-8")
    assert module.rendered(text) == text
    assert {one.group for one in module.all_standings()} <= {row[0] for row in table_rows(PAGE, "## Results")}
    assert len(text.splitlines()) < 200
    assert module.CHART.stat().st_size < 100_000


def test_each_file_of_json_lines_has_its_page_in_the_menu() -> None:
    menu = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    sources = extension().sources()
    assert sources
    for source in sources:
        assert f": benchmarks/{source.stem}.md" in menu


def test_page_names_every_preset_network_bound_and_corruption() -> None:
    text = RUNNING.read_text(encoding="utf-8")
    assert [row[0].strip("`") for row in table_rows(RUNNING, "## Presets")[1:]] == list(PRESETS)
    rows = {row[0].strip("`"): int(row[1].replace(",", "")) for row in table_rows(RUNNING, "## Networks")[1:]}
    assert rows == {name: network.parameters for name, network in NETWORKS.items() if name in PRESETS["paper"].networks}
    assert all(f"`{name}`" in text for name in NETWORKS)
    assert [row[0].strip("`") for row in table_rows(RUNNING, "## Protocol")[1:]] == list(EXTRA)
    speeds = {cell for row in table_rows(RUNNING, "## Corruptions")[1:] for cell in row[::2]}
    assert speeds == set(CORRUPTIONS)


def test_paper_s_figures_are_named_by_their_source() -> None:
    source = Path(__file__).parents[1] / "repairops" / "bench" / "published" / "SOURCE.md"
    assert "10.1109/TR.2021.3096332" in source.read_text(encoding="utf-8")
