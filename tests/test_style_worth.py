"""The benchmark of what a style is worth: its cells go on where they stopped, and the docs show what they hold."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from docs_helpers import DOCS

ROOT = Path(__file__).parents[1]
LINES = DOCS / "style-worth.jsonl"


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import style_failures

    return style_failures


@pytest.fixture
def worth(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import style_worth

    return style_worth


def test_only_missing_cells_are_run(shared: ModuleType, tmp_path: Path) -> None:
    file, ran = tmp_path / "new" / "lines.jsonl", []

    def prepare():
        def run(name: str, seed: int) -> dict[str, object]:
            ran.append((name, seed))
            if len(ran) == 3:
                raise KeyboardInterrupt
            return {"name": name, "seed": seed, "figure": 10 * seed}

        return run

    cells = [("fog", 0), ("snow", 0), ("fog", 1)]
    with pytest.raises(KeyboardInterrupt):
        shared.run_missing(file, cells, ("name", "seed"), prepare)
    lines = shared.run_missing(file, cells, ("name", "seed"), prepare)
    assert ran == [("fog", 0), ("snow", 0), ("fog", 1), ("fog", 1)]
    assert lines == [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["figure"] for line in lines] == [0, 0, 10]

    def refuse():
        raise AssertionError("nothing is missing")

    assert shared.run_missing(file, cells, ("name", "seed"), refuse) == lines


def test_the_table_means_only_whole_rows(worth: ModuleType) -> None:
    def line(style: str, corruption: str, residual: float) -> dict[str, object]:
        return {
            "style": style,
            "corruption": corruption,
            "seed": 0,
            "residual": residual,
            "disjoint": 0.5,
            "clean": 0.8,
        }

    lines = [line(style, c, value) for style, value in (("oracle", 0.4), ("auto", 0.38)) for c in worth.EIGHT]
    lines += [line("wct2", "fog", 0.2), {**line("auto", "fog", 0.9), "seed": 1}]
    rows = {row.split(" | ")[0]: row.split(" | ")[1:] for row in worth.table(lines, 0).splitlines()[2:]}
    assert rows["| `auto`"] == ["38.0"] * 9 + ["95.0", "50.0", "80.0 |"]
    assert rows["| `wct2`"] == ["-", "-", "20.0", *["-"] * 8, "- |"]


def test_the_page_shows_what_the_lines_hold(worth: ModuleType) -> None:
    lines = [json.loads(line) for line in LINES.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 2 * 8 * len(worth.EIGHT)
    page = (DOCS / "styles-measured.md").read_text(encoding="utf-8")
    for seed in {line["seed"] for line in lines}:
        assert worth.table(lines, seed) in page
