"""Where the images of a data set lie: an ImageFolder, or hub-style parquet. Encoded bytes and labels, in a stream.

A further column of parquet is read for slices.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repairops.errors import ClassMismatch, DatasetNotFound, InvalidOption, UnreadableDataset, listing

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
IMAGE_COLUMNS = ("image", "img", "images", "picture")
_BATCH_ROWS = 512
_SPLIT_SHARD = re.compile(r"(.+)-\d+-of-\d+")  # hub shards: train-00000-of-00002.parquet

Row = tuple[str, bytes, int]


@dataclass(frozen=True)
class Source:
    """Encoded images in a fixed order. rows: a fresh stream of (place for messages, bytes, class index)."""

    count: int
    rows: Callable[[], Iterator[Row]]


def resolve_label(text: str, class_names: Sequence[str]) -> int | None:
    """The class index that a label means, written as a name or as an index; None for an unknown one.

    A name wins over an index: with the classes ("1", "2", "3") the label "1" is the class named 1, not index 1.
    """
    text = text.strip()
    if text in class_names:
        return class_names.index(text)
    if text.isascii() and text.isdigit() and int(text) < len(class_names):
        return int(text)
    return None


def open_source(path: Path, class_names: Sequence[str] | None, role: str) -> Source:
    """The images under `path` with labels in the order of `class_names`; None: in the source's own order.

    Raises DatasetNotFound, UnreadableDataset, or ClassMismatch where the source's classes are not the wanted ones.
    """
    shards = parquet_files(path, role)
    return _parquet_source(path, shards, class_names) if shards else _folder_source(path, class_names)


def peek_class_names(path: str | Path) -> tuple[str, ...] | None:
    """Class names that a data set carries: its folders, its schema's names, or its text labels, sorted.

    None where it has integer labels alone. Raises DatasetNotFound.
    """
    path = Path(path)
    shards = parquet_files(path)
    if not shards:
        return tuple(_class_folders(path)) if path.is_dir() else None
    import pyarrow.parquet as pq

    layout = _layout(path, shards)
    if layout.names or not layout.text_labels:
        return layout.names
    values = {v for shard in shards for v in pq.read_table(shard, columns=[layout.label])[layout.label].to_pylist()}
    return tuple(sorted(str(v) for v in values if v is not None))


def read_column(path: str | Path, column: str, option: str) -> np.ndarray:
    """The column's values as texts (N,), '' for null, in the order of `load_image_set`.

    option: the option that names the column, for messages. Raises InvalidOption where there is no such column.
    """
    import pyarrow.parquet as pq

    shards = parquet_files(Path(path))
    if not shards:
        raise InvalidOption(option, column, f"unset: {path} is an ImageFolder, which has no columns")
    values: list[object] = []
    for shard in shards:
        names = pq.read_schema(shard).names
        if column not in names:
            raise InvalidOption(option, column, f"one of the columns of {shard.name}: {', '.join(names)}")
        values += pq.read_table(shard, columns=[column])[column].to_pylist()
    return np.array(["" if value is None else str(value) for value in values])


def parquet_files(path: Path, role: str = "image set") -> list[Path]:
    """The parquet file, or the shards that a folder holds, sorted by name; empty where it is an ImageFolder.

    Raises DatasetNotFound, and UnreadableDataset for a folder with shards of several splits: reading them as one would
    put the test images into the train set.
    """
    if not path.exists():
        raise DatasetNotFound(role, str(path), "Give the path of an ImageFolder or of parquet files.")
    if path.is_file():
        return [path]
    shards = sorted(p for p in path.glob("*.parquet") if not p.name.startswith("."))
    splits = sorted({match[1] for p in shards if (match := _SPLIT_SHARD.fullmatch(p.stem))})
    if len(splits) > 1:
        raise UnreadableDataset(path, f"it holds shards of {len(splits)} splits ({listing(splits)}), not of one")
    return shards


# ImageFolder


def _class_folders(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _folder_source(path: Path, class_names: Sequence[str] | None) -> Source:
    """Classes by the names of the folders, whatever their order; files in the order of class, then path."""
    found = _class_folders(path)
    if not found:
        raise UnreadableDataset(path, "the folder holds neither class folders nor *.parquet")
    names = list(class_names) if class_names is not None else found
    if set(names) != set(found):
        raise ClassMismatch(path, found, names)
    files = [(file, index) for index, name in enumerate(names) for file in image_files(path / name)]
    if not files:
        raise UnreadableDataset(path, f"its {len(found)} class folders hold no image files")

    def rows() -> Iterator[Row]:
        for file, label in files:
            try:
                yield str(file), file.read_bytes(), label
            except OSError as error:
                raise UnreadableDataset(path, f"{file}: {error.strerror}") from error

    return Source(len(files), rows)


def image_files(folder: Path) -> list[Path]:
    """All files below a folder that have the suffix of an image, sorted by path, without hidden ones."""
    found = []
    for parent, _, names in os.walk(folder, followlinks=True):
        found += [Path(parent, n) for n in names if not n.startswith(".") and Path(n).suffix.lower() in EXTENSIONS]
    return sorted(found)


# Parquet


@dataclass(frozen=True)
class _Layout:
    image: str
    label: str
    names: tuple[str, ...] | None
    text_labels: bool


def _parquet_source(path: Path, shards: list[Path], class_names: Sequence[str] | None) -> Source:
    import pyarrow.parquet as pq

    layout = _layout(path, shards)
    count = sum(pq.read_metadata(shard).num_rows for shard in shards)
    if count == 0:
        raise UnreadableDataset(path, "it has no rows")
    wanted = class_names if class_names is not None else peek_class_names(path)
    if layout.names and wanted and set(layout.names) != set(wanted):
        raise ClassMismatch(path, layout.names, wanted)

    def rows() -> Iterator[Row]:
        for shard in shards:
            for number, data, label in _shard_rows(path, shard, layout):
                index = _index(label, layout, wanted)
                if index is None and layout.text_labels:
                    raise ClassMismatch(path, [str(label)], wanted or ())
                if index is None:
                    classes = len(layout.names or wanted or ())
                    raise UnreadableDataset(path, f"{shard.name} row {number} has the label {label!r}, which is no "
                                            f"index of its {classes} classes")  # fmt: skip
                yield f"{shard.name} row {number}", data, index

    return Source(count, rows)


def _index(label: Any, layout: _Layout, wanted: Sequence[str] | None) -> int | None:
    """The wanted class index of a stored label. Numbers index the file's own names, where it has some."""
    if label is None:
        return None
    if layout.text_labels:
        return resolve_label(str(label), wanted or ())
    label = int(label)
    if layout.names:
        return list(wanted or layout.names).index(layout.names[label]) if 0 <= label < len(layout.names) else None
    return label if label >= 0 and (wanted is None or label < len(wanted)) else None


def _shard_rows(path: Path, shard: Path, layout: _Layout) -> Iterator[tuple[int, bytes, Any]]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[layout.image, layout.label]):
                images = batch.column(layout.image)
                if pa.types.is_struct(images.type):
                    images = pc.struct_field(images, "bytes")
                for data, label in zip(images.to_pylist(), batch.column(layout.label).to_pylist(), strict=True):
                    if data is None:
                        raise UnreadableDataset(path, f"{shard.name} row {number} holds no image bytes")
                    yield number, data, label
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise UnreadableDataset(path, f"{shard.name}: {error}") from error


def _layout(path: Path, shards: list[Path]) -> _Layout:
    """Columns and class names, which all shards must share."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    layouts = {}
    for shard in shards:
        try:
            layouts[shard.name] = _schema_layout(path, pq.read_schema(shard))
        except (pa.ArrowException, OSError) as error:
            raise UnreadableDataset(path, f"{shard.name} is no parquet file: {error}") from error
    first, *others = layouts
    differing = [name for name in others if layouts[name] != layouts[first]]
    if differing:
        raise UnreadableDataset(path, f"{first} and {differing[0]} differ in columns or class names")
    return layouts[first]


def _schema_layout(path: Path, schema: Any) -> _Layout:
    import pyarrow.types as pt

    def is_bytes(kind: Any) -> bool:
        return bool(pt.is_binary(kind) or pt.is_large_binary(kind))

    def is_image(kind: Any) -> bool:
        return is_bytes(kind) or any(
            f.name == "bytes" and is_bytes(f.type) for f in (kind if pt.is_struct(kind) else ())
        )

    def is_text(kind: Any) -> bool:
        return bool(pt.is_string(kind) or pt.is_large_string(kind))

    images = [f.name for f in schema if is_image(f.type)]
    image = next((n for n in IMAGE_COLUMNS if n in images), images[0] if images else None)
    label = next((n for n in LABEL_COLUMNS if n in schema.names), None)
    if image is None or label is None:
        labels = ", ".join(LABEL_COLUMNS)
        missing = "image (struct of bytes and path, or binary)" if image is None else f"label ({labels})"
        raise UnreadableDataset(path, f"it has no column for the {missing}; its columns are {listing(schema.names)}")
    kind = schema.field(label).type
    kind = kind.value_type if pt.is_dictionary(kind) else kind
    if not (is_text(kind) or pt.is_integer(kind)):
        raise UnreadableDataset(path, f"its column {label!r} holds {kind}, neither integers nor text")
    return _Layout(image, label, _schema_names(schema.metadata or {}, label), is_text(kind))


def _schema_names(metadata: dict[bytes, bytes], label: str) -> tuple[str, ...] | None:
    """Names under the key `class_names` (a JSON list), or in the hub's own `huggingface` features."""
    try:
        if b"class_names" in metadata:
            names = json.loads(metadata[b"class_names"])
        else:
            info = json.loads(metadata.get(b"huggingface", b"{}"))
            names = info.get("info", {}).get("features", {}).get(label, {}).get("names")
    except (ValueError, AttributeError, TypeError):
        return None
    if isinstance(names, dict):  # {"0": "cat", ...}
        names = [names[key] for key in sorted(names, key=int)]
    return tuple(str(name) for name in names) if names and isinstance(names, list) else None
