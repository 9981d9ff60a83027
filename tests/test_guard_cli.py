"""`repairops guard score` on a registry with a guarded version and one of one network."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from guard_helpers import images, pair
from PIL import Image
from store_helpers import SPEC, TinyNet

from repairops import log_model
from repairops.cli import main
from repairops.errors import NoImagesInFolder, NotGuarded
from repairops.model.evaluation import guard_answers
from repairops.model.network import Classifier

DARK, BETWEEN, BRIGHT = 0.2, 0.5, 0.8


@pytest.fixture
def field(registry: str, tmp_path: Path) -> Path:
    """Version 1 of cls is one network, version 2 a guarded one whose look is brightness; a folder of images."""
    champion = Classifier(TinyNet(seed=0).eval(), SPEC)
    log_model(champion.network, "cls", SPEC, alias="")
    log_model(pair(champion, low=0.4, high=0.9).network, "cls", SPEC, alias="prod")
    folder = tmp_path / "field"
    for name, brightness in (
        ("a.png", DARK),
        ("north/b.png", BRIGHT),
        ("north/2026/c.PNG", BRIGHT),
        ("north/2026/01/d.png", DARK),
        ("south, gate 2/e.png", BETWEEN),
    ):
        save(folder / name, brightness)
    (folder / "north" / "notes.txt").write_text("no image")
    (folder / "north" / "broken.png").write_bytes(b"\x89PNG and then nothing")
    (folder / "north" / ".hidden.png").write_bytes(b"")
    save(folder / "large.png", DARK, size=(40, 8))
    return folder


def save(file: Path, brightness: float, size: tuple[int, int] = (8, 8)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(images(brightness)[0, 0].numpy()).resize(size).save(file)


def score(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["guard", "score", *map(str, arguments)])


def test_a_line_for_each_image_and_a_summary_by_source(field: Path) -> None:
    result = score("prod/cls", field)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert list(rows[0]) == ["file", "probability", "answers"]
    assert {row["file"]: row["answers"] for row in rows} == {
        "a.png": "champion",
        "north/2026/01/d.png": "champion",
        "north/2026/c.PNG": "repaired",
        "north/b.png": "repaired",
        "south, gate 2/e.png": "both",
    }
    lines = result.stderr.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["source", "south,", "north", "(none)"]
    assert lines[2].split()[1:4] == ["3", "2", "66.7%"]
    assert lines[4] == "2 files could not be read:"
    assert "  large.png: 40 x 8 pixels; the model takes 8 x 8 (width x height)" in lines
    assert any(line.startswith("  north/broken.png: ") for line in lines)


def test_probabilities_are_the_guard_s_own(field: Path) -> None:
    found = json.loads(score("prod/cls", field, "--json").stdout)
    kept = {row["file"]: row["probability"] for row in found["images"]}
    wanted, _ = guard_answers(pair(low=0.4, high=0.9), images(DARK))
    assert kept["a.png"] == pytest.approx(float(wanted[0]), abs=1e-6)
    assert kept["a.png"] < 0.01
    assert kept["north/b.png"] > 0.99
    sources = {part["source"]: part for part in found["sources"]}
    assert (sources[""]["images"], sources[""]["routed"]) == (1, 0)
    assert sources["north"]["share"] == pytest.approx(2 / 3)
    assert [part["file"] for part in found["unreadable"]] == ["large.png", "north/broken.png"]
    assert found["model"] == "version 2 of 'cls'"


def test_the_resize_rule_is_the_model_s_or_the_given_one(field: Path) -> None:
    found = json.loads(score("prod/cls", field, "--set", "model.resize=stretch", "--json").stdout)
    assert "large.png" in [row["file"] for row in found["images"]]


def test_the_csv_may_go_to_a_file(field: Path, tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    plain = score("prod/cls", field).stdout
    result = score("prod/cls", field, "--output", file)
    assert result.stdout == ""
    assert file.read_text(encoding="utf-8") == plain
    assert json.loads(score("prod/cls", field, "--output", file, "--json").stdout)["images"]
    refused = score("prod/cls", field, "--output", tmp_path / "nowhere" / "scores.csv")
    assert refused.exit_code == 2
    assert "nowhere/scores.csv cannot be written (No such file or directory)" in refused.stderr


def test_nothing_that_can_be_read_is_no_error(field: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dark"
    folder.mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / os.fsdecode(b"\xff.png")).write_bytes(b"")
    result = score("prod/cls", folder)
    assert result.exit_code == 0
    assert result.stdout == "file,probability,answers\n"
    assert "2 files could not be read:" in result.stderr
    assert "\\udcff.png: the file is empty" in result.stderr


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_version_without_a_guard_is_one_clear_error(field: Path, as_json: tuple[str, ...]) -> None:
    result = score("models:/cls/1", field, *as_json)
    assert (result.exit_code, result.stdout) == (1, "")
    wanted = NotGuarded("version 1 of 'cls'")
    assert result.stderr.splitlines()[-1] == f"Error: {wanted}"
    assert "repairops.form" in result.stderr
    assert "guard.mode=on" in result.stderr


def test_a_folder_without_images_is_said_before_anything_is_fetched(registry: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    result = score("nothing/registered", tmp_path)
    assert result.exit_code == 1
    assert str(NoImagesInFolder(tmp_path, ".bmp"))[:60] in result.stderr
