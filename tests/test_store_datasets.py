"""Train and clean sets as inputs of the run that logged the model."""

from __future__ import annotations

import json
import os
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from PIL import Image
from sqlalchemy import event
from sqlalchemy.orm import Session
from store_helpers import CLASSES, SPEC, TinyNet, digit_set, digits

from repairops.config import ImagesConfig
from repairops.data.sets import load_image_set, write_parquet
from repairops.errors import DatasetNotFound
from repairops.promotion.log_model import log_model
from repairops.store import digests
from repairops.store.connection import connect
from repairops.store.datasets import (
    Context,
    DatasetRef,
    fetch_dataset,
    find_dataset,
    find_sets,
    log_dataset,
    log_reference,
)
from repairops.store.digests import path_digest

CONTEXTS: tuple[Context, Context] = ("training", "evaluation")  # what every repair needs


@pytest.fixture
def client(registry: str) -> MlflowClient:
    return connect()


def image_folder(folder: Path, count: int = 8) -> Path:
    for i, image in enumerate(digits(count)):
        place = folder / CLASSES[i % len(CLASSES)]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{i}.png")
    return folder


def test_image_sets_are_stored_and_come_back_equal(client: MlflowClient, tmp_path: Path) -> None:
    train, clean = digit_set(16), digit_set(8, start=100)
    ref = log_model(TinyNet(), "cls", SPEC, train_set=train, clean_set=clean)
    found = find_sets(client, ref.run_id, None, None)
    for context, logged in zip(CONTEXTS, (train, clean), strict=True):
        assert found[context].digest == logged.digest[:36]
        path = fetch_dataset(found[context], context, tmp_path / context)
        back = load_image_set(path, SPEC, ImagesConfig())
        assert np.array_equal(back.pixels.numpy(), logged.pixels.numpy())
        assert np.array_equal(back.labels, logged.labels)
        assert back.class_names == logged.class_names
        assert list(back.sample_ids) == list(logged.sample_ids)
        assert back.digest == logged.digest


def test_the_inputs_are_what_mlflow_shows(client: MlflowClient) -> None:
    train = digit_set(4)
    ref = log_model(TinyNet(), "cls", SPEC, train_set=train)
    (entry,) = client.get_run(ref.run_id).inputs.dataset_inputs
    assert entry.dataset.name == f"train-set-{train.digest[:8]}"
    assert [(tag.key, tag.value) for tag in entry.tags] == [("mlflow.data.context", "training")]
    assert find_dataset(client, ref.run_id, "evaluation") is None


def test_paths_are_stored_by_reference(client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = image_folder(tmp_path / "train")
    write_parquet(digit_set(4, 50), tmp_path / "clean.parquet")
    monkeypatch.chdir(tmp_path)
    ref = log_model(TinyNet(), "cls", SPEC, train_set="train", clean_set=Path("clean.parquet"))
    monkeypatch.chdir("/")
    found = find_sets(client, ref.run_id, None, None)
    assert fetch_dataset(found["training"], "training", tmp_path / "a") == folder
    assert fetch_dataset(found["evaluation"], "evaluation", tmp_path / "a") == tmp_path / "clean.parquet"
    assert not (tmp_path / "a").exists()
    (tmp_path / "clean.parquet").unlink()
    with pytest.raises(DatasetNotFound, match=r"clean set.*clean_set=PATH"):
        fetch_dataset(found["evaluation"], "evaluation", tmp_path / "a")


def test_given_paths_win_over_logged_ones(client: MlflowClient, tmp_path: Path) -> None:
    ref = log_model(TinyNet(), "cls", SPEC, train_set=digit_set(4), clean_set=digit_set(4, 10))
    folder = image_folder(tmp_path / "mine")
    found = find_sets(client, ref.run_id, folder, None)
    assert found["training"].uri == str(folder)
    assert found["evaluation"].digest == digit_set(4, 10).digest[:36]


def test_a_validation_set_is_found_where_there_is_one(client: MlflowClient, tmp_path: Path) -> None:
    sets = {"train_set": digit_set(4), "clean_set": digit_set(4, 10)}
    without = log_model(TinyNet(), "cls", SPEC, **sets)
    assert set(find_sets(client, without.run_id, None, None)) == set(CONTEXTS)
    ref = log_model(TinyNet(), "cls", SPEC, **sets, validation_set=digit_set(6, 20))
    found = find_sets(client, ref.run_id, None, None)
    assert set(found) == {*CONTEXTS, "validation"}
    path = fetch_dataset(found["validation"], "validation", tmp_path / "a")
    assert load_image_set(path, SPEC, ImagesConfig()).digest == digit_set(6, 20).digest
    folder = image_folder(tmp_path / "mine")
    assert find_sets(client, ref.run_id, None, None, folder)["validation"].uri == str(folder)
    assert [s.given for s in find_sets(client, ref.run_id, None, folder).values()] == [False, True, False]
    with pytest.raises(DatasetNotFound, match=r"validation set.*nowhere"):
        find_sets(client, ref.run_id, None, None, tmp_path / "nowhere")


def test_missing_sets_name_the_option(client: MlflowClient, tmp_path: Path) -> None:
    ref = log_model(TinyNet(), "cls", SPEC, train_set=digit_set(4))
    with pytest.raises(
        DatasetNotFound, match=rf"clean set.*{ref.run_id} logged none.*--clean-set PATH \(-P clean_set=PATH\)"
    ):
        find_sets(client, ref.run_id, None, None)
    with pytest.raises(DatasetNotFound, match=r"train set.*run \(none\)"):
        find_sets(client, "", None, None)
    with pytest.raises(DatasetNotFound, match="nowhere"):
        find_sets(client, ref.run_id, tmp_path / "nowhere", None)
    assert find_dataset(client, "0" * 32, "training") is None


def test_a_deleted_artifact_is_not_found(client: MlflowClient, tmp_path: Path) -> None:
    ref = log_model(TinyNet(), "cls", SPEC, train_set=digit_set(4))
    logged = find_dataset(client, ref.run_id, "training")
    assert logged is not None
    Path(logged.uri.removeprefix("file://")).unlink()
    with pytest.raises(DatasetNotFound, match=r"train set.*train_set=PATH"):
        fetch_dataset(logged, "training", tmp_path / "a")


def test_a_folders_digest_follows_its_files(client: MlflowClient, tmp_path: Path) -> None:
    run_id = client.create_run("0").info.run_id
    folder = image_folder(tmp_path / "train")
    first = log_dataset(client, run_id, "training", folder)
    assert log_dataset(client, run_id, "training", folder) == first
    (folder / CLASSES[0] / "0.png").unlink()
    second = log_dataset(client, run_id, "training", folder)
    assert second.digest != first.digest
    image_folder(tmp_path / "elsewhere")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    third = log_dataset(client, run_id, "training", folder)
    assert third.digest != second.digest
    (tmp_path / "elsewhere" / CLASSES[0] / "0.png").unlink()
    assert log_dataset(client, run_id, "training", folder).digest != third.digest


def test_datasets_that_mlflow_logged_are_found(client: MlflowClient, tmp_path: Path) -> None:
    write_parquet(digit_set(4), tmp_path / "train.parquet")
    frame = mlflow.data.from_pandas(pd.DataFrame({"x": [1]}), source=str(tmp_path / "train.parquet"), name="mine")
    with mlflow.start_run() as run:
        mlflow.log_input(frame, context="training")
    found = find_dataset(client, run.info.run_id, "training")
    assert found is not None
    assert json.loads(frame.to_dict()["source"])["uri"] == found.uri
    assert fetch_dataset(found, "training", tmp_path / "a") == tmp_path / "train.parquet"


def test_file_uris_are_local_paths(tmp_path: Path) -> None:
    assert fetch_dataset(DatasetRef(tmp_path.as_uri()), "training", tmp_path / "a") == tmp_path


def test_a_digest_is_of_contents_also_where_names_and_sizes_stay(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images change their classes: other labels, the same names, sizes, times of change and number of files."""
    monkeypatch.setattr(digests, "SETTLED", 0)  # all is kept at once
    folder = image_folder(tmp_path / "train")
    files = [folder / CLASSES[0] / "0.png", folder / CLASSES[1] / "1.png"]
    for file in files:
        file.write_bytes(file.read_bytes().ljust(500, b"\0"))
        os.utime(file, ns=(10**18, 10**18))  # as an archive restores it
    ref = log_model(TinyNet(), "cls", SPEC, train_set=folder, clean_set=digit_set(4, 10))

    def found() -> str:
        return find_sets(client, ref.run_id, None, None)["training"].digest

    first = found()
    assert found() == first == log_dataset(client, ref.run_id, "training", folder).digest
    aside = tmp_path / "aside"
    for source, target in ((files[0], aside), (files[1], files[0]), (aside, files[1])):
        source.rename(target)
    swapped = found()
    assert swapped != first
    (folder / "README.txt").write_text("not an image")
    assert found() == swapped


def test_a_file_that_has_not_changed_is_read_once(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder(tmp_path / "train")
    first = path_digest(folder)
    assert not [*kept_digests()] or json.loads(kept_digests()[0].read_text()) == {}  # they have just changed
    monkeypatch.setattr(digests, "SETTLED", 0)
    assert path_digest(folder) == first
    (kept,) = kept_digests()
    entries = json.loads(kept.read_text())
    assert len(entries) == 8
    kept.write_text(json.dumps({name: [*entry[:3], "f" * 64] for name, entry in entries.items()}))
    believed = path_digest(folder)
    assert believed != first  # nothing was read
    (folder / CLASSES[0] / "0.png").touch()  # what has changed is read again, and no more
    assert path_digest(folder) not in (first, believed)
    kept.write_text("[broken")
    assert path_digest(folder) == first

    monkeypatch.setenv("REPAIROPS_HOME", str(folder / CLASSES[0] / "0.png"))  # no folder can be made there
    assert path_digest(folder) == first


def kept_digests() -> list[Path]:
    return sorted(Path(os.environ["REPAIROPS_HOME"], "digests").glob("*.json"))


def test_two_machines_may_name_the_same_data_at_the_same_moment(client: MlflowClient) -> None:
    """The other one is first after this one has looked whether MLflow has the data."""
    mine, other = (client.create_run("0").info.run_id for _ in range(2))
    ref = DatasetRef("/srv/train", "t" * 64)

    @event.listens_for(Session, "before_flush", once=True)
    def overtake(*_: object) -> None:
        log_reference(client, other, "training", ref, 3)

    named = log_reference(client, mine, "training", ref, 3)
    for run_id in (mine, other):
        (entry,) = client.get_run(run_id).inputs.dataset_inputs
        assert (entry.dataset.name, entry.dataset.digest) == named
