"""Failure batches: every form of images, one batch once, two processes at a time, damage."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from store_helpers import CLASSES, SPEC, add_version, artifact_paths, digits, in_processes, rewrite_json

from repairops.config import ImagesConfig
from repairops.data.decoding import file_id, sample_id
from repairops.data.sets import load_image_set
from repairops.errors import (
    FailureBatchDamaged,
    FailureBatchNotFound,
    InvalidFailures,
    InvalidImages,
    ModelNotFound,
    UnreadableDataset,
    UnreadableFailures,
)
from repairops.store.batch_pages import contact_sheet
from repairops.store.batches import (
    LoggedBatch,
    _keep_first,
    choose_batches,
    fetch_rows,
    list_failures,
    log_failures,
    log_rows,
    logged_batches,
)
from repairops.store.connection import connect
from repairops.store.failure_files import rows_from_path
from repairops.store.failure_rows import FailureRows, make_rows, read_rows, write_rows

LABELS = ["zero", "one", "two", "three"]


@pytest.fixture
def client(registry: str) -> MlflowClient:
    client = connect()
    add_version(client, "cls", "prod")
    return client


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def pixels_of(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)))


# Rows from every form of images

GREY, COLOUR = digits(4), digits(4, channels=3)
FORMS = {
    "NHW uint8": (GREY, GREY),
    "NHW1 uint8": (GREY[..., None], GREY),
    "N1HW uint8": (GREY[:, None], GREY),
    "NHWC uint8": (COLOUR, COLOUR),
    "NCHW uint8": (COLOUR.transpose(0, 3, 1, 2), COLOUR),
    "NHW float": (GREY / 255, GREY),
    "NCHW float32": ((COLOUR / 255).astype(np.float32).transpose(0, 3, 1, 2), COLOUR),
    "tensor NCHW uint8": (torch.from_numpy(COLOUR).permute(0, 3, 1, 2), COLOUR),
    "tensor NCHW float": (torch.from_numpy(COLOUR).permute(0, 3, 1, 2) / 255, COLOUR),
    "list of arrays": (list(COLOUR), COLOUR),
    "PIL grey": ([Image.fromarray(image) for image in GREY], GREY),
    "PIL colour": ([Image.fromarray(image) for image in COLOUR], COLOUR),
    "generator of PIL": ((Image.fromarray(image) for image in GREY), GREY),
    "encoded": ([png(image) for image in GREY], GREY),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_images_keeps_its_pixels(form: str) -> None:
    images, expected = FORMS[form]
    rows = make_rows(images, LABELS)
    assert len(rows) == 4
    for encoded, identity, image in zip(rows.image, rows.sample_id, expected, strict=True):
        assert np.array_equal(pixels_of(encoded), image)
        channels = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
        assert identity == sample_id(torch.from_numpy(np.ascontiguousarray(channels)))


def test_one_image_has_one_identity_whatever_its_file(tmp_path: Path) -> None:
    small, large = io.BytesIO(), io.BytesIO()
    Image.fromarray(GREY[0]).save(small, "png", compress_level=9)
    Image.fromarray(GREY[0]).save(large, "bmp")
    (tmp_path / "a.png").write_bytes(small.getvalue())
    rows = [make_rows([form], ["zero"]) for form in (small.getvalue(), large.getvalue(), tmp_path / "a.png", GREY[0])]
    assert len({row.sample_id[0] for row in rows}) == 1
    assert len({row.digest() for row in rows}) == 1
    assert rows[1].image == [large.getvalue()]  # the file itself is kept
    assert rows[2].path == ["a.png"]


def test_files_that_do_not_decode_are_kept(client: MlflowClient, tmp_path: Path) -> None:
    whole = png(GREY[0])
    (tmp_path / "empty.png").write_bytes(b"")
    files = [whole, whole[: len(whole) // 2], b"", b"no image at all", str(tmp_path / "empty.png")]
    batch = log_failures("prod/cls", files, ["zero"] * 5)
    rows = fetch_rows(client, [batch])
    assert rows.image == [whole, whole[: len(whole) // 2], b"", b"no image at all", b""]
    assert rows.sample_id[3] == hashlib.sha256(b"no image at all").hexdigest() == file_id(b"no image at all")


@pytest.mark.parametrize(
    ("labels", "stored"),
    [
        (["zero", "one", "two", "three"], ["zero", "one", "two", "three"]),
        ([0, 1, 2, 3], ["0", "1", "2", "3"]),
        (np.array([3, 2, 1, 0]), ["3", "2", "1", "0"]),
        (torch.tensor([1, 1, 2, 2]), ["1", "1", "2", "2"]),
        ([0.0, 1.0, None, float("nan")], ["0", "1", "", ""]),  # as a CSV with gaps is read
        (["0", "one", 2, "unheard of"], ["0", "one", "2", "unheard of"]),
    ],
)
def test_labels_as_names_and_indices(labels: object, stored: list[str]) -> None:
    rows = make_rows(GREY, labels, labels)  # type: ignore[arg-type]
    assert rows.label == stored
    assert rows.predicted == stored


def test_columns_come_back_as_they_were_given(client: MlflowClient) -> None:
    from datetime import UTC, datetime

    at = datetime(2026, 3, 1, 8, 30, tzinfo=UTC)
    batch = log_failures(
        "prod/cls",
        GREY,
        LABELS,
        [1, 2, 3, 0],
        confidences=[0.9, np.float32(0.5), None, 1],  # type: ignore[list-item]
        captured_at=[at, "2026-03-02", None, ""],  # type: ignore[list-item]
        sources="camera-7",
        groups=["a", "a", 3, None],  # type: ignore[list-item]
    )
    rows = fetch_rows(client, [batch])
    assert rows.label == LABELS
    assert rows.predicted == ["1", "2", "3", "0"]
    np.testing.assert_array_equal(rows.confidence, [0.9, 0.5, np.nan, 1.0])
    assert rows.captured_at == ["2026-03-01T08:30:00+00:00", "2026-03-02", "", ""]
    assert rows.source == ["camera-7"] * 4
    assert rows.group == ["a", "a", "3", ""]
    assert rows.batch == [batch.digest] * 4
    assert [pixels_of(image).tolist() for image in rows.image] == GREY.tolist()


def test_lengths_that_do_not_match(client: MlflowClient) -> None:
    with pytest.raises(InvalidFailures, match="There are 4 images and 3 labels"):
        log_failures("prod/cls", GREY, LABELS[:3])
    with pytest.raises(InvalidFailures, match="4 images and 5 predictions"):
        log_failures("prod/cls", GREY, LABELS, [0] * 5)
    with pytest.raises(InvalidFailures, match="4 images and 1 confidences"):
        log_failures("prod/cls", GREY, LABELS, confidences=[0.5])
    with pytest.raises(InvalidFailures, match="4 images and 2 groups"):
        log_failures("prod/cls", GREY, LABELS, groups=["a", "b"])
    with pytest.raises(InvalidFailures, match="confidence 'high' is not a number"):
        log_failures("prod/cls", GREY, LABELS, confidences=["high"] * 4)  # type: ignore[list-item]
    assert list_failures("cls") == []
    assert client.get_experiment_by_name("repairops/failures/cls") is None


def test_no_images_and_wrong_images() -> None:
    with pytest.raises(InvalidFailures, match="has no images"):
        make_rows(np.zeros((0, 8, 8), np.uint8), [])
    for wrong in (GREY * 2.0, np.full((4, 8, 8), np.nan), GREY.astype(np.int32), np.zeros((4, 8, 8, 2), np.uint8)):
        with pytest.raises(InvalidImages):
            make_rows(wrong, LABELS)
    with pytest.raises(InvalidFailures, match="cannot be read"):
        make_rows(["/nowhere/a.png"], ["zero"])


# Folders and parquet files


def field_folder(folder: Path, header: str, *lines: str) -> Path:
    (folder / "day").mkdir(parents=True)
    for i, image in enumerate(GREY):
        Image.fromarray(image).save(folder / "day" / f"{i}.png")
    (folder / "failures.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8-sig")
    return folder


def test_a_folder_with_a_csv(tmp_path: Path) -> None:
    folder = field_folder(
        tmp_path / "field",
        "file,label,predicted,confidence,group,note",
        "day/1.png,one,7,0.75,scene,kept out",
        "day/0.png,0,,,,",
    )
    rows = rows_from_path(folder, source="camera-1")
    assert [pixels_of(image).tolist() for image in rows.image] == GREY[[1, 0]].tolist()
    assert rows.path == ["day/1.png", "day/0.png"]
    assert (rows.label, rows.predicted, rows.group) == (["one", "0"], ["7", ""], ["scene", ""])
    np.testing.assert_array_equal(rows.confidence, [0.75, np.nan])
    assert rows.source == ["camera-1"] * 2
    other = tmp_path / "other.csv"
    other.write_text("file,label\nday/3.png,three\n")
    assert rows_from_path(folder, other).path == ["day/3.png"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["file,label"], "has no rows"),
        (["name,label", "day/0.png,zero"], "no column 'file'"),
        (["file,class", "day/0.png,zero"], "no column 'label'"),
        (["file,label", "day/9.png,zero"], "'day/9.png', which is not in"),
        (["file,label", "../secret.png,zero"], "lies outside"),
        (["file,label", f"{'a' * 300}.png,zero"], "a', which is not in"),
        (["file,label", "loop/0.png,zero"], "'loop/0.png', which"),
        (["file,label", "day,zero"], "'day', which is not in"),
        (["file,label", "pipe.png,zero"], "'pipe.png', which is not in"),
        (["# of May", "file,label", "day/0.png,zero"], r"no column 'file'; its first line is: # of May"),
        (["file,label", "day/0.png,zero,one"], "line 2 has 3 cells and the first line 2"),
        (["file,label,label", "day/0.png,zero,one"], "the column 'label' twice"),
        (["file;label", "day/0.png;zero"], "no column 'file'; its cells are separated by ';'"),
        (["file\tlabel", "day/0.png\tzero"], r"no column 'file'; its cells are separated by '\\t'"),
        (["file,label", "day/0.png\0,zero"], "line 2 holds a NUL"),
        (["file,label", f"day/0.png,{'z' * 140_000}"], "line 2: field larger than field limit"),
        (["file,label", 'day/0.png,"zero'], "line [23]: unexpected end of data"),
    ],
)
def test_wrong_csv_files(tmp_path: Path, lines: list[str], said: str) -> None:
    (tmp_path / "secret.png").write_bytes(png(GREY[0]))
    folder = field_folder(tmp_path / "field", *lines)
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(UnreadableFailures, match=said) as raised:
        rows_from_path(folder)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("file,label\nday/0.png,zéro".encode("latin-1"), "line 2 holds the byte 0xe9, which is not UTF-8"),
        ("file,label\nday/0.png,zero".encode("utf-16"), "it is UTF-16"),
        ("file,label\nday/0.png,zero".encode("utf-16-le"), "line 1 holds a NUL"),
        (b"PK\x03\x04" + b"\0" * 60, "it is a spreadsheet"),
    ],
)
def test_a_csv_in_another_form_says_which(tmp_path: Path, data: bytes, said: str) -> None:
    folder = field_folder(tmp_path / "field", "file,label")
    (folder / "failures.csv").write_bytes(data)
    with pytest.raises(UnreadableFailures, match=said):
        rows_from_path(folder)


def test_a_csv_that_is_no_file(tmp_path: Path) -> None:
    folder = field_folder(tmp_path / "field", "file,label")
    (folder / "failures.csv").unlink()
    (folder / "failures.csv").symlink_to(folder / "failures.csv")
    with pytest.raises(UnreadableFailures, match="Too many levels"):
        rows_from_path(folder)
    os.mkfifo(tmp_path / "pipe")
    for table in ("/dev/zero", tmp_path / "pipe", folder):
        with pytest.raises(UnreadableFailures, match="no regular file"):
            rows_from_path(folder, table)
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(UnreadableFailures, match="no regular file"):
            rows_from_path(path)


def test_trailing_commas_of_a_spreadsheet_are_no_cells(tmp_path: Path) -> None:
    folder = field_folder(tmp_path / "field", "file,label,,", "day/0.png,zero,,", ",,,", "day/1.png,one,,,")
    assert rows_from_path(folder).label == ["zero", "one"]


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidFailures, match="does not exist"):
        rows_from_path(tmp_path / "nowhere")
    with pytest.raises(InvalidFailures, match=r"failures\.csv cannot be read"):
        rows_from_path(tmp_path)
    (tmp_path / "a.parquet").write_text("text")
    with pytest.raises(InvalidFailures, match="no parquet file"):
        rows_from_path(tmp_path / "a.parquet")


@pytest.mark.parametrize("struct", [True, False], ids=["struct", "bytes"])
def test_a_parquet_file(tmp_path: Path, struct: bool) -> None:
    images = [{"bytes": png(image), "path": f"{i}.png"} if struct else png(image) for i, image in enumerate(GREY)]
    table = pa.table({"picture": images, "label": [0, 1, 2, None], "source": ["a", "b", "", None]})
    pq.write_table(table, tmp_path / "field.parquet")
    rows = rows_from_path(tmp_path / "field.parquet")
    assert [pixels_of(image).tolist() for image in rows.image] == GREY.tolist()
    assert rows.path == (["0.png", "1.png", "2.png", "3.png"] if struct else [""] * 4)
    assert rows.label == ["0", "1", "2", ""]
    assert rows.source == ["a", "b", "", ""]


def test_a_parquet_file_without_labels(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [png(GREY[0])]}), tmp_path / "field.parquet")
    with pytest.raises(InvalidFailures, match="the column label"):
        rows_from_path(tmp_path / "field.parquet")


BYTES = [png(image) for image in GREY[:2]]
STRUCTS = [{"bytes": data, "path": None} for data in BYTES]


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (pa.array([], pa.binary()), pa.array([], pa.int64()), "it has no rows"),
        (pa.array([None, None], pa.binary()), [0, 1], "no row of it holds the bytes of an image"),
        (pa.array([{"path": "a.png", "bytes": None}] * 2, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
         [0, 1], "no row of it holds the bytes"),
        (pa.array(["a.png", "b.png"]), [0, 1], "no column for the image"),
        (pa.array([{"path": "a.png"}] * 2), [0, 1], "no column for the image"),
        (pa.array(BYTES), pa.StringArray.from_buffers(2, *pa.array([b"zero", b"\xff"]).buffers()[1:]), "utf-8"),
        (pa.array(BYTES), [True, False], "neither integers nor text"),
    ],
)  # fmt: skip
def test_parquet_that_holds_no_failures(tmp_path: Path, images: pa.Array, labels: Any, said: str) -> None:
    pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "field.parquet")
    with pytest.raises(UnreadableFailures, match=said):
        rows_from_path(tmp_path / "field.parquet")


@pytest.mark.parametrize(
    "images",
    [
        *(pa.array(BYTES, kind) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())),
        pa.array(BYTES).dictionary_encode(),
        pa.array(STRUCTS, pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])),
    ],
    ids=lambda images: str(images.type)[:20],
)
@pytest.mark.parametrize("labels", [[2, 0], ["two", "zero"], [2.0, 0.0]], ids=str)
def test_what_one_reader_of_parquet_takes_the_other_takes(tmp_path: Path, images: pa.Array, labels: list[Any]) -> None:
    table = pa.table({"other": [b"no image"] * 2, "img": images, "target": labels})
    pq.write_table(table, tmp_path / "field.parquet")
    rows = rows_from_path(tmp_path / "field.parquet")
    loaded = load_image_set(tmp_path / "field.parquet", SPEC, ImagesConfig())
    assert rows.label == [str(labels[0]).removesuffix(".0"), str(labels[1]).removesuffix(".0")]
    assert loaded.labels.tolist() == [2, 0]
    assert rows.sample_id == loaded.sample_ids.tolist()


def test_numbers_count_the_files_own_class_names_and_one_bad_row_stays(tmp_path: Path) -> None:
    turned = {"class_names": json.dumps(CLASSES[::-1])}
    images = pa.array([*BYTES, None, b""])
    table = pa.table({"image": images, "label": [0, 3, 1, 7]}).replace_schema_metadata(turned)
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    rows = rows_from_path(tmp_path)  # a folder of shards
    assert rows.label == ["three", "zero", "two", "7 of 4 names"]
    assert rows.image == [*BYTES, b"", b""]


def test_times_out_of_range_and_columns_twice(tmp_path: Path) -> None:
    times = pa.array([0, 2**62]).cast(pa.timestamp("us"))
    pq.write_table(pa.table({"image": BYTES, "label": [0, 1], "captured_at": times}), tmp_path / "a.parquet")
    with pytest.raises(UnreadableFailures, match=r"a\.parquet is no parquet file, or damaged"):
        rows_from_path(tmp_path / "a.parquet")
    twice = pa.Table.from_arrays([pa.array(BYTES), pa.array([0, 1]), pa.array([0, 1])], ["image", "label", "label"])
    pq.write_table(twice, tmp_path / "b.parquet")
    for read in (rows_from_path, lambda path: load_image_set(path, SPEC, ImagesConfig())):
        with pytest.raises((UnreadableFailures, UnreadableDataset), match="2 columns of the name 'label'"):
            read(tmp_path / "b.parquet")


def test_parts_of_many_rows(tmp_path: Path) -> None:
    n = 10_001
    rows = FailureRows(
        [f"{i:064x}" for i in range(n)],
        [b"x"] * n,
        [""] * n,
        ["zero"] * n,
        [""] * n,
        [0.5] * n,
        *[[""] * n] * 4,
        [False] * n,
    )
    parts = write_rows(rows, tmp_path)
    assert list(parts) == ["part-00000.parquet", "part-00001.parquet"]
    back = FailureRows.concatenate([read_rows(tmp_path / name) for name in parts])
    assert back.digest() == rows.digest()
    assert len(back) == n
    assert back.sample_id[-1] == f"{n - 1:064x}"


# Batches in MLflow


def test_a_batch_is_one_finished_run(client: MlflowClient) -> None:
    batch = log_failures("prod/cls", GREY, LABELS)
    run = client.get_run(batch.run_id)
    assert run.info.status == "FINISHED"
    assert {k: v for k, v in run.data.tags.items() if k.startswith("repairops.")} == {
        "repairops.kind": "failures",
        "repairops.model": "cls",
        "repairops.model_version": "1",
        "repairops.batch_sha256": batch.digest,
        "repairops.rows": "4",
    }
    assert client.get_experiment(run.info.experiment_id).name == "repairops/failures/cls"
    assert (batch.model, batch.model_version, batch.rows, batch.created) == ("cls", "1", 4, True)
    assert run.data.metrics == {"failures": 4}
    assert run.data.tags["mlflow.source.name"]
    assert run.data.tags["mlflow.user"]
    assert run.data.tags["mlflow.note.content"].startswith(
        "4 failures of version 1 of cls.\n\nBy true class: `zero (1),"
    )
    (entry,) = run.inputs.dataset_inputs
    assert (entry.dataset.digest, json.loads(entry.dataset.profile)) == (batch.digest[:36], {"num_rows": 4})
    assert json.loads(entry.dataset.source) == {"uri": batch.uri} == {"uri": f"{run.info.artifact_uri}/batch"}


def test_a_batch_shows_its_images_and_where_they_come_from(client: MlflowClient) -> None:
    """Thumbnails in the batch's order, without what does not decode; wide images keep their shape."""
    wide = np.full((20, 80, 3), (255, 0, 0), np.uint8)
    files = [png(GREY[0]), b"no image at all", png(wide), png(COLOUR[1])]
    batch = log_failures("cls", files, ["zero"] * 4, sources=["camera `7`", "camera 8", "camera 8", ""])
    tags = client.get_run(batch.run_id).data.tags
    assert tags["repairops.sources"] == "camera 8 (2), camera '7' (1)"
    assert "4 failures of cls, from `camera 8 (2), camera '7' (1)`." in tags["mlflow.note.content"]
    sheet = np.asarray(Image.open(client.download_artifacts(batch.run_id, "contact_sheet.png")))
    assert sheet.shape == (76, 224, 3)
    assert np.array_equal(sheet[2:74:9, 2:74:9], COLOUR[0])
    assert (sheet[2:20, 76:148] == (255, 0, 0)).all()
    assert (sheet[20:74, 76:148] == 160).all()
    assert contact_sheet([b"", b"nothing"]) == b""
    assert list_failures("prod/cls") == list_failures("cls") == [batch]


def test_two_thousand_images_are_one_run_and_one_file(
    client: MlflowClient,
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2000, 32, 32, 3), dtype=np.uint8)
    batch = log_failures("cls", images, (np.arange(2000) % 4).tolist())
    experiment = client.get_experiment_by_name("repairops/failures/cls").experiment_id
    assert [run.info.run_id for run in client.search_runs([experiment])] == [batch.run_id]
    assert artifact_paths(client, batch.run_id) == [
        "batch/manifest.json", "batch/part-00000.parquet", "contact_sheet.png"
    ]  # fmt: skip
    rows = fetch_rows(client, [batch])
    assert len(rows) == 2000
    assert np.array_equal(pixels_of(rows.image[1999]), images[1999])


def test_the_same_batch_is_one_batch_in_any_order_and_form(client: MlflowClient) -> None:
    first = log_failures("prod/cls", GREY, LABELS)
    again = log_failures("cls", [png(image) for image in GREY[::-1]], LABELS[::-1])
    assert first.created
    assert not again.created
    assert (again.run_id, again.digest) == (first.run_id, first.digest)
    assert len(list_failures("cls")) == 1


def test_other_labels_or_sources_are_another_batch(client: MlflowClient) -> None:
    digests = {
        log_failures("cls", GREY, LABELS).digest,
        log_failures("cls", GREY, LABELS[::-1]).digest,
        log_failures("cls", GREY, LABELS, sources="camera-2").digest,
        log_failures("cls", GREY[:3], LABELS[:3]).digest,
    }
    assert len(digests) == 4
    assert {batch.digest for batch in list_failures("cls")} == digests


def test_a_deleted_or_unfinished_batch_does_not_count(client: MlflowClient) -> None:
    batch = log_failures("cls", GREY, LABELS)
    client.set_terminated(batch.run_id, "FAILED")
    assert list_failures("cls") == []
    second = log_failures("cls", GREY, LABELS)
    assert second.created
    client.delete_run(second.run_id)
    third = log_failures("cls", GREY, LABELS)
    assert third.created
    assert len({batch.run_id, second.run_id, third.run_id}) == 3


def test_a_deleted_experiment_comes_back(client: MlflowClient) -> None:
    batch = log_failures("cls", GREY, LABELS)
    client.delete_experiment(client.get_run(batch.run_id).info.experiment_id)
    assert log_failures("cls", GREY[:2], LABELS[:2]).created


def test_batches_of_models_are_kept_apart(client: MlflowClient) -> None:
    add_version(client, "signs", "prod")
    ours, theirs = log_failures("cls", GREY, LABELS), log_failures("signs", GREY, LABELS)
    assert ours.digest == theirs.digest
    assert list_failures("cls") == [ours]
    assert list_failures("signs") == [theirs]


def test_unknown_models(client: MlflowClient) -> None:
    for model in ("prod/nothing", "nothing", "cls@nobody", "models:/cls/9"):
        with pytest.raises(ModelNotFound):
            log_failures(model, GREY, LABELS)
        with pytest.raises(ModelNotFound):
            list_failures(model)
    assert [experiment.name for experiment in client.search_experiments()] == ["Default"]


def test_an_active_run_is_left_alone(client: MlflowClient) -> None:
    with mlflow.start_run() as run:
        batch = log_failures("cls", GREY, LABELS)
        assert mlflow.active_run().info.run_id == run.info.run_id
    assert batch.run_id != run.info.run_id


# Choosing


def batch_of(digest: str, run_id: str) -> LoggedBatch:
    return LoggedBatch(run_id, digest, "cls", "1", 4, 0)


def test_choosing_batches() -> None:
    a, b, c = batch_of("aa" * 32, "run-a"), batch_of("ab" * 32, "run-b"), batch_of("c" * 64, "run-c")
    logged = [a, b, c]
    assert choose_batches(logged, "auto") == choose_batches(logged, "") == logged
    assert choose_batches(logged, "auto", used={a.digest[:16], c.digest[:16]}) == [b]
    assert choose_batches(logged, "auto", used={d.digest[:16] for d in logged}) == []
    assert choose_batches(logged, "run-c") == [c]
    assert choose_batches(logged, "abababab") == [b]
    assert choose_batches(logged, f"run-c, {a.digest} ,cccccccc,", used={c.digest[:16]}) == [c, a]  # asked for: taken
    for missing in ("ab", "abababac", "nothing"):
        with pytest.raises(FailureBatchNotFound, match=r"aaaaaaaa \(4 rows\)"):
            choose_batches(logged, missing)
    with pytest.raises(FailureBatchNotFound, match=r"\(none\)"):
        choose_batches([], "run-a")


# Damage


def artifact(client: MlflowClient, batch: LoggedBatch, name: str) -> Path:
    return Path(client.get_run(batch.run_id).info.artifact_uri.removeprefix("file://")) / "batch" / name


def test_a_part_of_other_columns_is_damage(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": BYTES, "label": [0, 1]}), tmp_path / "part-00000.parquet")
    with pytest.raises(UnreadableDataset, match="not those of a logged batch"):
        read_rows(tmp_path / "part-00000.parquet")


def test_an_altered_part_is_found(client: MlflowClient) -> None:
    batch = log_failures("cls", GREY, LABELS)
    part = artifact(client, batch, "part-00000.parquet")
    table = pq.read_table(part)
    pq.write_table(table.set_column(table.column_names.index("label"), "label", pa.array(["zero"] * 4)), part)
    with pytest.raises(FailureBatchDamaged, match=rf"{batch.run_id}.*sha256 of part-00000\.parquet"):
        fetch_rows(client, [batch])


def test_a_missing_part_and_a_broken_manifest_are_found(client: MlflowClient) -> None:
    batch = log_failures("cls", GREY, LABELS)
    manifest = artifact(client, batch, "manifest.json")
    artifact(client, batch, "part-00000.parquet").unlink()
    with pytest.raises(FailureBatchDamaged, match=r"part-00000\.parquet is missing"):
        fetch_rows(client, [batch])
    rewrite_json(manifest, parts="gone")
    with pytest.raises(FailureBatchDamaged, match="manifest"):
        fetch_rows(client, [batch])
    manifest.write_text('{"schema": 1')
    with pytest.raises(FailureBatchDamaged, match="manifest"):
        fetch_rows(client, [batch])
    manifest.unlink()
    manifest.with_name("other.txt").write_text("")
    with pytest.raises(FailureBatchDamaged, match="manifest"):
        fetch_rows(client, [batch])


def test_files_of_another_batch_are_found(client: MlflowClient) -> None:
    batch, other = log_failures("cls", GREY, LABELS), log_failures("cls", GREY, LABELS[::-1])
    for name in ("manifest.json", "part-00000.parquet"):
        artifact(client, batch, name).write_bytes(artifact(client, other, name).read_bytes())
    with pytest.raises(FailureBatchDamaged, match="another batch"):
        fetch_rows(client, [batch])


def test_of_the_same_batch_the_run_that_ended_first_stays(client: MlflowClient) -> None:
    """Two writers at once: A starts first and ends last, so that B is in use already."""
    b = log_failures("cls", GREY, LABELS)
    run = client.get_run(b.run_id)
    experiment, tags = run.info.experiment_id, {k: v for k, v in run.data.tags.items() if k.startswith("repairops.")}
    a = client.create_run(experiment, start_time=run.info.start_time - 1000, tags=tags).info.run_id
    client.set_terminated(a)
    kept = _keep_first(client, "cls", b.digest, a)
    assert (kept.run_id, kept.created) == (b.run_id, False)
    assert client.get_run(a).info.lifecycle_stage == "deleted"
    assert [batch.run_id for batch in list_failures("cls")] == [b.run_id]


# Two processes


def log_in_process(uri: str, own: int) -> str:
    """Logs three batches of its own and then one that both processes log; the runs' ids, '-' where not created."""
    answers = []
    for start in (40 + 30 * own, 50 + 30 * own, 60 + 30 * own, 0):
        batch = log_failures("cls", digits(8, start), [0, 1, 2, 3] * 2, tracking_uri=uri)
        answers.append(batch.run_id if batch.created else "-")
    return " ".join(answers)


def check_two_writers(uri: str, client: MlflowClient) -> None:
    answers = in_processes(log_in_process, [(uri, 0), (uri, 1)])
    first, second = (answer.split() for answer in answers)
    assert len(first) == len(second) == 4, answers
    batches = logged_batches(client, "cls")
    shared = make_rows(digits(8), [0, 1, 2, 3] * 2).digest()
    assert len(batches) == 7
    assert {b.run_id for b in batches if b.digest != shared} == {*first[:3], *second[:3]}
    assert len(fetch_rows(client, batches)) == 7 * 8
    kept = next(b.run_id for b in batches if b.digest == shared)
    assert kept in (first[3], second[3])
    assert "-" in (first[3], second[3])


def test_two_processes_at_once_lose_nothing(client: MlflowClient, registry: str) -> None:
    check_two_writers(registry, client)


def test_rows_at_hand_are_logged_as_they_are(client: MlflowClient, tmp_path: Path) -> None:
    folder = field_folder(tmp_path / "field", "file,label", "day/0.png,zero", "day/2.png,two")
    batch = log_rows("prod/cls", rows_from_path(folder))
    rows = fetch_rows(client, [batch])
    assert rows.path == ["day/0.png", "day/2.png"]
    assert rows.image[0] == (folder / "day" / "0.png").read_bytes()
    assert rows.sample_id == make_rows(GREY[[0, 2]], ["zero", "two"]).sample_id
