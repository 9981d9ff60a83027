"""Slices: a further column of the clean set's parquet, and the sources of the failures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_helpers import SPEC, digit_set

from repairops.config import ImagesConfig
from repairops.data.records import CleanSet, Predictions
from repairops.data.sets import load_image_set, write_parquet
from repairops.data.sources import read_column
from repairops.errors import InvalidOption
from repairops.gate.evidence import PairedCounts, RepairCounts, RoutedCounts, Slice
from repairops.model.evaluation import Evaluation
from repairops.model.routing import _counts_by_name
from repairops.stages.judge import MAX_SLICES, _clean_slices, _failure_slices, _values_of_slices

OPTION = "gate.clean_slices"


def with_column(path: Path, values: list[object]) -> Path:
    """A clean set's parquet of as many digits, with the column `site`."""
    write_parquet(digit_set(len(values)), path)
    pq.write_table(pq.read_table(path).append_column("site", pa.array(values)), path)
    return path


def test_a_column_comes_in_the_order_of_the_images(tmp_path: Path) -> None:
    path = with_column(tmp_path / "clean.parquet", ["north", None, "south", "north"])
    assert read_column(path, "site", OPTION).tolist() == ["north", "", "south", "north"]
    shards = tmp_path / "shards"
    shards.mkdir()
    with_column(shards / "b.parquet", [3, 4])
    with_column(shards / "a.parquet", [1, 2, 9])
    assert read_column(shards, "site", OPTION).tolist() == ["1", "2", "9", "3", "4"]
    assert load_image_set(shards, SPEC, ImagesConfig()).labels.tolist() == [0, 1, 2, 0, 1]


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    path = with_column(tmp_path / "clean.parquet", ["a", "b"])
    with pytest.raises(InvalidOption, match=r"gate\.clean_slices is 'town'; .* image, label, site"):
        read_column(path, "town", OPTION)
    (tmp_path / "folder" / "zero").mkdir(parents=True)
    with pytest.raises(InvalidOption, match="ImageFolder, which has no columns"):
        read_column(tmp_path / "folder", "site", OPTION)


def evaluation(before: list[bool], after: list[bool]) -> Evaluation:
    champion, challenger = (
        Predictions(np.zeros(len(right), np.int64), np.ones(len(right), np.float32), np.array(right))
        for right in (before, after)
    )
    outputs = np.zeros((len(before), 1), np.float32), np.zeros((len(before), 1), np.float32)
    return Evaluation(champion, challenger, champion, challenger, PairedCounts(0, 0, 0, 0), {}, True, True, outputs)


def slices_of(clean: CleanSet, column: str, judged: Evaluation) -> list[Slice]:
    return _clean_slices(column, _values_of_slices(clean, column), judged)


def test_slices_of_the_clean_set_are_paired(tmp_path: Path) -> None:
    path = with_column(tmp_path / "clean.parquet", ["north", None, "south", "north"])
    clean = CleanSet(load_image_set(path, SPEC, ImagesConfig()))
    found = slices_of(clean, "site", evaluation([True, True, True, False], [False, True, True, True]))
    assert [(part.column, part.value) for part in found] == [("site", "north"), ("site", "south")]
    assert found[0].counts == PairedCounts(0, 1, 1, 0)
    assert found[1].counts == PairedCounts(1, 0, 0, 0)
    assert slices_of(clean, "", evaluation([True] * 4, [True] * 4)) == []


def test_slices_are_those_of_the_images_that_judge(tmp_path: Path) -> None:
    """The first and the third image are cut off to choose; the column still has a value for each of the five."""
    path = with_column(tmp_path / "clean.parquet", ["cut", "north", "cut", "south", "north"])
    whole, rest = load_image_set(path, SPEC, ImagesConfig()), np.array([1, 3, 4])
    found = slices_of(CleanSet(whole.subset(rest), rest), "site", evaluation([True, True, False], [False, True, True]))
    assert [(part.value, part.counts) for part in found] == [
        ("north", PairedCounts(0, 1, 1, 0)),
        ("south", PairedCounts(1, 0, 0, 0)),
    ]


def test_routed_images_are_counted_by_slice() -> None:
    routed, sites = np.array([True, False, True, True, False]), np.array(["north", "south", "", "north", "north"])
    assert _counts_by_name(routed, sites) == {"north": RoutedCounts(2, 3), "south": RoutedCounts(0, 1)}
    assert _counts_by_name(routed, sites[:0]) == {}


def test_a_column_that_names_every_image_makes_no_slices(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    count = MAX_SLICES + 1
    clean = CleanSet(load_image_set(with_column(tmp_path / "a.parquet", list(range(count))), SPEC, ImagesConfig()))
    assert slices_of(clean, "site", evaluation([True] * count, [True] * count)) == []
    alike = CleanSet(load_image_set(with_column(tmp_path / "b.parquet", ["one"] * 4), SPEC, ImagesConfig()))
    assert slices_of(alike, "site", evaluation([True] * 4, [True] * 4)) == []


def test_failures_by_source_where_two_or_more_are_named() -> None:
    right = np.array([True, False, True, True])
    found = _failure_slices(np.array(["cam 1", "cam 2", "", "cam 1"]), right)
    assert {part.value: part.counts for part in found} == {"cam 1": RepairCounts(2, 2), "cam 2": RepairCounts(0, 1)}
    assert _failure_slices(np.array(["cam 1"] * 4), right) == []
    assert _failure_slices(np.array([""] * 4), right) == []
