"""The demo: its data, its scanner, its folder, its closing words, and (slow) the whole story."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from repairops.data.decoding import sample_ids
from repairops.demo.data import SHOTS, SIDE, demo_data, photograph, scanner
from repairops.demo.story import MARK, DemoResult, repair_command, run_demo, shown, summary
from repairops.errors import UnreadableDataset, UsageError
from repairops.model.network import to_unit
from repairops.outcome import Outcome


def test_no_scan_is_in_two_of_the_demos_sets() -> None:
    data = demo_data(None, 0)
    sets = [set(images.sample_ids.tolist()) for images in (data.train, data.clean, data.field)]
    assert [len(ids) for ids in sets] == [len(data.train), len(data.clean), len(data.field)]
    assert not sets[0] & sets[1]
    assert not sets[0] & sets[2]
    assert not sets[1] & sets[2]
    assert sum(map(len, sets)) == 1797  # scikit-learn's digits, each once
    for images in (data.train, data.clean, data.field):
        assert images.pixels.shape[1:] == (1, SIDE, SIDE) == (data.spec.channels, data.spec.height, data.spec.width)
        assert set(images.labels.tolist()) == set(range(10))


def test_the_seed_decides_the_split() -> None:
    first, same, other = demo_data(None, 3), demo_data(None, 3), demo_data(None, 4)
    assert first.clean.digest == same.clean.digest
    assert first.clean.digest != other.clean.digest


def test_photographs_are_shots_of_the_fields_scans_and_none_is_a_clean_image() -> None:
    data = demo_data(None, 0)
    pixels, scans = photograph(data.field, 0)
    assert pixels.shape == (SHOTS * len(data.field), 1, SIDE, SIDE)
    assert pixels.dtype == torch.uint8
    assert np.bincount(scans).tolist() == [SHOTS] * len(data.field)
    ids = sample_ids(pixels)
    assert len(set(ids)) == len(ids)
    assert not set(ids) & {i for images in (data.train, data.clean, data.field) for i in images.sample_ids}
    again, _ = photograph(data.field, 0)
    other, _ = photograph(data.field, 1)
    assert torch.equal(pixels, again)
    assert not torch.equal(pixels, other)


def test_the_scanner_takes_contrast_and_adds_lines_within_the_range_of_an_image() -> None:
    digits = to_unit(demo_data(None, 0).field.pixels[:200])
    shots = scanner(digits, torch.Generator().manual_seed(0))
    assert shots.shape == digits.shape
    assert float(shots.min()) >= 0
    assert float(shots.max()) <= 1
    # Contrast 0.45 to 0.95: the spread inside each image shrinks, by 0.7 on average.
    share = shots.flatten(1).std(dim=1) / digits.flatten(1).std(dim=1)
    assert 0.6 < float(share.mean()) < 0.8
    # The veil (a quarter of the lost contrast) makes a black page grey; the lines make the rows of a page differ.
    black, grey = (
        scanner(torch.full((200, 1, SIDE, SIDE), value), torch.Generator().manual_seed(0)) for value in (0.0, 0.5)
    )
    assert 0.05 < float(black.mean()) < 0.12
    rows, columns = grey.mean(dim=3).std(dim=2).mean(), grey.mean(dim=2).std(dim=2).mean()
    assert float(rows) > 2 * float(columns)


def test_own_images_take_the_digits_place(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("bolt", "nut"):
        (tmp_path / name).mkdir()
        for i in range(12):
            pixels = generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    data = demo_data(tmp_path, 0)
    assert data.spec.class_names == ("bolt", "nut")
    assert (data.spec.channels, data.spec.height, data.spec.width) == (3, 20, 20)
    assert [len(images) for images in (data.train, data.clean, data.field)] == [24 - 4 - 10, 10, 4]


def test_a_file_that_is_no_image_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableDataset):
        demo_data(tmp_path / "empty", 0)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match=rf"The folder {tmp_path} holds something else") as raised:
        run_demo(tmp_path)
    assert raised.value.exit_code == 2
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def outcome(**values: object) -> Outcome:
    whole = {
        "outcome": "passed",
        "message": "The gate passed.",
        "verdict": {"result": "PASS", "checks": []},
        "policy": {"margin_points": 1.0},
        "registered": {"name": "cls", "version": "2", "alias": "challenger"},
        "evidence": {
            "clean": {"both_right": 770, "champion_only": 10, "challenger_only": 5, "both_wrong": 15},
            "clean_by_class": {},
            "heldout_total": 200,
            "heldout_repaired": 150,
            "parity": {},
        },
    }
    return Outcome({**whole, **values})


def result(values: Outcome) -> DemoResult:
    uri, report = "sqlite:////tmp/demo/mlflow.db", Path("/tmp/demo/report.html")
    settings = {"MLFLOW_TRACKING_URI": uri}
    return DemoResult(values, uri, report, "mlflow run .", settings, seconds=61.4)


def test_the_closing_words_of_a_passed_repair() -> None:
    lines = [" ".join(line.split()) for line in summary(result(outcome())).splitlines()]
    assert "held-out failures right 0 / 200 150 / 200" in lines
    assert "clean accuracy 97.5% 96.9% (800 images, margin 1 points)" in lines
    assert "verdict PASS" in lines
    assert "version version 2 of cls, alias challenger" in lines
    assert "report /tmp/demo/report.html" in lines
    assert "time 61 s" in lines
    assert "export MLFLOW_TRACKING_URI=sqlite:////tmp/demo/mlflow.db" in lines
    assert any(line.startswith("mlflow run . ") for line in lines)
    assert any(line.startswith("repairops promote prod/cls ") for line in lines)
    assert "repairops rollback prod/cls" in lines


def test_the_closing_words_of_a_failed_repair_offer_no_promotion() -> None:
    text = summary(result(outcome(outcome="failed", verdict={"result": "FAIL", "checks": []}, registered=None)))
    assert "nothing was registered" in text
    assert "FAIL" in text
    assert "promote" not in text


def test_the_closing_words_without_a_verdict() -> None:
    text = summary(result(outcome(outcome="error", message="The training loss became nan.", evidence=None)))
    assert text == "The repair came to no verdict: The training loss became nan."


def test_the_demo_runs_the_users_own_command() -> None:
    command = repair_command()
    assert command[:4] == [sys.executable, "-m", "mlflow", "run"]
    assert shown(command) == "mlflow run . -P model=prod/cls --env-manager=local"


@pytest.mark.slow
def test_the_whole_story_passes(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    command = [sys.executable, "-m", "repairops", "demo", f"--folder={folder}", "--json"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "REPAIROPS_"))}
    settings = {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "HOME": str(tmp_path)}
    for _ in range(2):  # a second demo replaces the first
        done = subprocess.run(
            command, env={**kept, **settings}, cwd=tmp_path, capture_output=True, text=True, timeout=290, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        values = json.loads(done.stdout)
        assert values["verdict"]["result"] == "PASS"
        assert values["registered"]["version"] == "2"
        assert Path(values["report"]).read_text(encoding="utf-8").startswith("<!doctype html>")
        assert (folder / MARK).exists()
        assert {path.name for path in tmp_path.iterdir()} <= {"demo", ".cache", ".config", ".mlflow"}
