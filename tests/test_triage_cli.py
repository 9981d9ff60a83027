"""`repairops triage` on registries with a version of one network and a guarded one, and what it wrote, logged."""

from __future__ import annotations

import csv
import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from guard_helpers import images as of_brightness
from guard_helpers import pair
from PIL import Image
from store_helpers import CLASSES, SPEC, TinyNet, digit_set, digits

from repairops import list_failures, log_model
from repairops.cli import main
from repairops.cli.triage import SCORES
from repairops.errors import NoImagesInFolder, NotGuarded
from repairops.model.network import Classifier
from repairops.report.sheet import SCORES as WORDS
from repairops.triage.scores import ANSWER, DEFAULT, GUARD, SURPRISE

HEAD = ["file", "label", "predicted", "confidence", "source", "rank", "cluster", "score"]


@pytest.fixture
def field(registry: str, tmp_path: Path) -> Path:
    """Version 1 of cls is one network with a train set, under prod; and a folder of 24 images, one of them twice."""
    log_model(TinyNet(seed=0).eval(), "cls", SPEC, train_set=digit_set(60), clean_set=digit_set(10, 100), alias="prod")
    folder = tmp_path / "field"
    for number, pixels in enumerate(digits(24, 300)):
        save(folder / ("north" if number % 3 else "south, gate 2") / f"{number:02d}.png", pixels)
    save(folder / "copy.png", digits(1, 300)[0])
    (folder / "broken.png").write_bytes(b"\x89PNG and then nothing")
    return folder


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def triage(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["triage", *map(str, arguments)])


def table(file: str = "triage.csv") -> list[dict[str, str]]:
    with Path(file).open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def test_the_command_names_every_score() -> None:
    assert set(SCORES) == {*ANSWER, *SURPRISE, GUARD} == set(WORDS)
    assert next(p for p in main.get_command(None, "triage").params if p.name == "score").default == DEFAULT  # type: ignore


def test_the_csv_is_logged_as_it_is_once_it_has_labels(field: Path) -> None:
    result = triage("prod/cls", field, "--count", "10", "--clusters", "3")
    assert result.exit_code == 0, result.output
    rows = table()
    assert list(rows[0]) == [*HEAD, *(f"score_{name}" for name in (*ANSWER, *SURPRISE))]
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 11)]
    assert {row["label"] for row in rows} == {""}
    assert {row["predicted"] for row in rows} <= set(CLASSES)
    assert {row["cluster"] for row in rows} == {"0", "1", "2"}
    assert {row["source"] for row in rows} <= {"north", "south, gate 2", ""}
    assert all(float(row["score_confidence"]) == pytest.approx(1 - float(row["confidence"]), abs=1e-5) for row in rows)
    assert all(row["score"] == row["score_gini"] for row in rows)
    assert "10 of 25 images chosen by gini, activations of the input of linear." in result.stdout
    assert "1 has the pixels of another and is not chosen." in result.stdout
    assert "  broken.png: " in result.stdout

    with Path("triage.csv").open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "label": CLASSES[0]} for row in rows)
    logged = CliRunner().invoke(main, ["failures", "log", "prod/cls", str(field), "--csv", "triage.csv"])
    assert logged.exit_code == 0, logged.output
    assert [batch.rows for batch in list_failures("prod/cls")] == [10]

    again = triage("prod/cls", field)
    assert again.exit_code == 2
    assert "labels stand in this one" in again.stderr
    assert table()[0]["label"] == CLASSES[0]


def test_the_best_come_first_and_a_seed_decides(field: Path) -> None:
    found = {}
    for score in (*ANSWER, *SURPRISE):
        result = triage("prod/cls", field, "--score", score, "--clusters", "1", "--json", "--layers", "norm, linear")
        assert result.exit_code == 0, result.output
        found[score] = json.loads(result.stdout)
        values = [image["scores"][score] for image in found[score]["chosen"]]
        assert values == sorted(values, reverse=True)
        assert len(values) == 24
    assert found["dsa"]["layers"] == ["norm", "linear"]
    assert found["dsa"]["scores_missing"] == ["guard"]
    assert found["dsa"]["copies"] == 1
    assert [part["file"] for part in found["dsa"]["unreadable"]] == ["broken.png"]
    assert len({tuple(image["file"] for image in each["chosen"]) for each in found.values()}) > 3
    drawn = [json.loads(triage("prod/cls", field, "--reference", "20", "--seed", seed, "--json").stdout)["chosen"]
             for seed in ("1", "1", "2")]  # fmt: skip
    assert drawn[0] == drawn[1]
    by_file = [{image["file"]: image["scores"]["dsa"] for image in chosen} for chosen in drawn]
    assert by_file[0] != by_file[2]


def test_the_sheet_shows_what_is_chosen_and_how_to_go_on(field: Path) -> None:
    result = triage("prod/cls", field, "--count", "5", "--output", "a & b.csv", "--sheet", "seen.html")
    assert result.exit_code == 0, result.output
    page, rows = Path("seen.html").read_text(encoding="utf-8"), table("a & b.csv")
    assert page.startswith("<!doctype html>")
    assert page.count("<figure") == page.count("data:image/png;base64,") == len(rows) == 5
    places = [page.index(f"{row['file'].rpartition('/')[2]}</figcaption>") for row in rows]
    assert places == sorted(places)
    assert "a &amp; b.csv" in page
    assert "<script" not in page
    text = html.unescape(re.sub("<[^>]*>", "", page))
    assert f"repairops failures log prod/cls {field} --csv 'a & b.csv'" in text
    assert "5 of 25 images come first: the network spreads its answer over several classes" in page


def test_a_version_without_a_train_set(registry: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What needs none goes without it, and says so; what needs it says what does not."""
    log_model(TinyNet(seed=0).eval(), "cls", SPEC, alias="prod")
    save(tmp_path / "field" / "a.png", digits(1)[0])
    result = triage("prod/cls", tmp_path / "field")
    assert result.exit_code == 0, result.output
    assert "the scores lsa, dsa, mahalanobis are left out. The train set was not found" in result.stderr
    assert [name for name in table()[0] if name.startswith("score_")] == [f"score_{name}" for name in ANSWER]
    refused = triage("prod/cls", tmp_path / "field", "--score", "dsa")
    assert refused.exit_code == 1
    assert "The score dsa compares with images of the train set" in refused.stderr
    assert "or take a score that needs none: confidence, margin, gini." in refused.stderr
    missing = triage("prod/cls", tmp_path / "field", "--train-set", tmp_path / "nowhere")
    assert missing.exit_code == 1
    assert "The train set was not found" in missing.stderr
    refused = triage("prod/cls", tmp_path / "field", "--score", "guard")
    assert refused.stderr.splitlines()[-1] == f"Error: {NotGuarded('version 1 of ' + repr('cls'))}"


def test_the_guard_of_a_guarded_version_is_a_score(registry: str, tmp_path: Path) -> None:
    champion = Classifier(TinyNet(seed=0).eval(), SPEC)
    log_model(pair(champion, low=0.4, high=0.9).network, "cls", SPEC, train_set=digit_set(40), alias="prod")
    for name, brightness in (("dark", 0.2), ("bright", 0.8), ("between", 0.5)):
        save(tmp_path / "field" / f"{name}.png", of_brightness(brightness)[0, 0].numpy())
    result = triage("prod/cls", tmp_path / "field", "--score", "guard", "--clusters", "1")
    assert result.exit_code == 0, result.output
    assert [row["file"] for row in table()] == ["bright.png", "between.png", "dark.png"]
    assert float(table()[0]["score_guard"]) > 0.99


def test_a_version_that_is_stored_as_pt2(registry: str, tmp_path: Path) -> None:
    network = TinyNet(seed=0).eval()
    log_model(network, "cls", SPEC, train_set=digit_set(40), alias="prod", serialization_format="pt2")
    log_model(network, "plain", SPEC, train_set=digit_set(40), alias="prod")
    for number, pixels in enumerate(digits(6, 300)):
        save(tmp_path / "field" / f"{number}.png", pixels)
    for layers in ((), ("--layers", "norm")):
        found = [json.loads(triage(f"prod/{name}", tmp_path / "field", "--score", "dsa", "--json", *layers).stdout)
                 for name in ("cls", "plain")]  # fmt: skip
        assert found[0]["layers"] == found[1]["layers"]
        scores = [[image["scores"]["dsa"] for image in each["chosen"]] for each in found]
        assert scores[0] == pytest.approx(scores[1], rel=1e-3)


def test_what_failures_log_would_refuse_is_not_chosen(field: Path, tmp_path: Path) -> None:
    save(tmp_path / "outside.png", digits(1, 500)[0])
    (field / "link.png").symlink_to(tmp_path / "outside.png")
    (field / "north" / "same.png").symlink_to(field / "copy.png")
    found = json.loads(triage("prod/cls", field, "--json").stdout)
    assert {part["file"]: part["reason"][:12] for part in found["unreadable"]}["link.png"] == "it is a link"
    assert found["copies"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--layers", "convolutoin"], 2, "it must be one that exists, such as convolution."),
        (["--score", "surprise"], 2, "'surprise' is not one of"),
        (["--output", "nowhere/t.csv"], 2, "--output nowhere/t.csv cannot be written (No such file or directory)"),
        (["--sheet", "nowhere/t.html"], 2, "--sheet nowhere/t.html cannot be written (No such file or directory)"),
        (["--device", "tpu"], 1, "tpu"),
    ],
)
def test_each_fault_is_one_line(field: Path, arguments: list[str], code: int, says: str) -> None:
    result = triage("prod/cls", field, *arguments)
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stdout == ""


def test_a_folder_without_images_or_with_broken_ones_alone(field: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = triage("prod/cls", tmp_path / "empty")
    assert result.exit_code == 1
    assert str(NoImagesInFolder(tmp_path / "empty", ".bmp"))[:60] in result.stderr
    (tmp_path / "empty" / "a.png").write_bytes(b"")
    result = triage("prod/cls", tmp_path / "empty")
    assert result.exit_code == 0, result.output
    assert Path("triage.csv").read_text(encoding="utf-8") == ",".join(HEAD) + "\n"
    assert "No image could be read." in Path("triage.html").read_text(encoding="utf-8")
