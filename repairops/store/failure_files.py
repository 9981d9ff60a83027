"""Failures from files that somebody else wrote: a folder with a CSV, or parquet."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from repairops.data.parquet import Layout, image_bytes, read_columns, read_layout, read_schema
from repairops.data.sources import parquet_files
from repairops.errors import UnreadableDataset, UnreadableFailures, listing
from repairops.files import read_text
from repairops.store.failure_rows import OPTIONAL, FailureRows, as_text, make_rows

CSV_BYTES = 64 * 2**20  # about half a million rows


def rows_from_path(
    path: str | Path, table: str | Path | None = None, source: str = "", *, field: bool = False
) -> FailureRows:
    """Rows from a folder with a CSV of its files, or from parquet as `load_image_set` reads it (a file, or shards).

    The CSV (`table`, else failures.csv in the folder) has a column `file` (relative to the folder) and `label`, and
    may have `predicted`, `confidence`, `captured_at`, `source`, `group` and `field`; a parquet may have the same ones.

    field: for all rows, whatever their column says.

    Raises UnreadableFailures.
    """
    path = Path(os.path.expanduser(path))
    table = Path(table) if table else path / "failures.csv"
    if os.path.isdir(path) and (os.path.lexists(table) or not any(path.glob("*.parquet"))):
        rows = _rows_from_folder(path, table, source)
    elif os.path.exists(path):
        rows = _rows_from_parquet(path, source)
    else:
        raise UnreadableFailures(path, "it does not exist")
    return replace(rows, field=[True] * len(rows)) if field else rows


def _rows_from_folder(folder: Path, table: Path, source: str) -> FailureRows:
    lines = _read_csv(table)
    columns = {name: [line[name] for line in lines] for name in lines[0]}
    paths = [_inside(folder, name, table) for name in columns["file"]]
    return _with_columns(paths, columns, columns["file"], source)


def _read_csv(table: Path) -> list[dict[str, str]]:
    """The rows by column, at least one; cells that a line leaves out at its end are empty."""
    try:
        text = read_text(table, CSV_BYTES)
    except OSError as error:
        raise UnreadableFailures(table, error.strerror) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(cells)]
    except csv.Error as error:
        raise UnreadableFailures(table, f"line {reader.line_num}: {error}") from error
    head = lines[0][1] if lines else []
    for column in ("file", "label"):
        if column not in head:
            parts = {mark: head[0].split(mark) for mark in (";", "\t", "|") if head}
            apart = [repr(mark) for mark, names in parts.items() if column in names]
            why = f"its cells are separated by {apart[0]}" if apart else f"its first line is: {listing(head)}"
            raise UnreadableFailures(table, f"it has no column {column!r}; {why}")
    if twice := [name for name in ("file", "label", *OPTIONAL) if head.count(name) > 1]:
        raise UnreadableFailures(table, f"it has the column {twice[0]!r} twice")
    if len(lines) < 2:
        raise UnreadableFailures(table, "it has no rows")
    for number, cells in lines[1:]:
        if any(cells[len(head) :]):
            raise UnreadableFailures(table, f"line {number} has {len(cells)} cells and the first line {len(head)}")
    return [dict.fromkeys(head, "") | dict(zip(head, cells, strict=False)) for _, cells in lines[1:]]


def _inside(folder: Path, name: str, table: Path) -> Path:
    """The regular file of that name in the folder. Raises UnreadableFailures."""
    path = folder / name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise UnreadableFailures(table, f"it names {name[:200]!r}, which lies outside {folder}")
    if not os.path.isfile(path):
        raise UnreadableFailures(table, f"it names {name[:200]!r}, which is not in {folder}")
    return path


def _rows_from_parquet(path: Path, source: str) -> FailureRows:
    """Raises UnreadableFailures."""
    try:
        shards = parquet_files(path, "failure batch") or [path]
        layout = read_layout(path, shards)
        known = read_schema(path, shards[0]).names
        names = [layout.image, layout.label, *(name for name in OPTIONAL if name in known and name != layout.image)]
        rows = [row for shard in shards for row in read_columns(path, shard, names)]
    except UnreadableDataset as error:
        raise UnreadableFailures(path, error.fact) from error
    if not any(image_bytes(row[0]) for row in rows):
        raise UnreadableFailures(path, "no row of it holds the bytes of an image" if rows else "it has no rows")
    images, labels, *others = zip(*rows, strict=True)
    columns = dict(zip(names[2:], others, strict=True)) | {"label": [_class_of(label, layout) for label in labels]}
    paths = [str((isinstance(image, dict) and image.get("path")) or "") for image in images]
    return _with_columns([image_bytes(image) or b"" for image in images], columns, paths, source)


def _class_of(label: Any, layout: Layout) -> Any:
    """The class that a stored label names; validation refuses a number that the file's own names do not reach."""
    number = as_text(label)
    if layout.text_labels or layout.names is None or not number:
        return label
    known = number.isdecimal() and len(number) < 20 and int(number) < len(layout.names)
    return layout.names[int(number)] if known else f"{number} of {len(layout.names)} names"


def _with_columns(images: Any, columns: Mapping[str, Sequence[Any]], names: Sequence[str], source: str) -> FailureRows:
    sources = columns.get("source")
    return make_rows(
        images,
        columns["label"],
        columns.get("predicted"),
        confidences=columns.get("confidence"),
        captured_at=columns.get("captured_at"),
        sources=source or None if sources is None else [value or source for value in sources],
        groups=columns.get("group"),
        field=columns.get("field", False),
        paths=names,
    )
