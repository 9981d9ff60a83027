"""Decoded image sets that outlast a job: mapped by the next one, whatever happened in between."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from repairops.config import Config, ImagesConfig, TrainingConfig
from repairops.core.parts import cut_parts, draw_train_set
from repairops.data import copies, decoded, sets
from repairops.data.decoded import PART, SUFFIX, kept_name, load_kept, read_kept
from repairops.data.records import Drawn, ImageSet, InputSpec
from repairops.data.sets import from_arrays, load_image_set, write_parquet
from repairops.errors import DatasetImageUnusable
from repairops.stages.pull import _load
from repairops.store import digests
from repairops.store.datasets import content_digest
from repairops.store.room import clean

SPEC = InputSpec(3, 8, 6, ("cat", "dog", "fox"))
COUNT = 60


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty REPAIROPS_HOME, in which small sets are kept too."""
    monkeypatch.setattr(decoded, "LEAST", 0)
    monkeypatch.setattr(digests, "SETTLED", 0)
    monkeypatch.setenv("REPAIROPS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sets, "_ROW_GROUP", 7)
    write_parquet(images(0), tmp_path / "set.parquet")
    return tmp_path / "set.parquet"


def images(seed: int) -> ImageSet:
    draw = np.random.default_rng(seed)
    pixels = torch.from_numpy(draw.integers(0, 256, (COUNT, 3, 8, 6), dtype=np.uint8))
    return from_arrays(pixels, draw.integers(0, 3, COUNT), SPEC.class_names)


def pulled(path: Path, *, context: Any = "training", **options: Any) -> ImageSet:
    """The set as the stage pull loads it."""
    training = TrainingConfig(max_train_images=options.pop("max_train_images", 0))
    job: Any = SimpleNamespace(
        config=Config(images=ImagesConfig(**options), training=training), folder=path.with_name("job")
    )
    return _load(job, context, path, SPEC)


def kept(home: Path) -> list[Path]:
    return sorted((home / "decoded").glob(f"*{SUFFIX}"))


def same(found: ImageSet, wanted: ImageSet) -> bool:
    return (
        torch.equal(found.pixels, wanted.pixels)
        and np.array_equal(found.labels, wanted.labels)
        and found.digest == wanted.digest
    )


def undecodable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> np.ndarray:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(sets, "decode_image", refuse)


def test_the_second_start_decodes_nothing_wherever_the_set_lies_then(
    parquet: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_image_set(parquet, SPEC, ImagesConfig())
    assert same(pulled(parquet), plain)
    assert len(kept(home)) == 1
    undecodable(monkeypatch)
    second = pulled(parquet)
    assert same(second, plain)
    assert second.source == str(parquet)
    second.pixels[0] = 0  # what a job writes to its images stays its own
    assert same(pulled(parquet), plain)
    assert same(pulled(parquet.rename(parquet.with_name("moved.parquet")), context="evaluation"), plain)
    with pytest.raises(AssertionError, match="was decoded"):
        pulled(parquet.with_name("moved.parquet"), max_image_pixels=100)  # another limit might refuse an image


def test_a_set_that_changed_is_decoded_anew(parquet: Path, home: Path) -> None:
    pulled(parquet)
    write_parquet(images(1), parquet)
    assert same(pulled(parquet), images(1))
    assert len(kept(home)) == 2


def test_what_changes_while_it_is_decoded_is_not_kept(parquet: Path, home: Path) -> None:
    digest = content_digest(parquet)
    (home / "decoded").mkdir()
    file = home / "decoded" / kept_name(digest, SPEC, ImagesConfig())
    found = load_kept(
        parquet, SPEC, ImagesConfig(), file, role="set", cache_dir=home, unchanged=lambda: False, warn=pytest.fail
    )
    assert same(found, images(0))
    assert not any((home / "decoded").iterdir())


def test_two_jobs_at_once_come_to_the_same(parquet: Path, home: Path) -> None:
    """The second one decodes and ends while the first one is about to put its file in place."""
    (home / "decoded").mkdir(parents=True)
    file = home / "decoded" / kept_name("d", SPEC, ImagesConfig())
    found: list[ImageSet] = []

    def load(unchanged: Any) -> bool:
        how: Any = {"role": "set", "cache_dir": home, "unchanged": unchanged, "warn": pytest.fail}
        found.append(load_kept(parquet, SPEC, ImagesConfig(), file, **how))
        return True

    load(lambda: load(lambda: True))
    assert all(same(each, images(0)) for each in found)
    assert [*(home / "decoded").iterdir()] == [file]


@pytest.mark.parametrize("damage", ["cut", "zeros", "label", "id", "empty"])
def test_a_damaged_file_is_decoded_anew(parquet: Path, home: Path, damage: str) -> None:
    pulled(parquet)
    (file,) = kept(home)
    data = bytearray(file.read_bytes())
    size = COUNT * 3 * 8 * 6
    if damage == "zeros":
        data[: size // 2] = bytes(size // 2)
    elif damage == "label":
        data[size : size + 8] = (9).to_bytes(8, "little")
    elif damage == "id":
        data[-1] ^= 1
    file.write_bytes(data[: {"cut": -40, "empty": 0}.get(damage, len(data))])
    assert read_kept(file, SPEC, "") is None or damage == "cut"
    assert same(pulled(parquet), images(0))
    assert same(pulled(parquet), images(0))


def test_a_bad_image_leaves_nothing(parquet: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetImageUnusable):
        pulled(parquet, max_image_pixels=10)
    assert not any((home / "decoded").iterdir())


def test_a_full_disk_costs_the_next_start_alone(
    parquet: Path, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(handle: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(decoded, "reserve", full)
    assert same(pulled(parquet), images(0))
    assert not any((home / "decoded").iterdir())
    assert "The decoded train set is not kept for later jobs: No space left on device." in caplog.text
    caplog.clear()
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    assert same(pulled(parquet, context="evaluation"), images(0))
    assert "The decoded clean set is not kept for later jobs: it has 0 MB of 0 MB free." in caplog.text


def test_a_home_that_cannot_be_made_costs_the_same(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPAIROPS_HOME", str(parquet))
    assert same(pulled(parquet), images(0))


def test_those_not_used_for_longest_make_room(
    parquet: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sets, "_ROW_GROUP", 1000)
    paths = [tmp_path / f"{seed}.parquet" for seed in range(3)]
    for seed, path in enumerate(paths):
        write_parquet(images(seed), path)
    for path in paths:
        pulled(path)
        for file in kept(home):
            os.utime(file, (file.stat().st_mtime - 100,) * 2)
    pulled(paths[0])  # used just now
    size = kept(home)[0].stat().st_size
    dead, young = (home / "decoded" / f"{name}{PART}" for name in ("dead", "young"))
    for part in (dead, young):
        part.write_bytes(b".")
    os.utime(dead, (1, 1))
    before = set(kept(home))
    file = home / "decoded" / kept_name("new", SPEC, ImagesConfig())
    config: Any = SimpleNamespace(cache_mb=3 * size / 2**20)
    part = decoded._begin(file, size - COUNT * 40, COUNT * 40, config, "set", pytest.fail)
    assert part is not None
    assert part.stat().st_size == size
    gone = before - set(kept(home))
    assert len(gone) == 1  # the second set's: the first was used again
    undecodable(monkeypatch)
    assert same(pulled(paths[0]), images(0))
    assert same(pulled(paths[2]), images(2))
    assert (dead.exists(), young.exists()) == (False, True)


def test_nothing_is_kept_of_small_sets_of_larger_ones_than_allowed_and_where_it_is_off(
    parquet: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert same(pulled(parquet, cache_mb=0), images(0))
    monkeypatch.setattr(decoded, "LEAST", 10**5)
    assert same(pulled(parquet), images(0))
    assert kept(home) == []


def test_clean_knows_them(parquet: Path, home: Path) -> None:
    pulled(parquet)
    (file,) = kept(home)
    part, dead = file.with_suffix(PART), file.with_name(f"dead{PART}")
    for each in (part, dead):
        each.write_bytes(b".")
    for each in (file, dead):
        os.utime(each, (time.time() - 10 * 86400,) * 2)
    assert {each.path: each.state for each in clean(11)} == {file: "kept", part: "running", dead: "kept"}
    assert {each.path: each.state for each in clean(9, dry_run=True)}[file] == "removed"
    assert file.exists()
    clean(9)
    assert [*file.parent.iterdir()] == [part]


@pytest.mark.parametrize("unseen", [False, True])
def test_only_what_is_drawn_of_a_large_train_set_is_decoded_and_trains_as_before(
    parquet: Path, monkeypatch: pytest.MonkeyPatch, unseen: bool
) -> None:
    """The same images train and choose, in the same order, whether all were read or not."""
    whole = pulled(parquet)
    monkeypatch.setattr(copies, "COMPARED", COUNT - 1)
    read: list[Any] = []
    real = sets.decode_image
    monkeypatch.setattr(sets, "decode_image", lambda *a, **k: read.append(1) or real(*a, **k))
    drawn = pulled(parquet, max_train_images=9)
    assert len(drawn) == len(read) == 9 + 6  # a tenth may have to choose
    assert drawn.total == COUNT
    assert same(pulled(parquet, max_train_images=9), drawn)
    assert len(read) == 15
    config = TrainingConfig(max_train_images=9)
    others = images(5) if unseen else None
    failures: Any = whole.subset(np.arange(0))
    parts = [cut_parts(each, others, failures, failures, None, config, seed=Config().seed) for each in (whole, drawn)]
    trained = [each.train_set.sample_ids[each.rows].tolist() for each in parts]
    assert trained[0] == trained[1]
    assert len(trained[0]) == 9
    assert same(parts[0].choosing, parts[1].choosing)


def test_rows_of_parquet_are_those_that_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of shards and row groups of any size, also of some that hold none."""
    monkeypatch.setattr(sets, "_ROW_GROUP", 7)
    whole = images(0)
    write_parquet(whole.subset(np.arange(25)), tmp_path / "a.parquet")
    write_parquet(whole.subset(np.arange(25, COUNT)), tmp_path / "b.parquet")
    for rows in ([0], [24, 25], [3, 6, 7, 22, 40, 59], [30], [*range(COUNT)]):
        index = np.array(rows)
        found = load_image_set(tmp_path, SPEC, ImagesConfig(), drawn=Drawn(index, COUNT))
        assert found.sample_ids.tolist() == whole.sample_ids[index].tolist()
        assert np.array_equal(found.labels, whole.labels[index])


def test_what_is_drawn_is_all_that_training_may_take() -> None:
    config = TrainingConfig(max_train_images=100)
    drawn = draw_train_set(5000, config, seed=3)
    assert len(drawn.rows) == 600
    assert drawn.total == 5000
    assert (np.diff(drawn.rows) > 0).all()
