"""Where the images of a data set lie: an ImageFolder, or hub-style parquet. Encoded bytes and labels, in a stream.

A further column of parquet is read for slices.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from repairops.data.parquet import Layout, count_rows, image_bytes, read_columns, read_layout, read_rows, read_schema
from repairops.errors import (
    ClassMismatch,
    DatasetImageUnusable,
    DatasetNotFound,
    InvalidOption,
    UnreadableDataset,
    listing,
)
from repairops.files import files_below, read_file

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
_LONGEST = 200  # characters of a text that stands in an array
_SPLIT_SHARD = re.compile(r"(.+)-\d+-of-\d+")  # hub shards: train-00000-of-00002.parquet

Row = tuple[str, bytes, int]


@dataclass(frozen=True)
class Source:
    """Encoded images in a fixed order.

    rows: a fresh stream of (place for messages, bytes, class index), of all or of some, int64 (M,), ascending.
    """

    count: int
    rows: Callable[[np.ndarray | None], Iterator[Row]]


def resolve_label(text: str, class_names: Sequence[str]) -> int | None:
    """The class index that a label means, written as a name or as an index; None for an unknown one.

    A name wins over an index: with the classes ("1", "2", "3") the label "1" is the class named 1, not index 1.
    """
    text = text.strip()
    if text in class_names:
        return class_names.index(text)
    if text.isascii() and text.isdigit() and len(text) < 20 and int(text) < len(class_names):
        return int(text)
    return None


def brief(text: str) -> str:
    """The text, or a long one's start and digest: an array of texts takes for each as much as for its longest."""
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST - 17]}~{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def open_source(path: Path, class_names: Sequence[str] | None, role: str, max_bytes: int) -> Source:
    """The images under `path` with labels in the order of `class_names`; None: in the source's own order.

    max_bytes: of one file; of a larger one no more is read.

    Raises DatasetNotFound, UnreadableDataset, or ClassMismatch where the source's classes are not the wanted ones.
    """
    shards = parquet_files(path, role)
    return _parquet_source(path, shards, class_names) if shards else _folder_source(path, class_names, max_bytes)


def peek_class_names(path: str | Path) -> tuple[str, ...] | None:
    """Class names that a data set carries: its folders, its schema's names, or its text labels, sorted.

    None where it has integer labels alone. Raises DatasetNotFound.
    """
    path = Path(path)
    shards = parquet_files(path)
    if not shards:
        return tuple(_class_folders(path)) if path.is_dir() else None
    layout = read_layout(path, shards)
    if layout.names or not layout.text_labels:
        return layout.names
    values = {value for shard in shards for (value,) in read_columns(path, shard, [layout.label])}
    return tuple(sorted(str(v) for v in values if v is not None))


def read_column(path: str | Path, column: str, option: str) -> np.ndarray:
    """The column's values as `brief` texts (N,), '' for null, in the order of `load_image_set`.

    option: the option that names the column, for messages. Raises InvalidOption where there is no such column.
    """
    path = Path(path)
    shards = parquet_files(path)
    if not shards:
        raise InvalidOption(option, column, f"unset: {path} is an ImageFolder, which has no columns")
    values: list[object] = []
    for shard in shards:
        names = read_schema(path, shard).names
        if column not in names:
            raise InvalidOption(option, column, f"one of the columns of {shard.name}: {', '.join(names)}")
        values += [value for (value,) in read_columns(path, shard, [column])]
    return np.array(["" if value is None else brief(str(value)) for value in values])


def parquet_files(path: Path, role: str = "image set") -> list[Path]:
    """The parquet file, or the shards that a folder holds, sorted by name; empty where it is an ImageFolder.

    Raises DatasetNotFound, and UnreadableDataset for a folder with shards of several splits: reading them as one would
    put the test images into the train set.
    """
    if not os.path.exists(path):  # Path.exists raises for a name that is too long
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
    try:
        return sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise UnreadableDataset(path, error.strerror) from error


def _folder_source(path: Path, class_names: Sequence[str] | None, max_bytes: int) -> Source:
    """Classes by the names of the folders, whatever their order; files in the order of class, then path.

    A link to a folder of another class, or to one around them, adds nothing.
    """
    found = _class_folders(path)
    if not found:
        raise UnreadableDataset(path, "the folder holds neither class folders nor *.parquet")
    names = list(class_names) if class_names is not None else found
    if set(names) != set(found):
        raise ClassMismatch(path, found, names)
    others = [path, *(path / name for name in names)]
    files = [(file, index) for index, name in enumerate(names) for file in image_files(path / name, others)]
    if not files:
        raise UnreadableDataset(path, f"its {len(found)} class folders hold no image files")

    def rows(chosen: np.ndarray | None) -> Iterator[Row]:
        for file, label in files if chosen is None else [files[row] for row in chosen.tolist()]:
            try:
                data = read_file(file, max_bytes)
            except OSError as error:
                raise DatasetImageUnusable(path, file, error.strerror) from error
            yield str(file), data, label

    return Source(len(files), rows)


def image_files(folder: Path, others: Sequence[Path] = ()) -> list[Path]:
    """The files below a folder, see `files_below`, that have the suffix of an image; without hidden ones.

    Raises UnreadableDataset.
    """
    try:
        files = files_below(folder, others)
    except OSError as error:
        raise UnreadableDataset(folder, error.strerror) from error
    return [file for file in files if not file.name.startswith(".") and file.suffix.lower() in EXTENSIONS]


# Parquet


def _parquet_source(path: Path, shards: list[Path], class_names: Sequence[str] | None) -> Source:
    layout = read_layout(path, shards)
    counts = [count_rows(path, shard) for shard in shards]
    if sum(counts) == 0:
        raise UnreadableDataset(path, "it has no rows")
    wanted = class_names if class_names is not None else peek_class_names(path)
    if layout.names and wanted and set(layout.names) != set(wanted):
        raise ClassMismatch(path, layout.names, wanted)

    def rows(chosen: np.ndarray | None) -> Iterator[Row]:
        for shard, count, end in zip(shards, counts, accumulate(counts), strict=True):
            start = end - count
            mine = None if chosen is None else chosen[(chosen >= start) & (chosen < end)] - start
            columns = [layout.image, layout.label]
            for number, (image, label) in read_rows(path, shard, columns, mine):
                data = image_bytes(image)
                if data is None:
                    raise UnreadableDataset(path, f"{shard.name} row {number} holds no image bytes")
                index = _index(label, layout, wanted)
                if index is None and layout.text_labels:
                    raise ClassMismatch(path, [str(label)], wanted or ())
                if index is None:
                    classes = len(layout.names or wanted or ())
                    raise UnreadableDataset(path, f"{shard.name} row {number} has the label {label!r}, which is no "
                                            f"index of its {classes} classes")  # fmt: skip
                yield f"{shard.name} row {number}", data, index

    return Source(sum(counts), rows)


def _index(label: Any, layout: Layout, wanted: Sequence[str] | None) -> int | None:
    """The wanted class index of a stored label. Numbers index the file's own names, where it has some."""
    if layout.text_labels:
        return resolve_label(str(label), wanted or ()) if label is not None else None
    if label is None or label != label // 1:  # a float that is none of the whole numbers
        return None
    label = int(label)
    if layout.names:
        return list(wanted or layout.names).index(layout.names[label]) if 0 <= label < len(layout.names) else None
    return label if label >= 0 and (wanted is None or label < len(wanted)) else None
