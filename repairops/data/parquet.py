"""Parquet with images and labels, a data set or failures: which columns hold them, and their rows, within bounds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repairops.errors import UnreadableDataset, listing, shown
from repairops.files import check_bounds

if TYPE_CHECKING:
    import numpy as np

LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
IMAGE_COLUMNS = ("image", "img", "images", "picture")
_BATCH_ROWS = 512
_BATCH_BYTES = 256 * 2**20  # unpacked; a value that is stored once may stand in every row of a batch
_UNPACKED = 100  # times the file's size that its columns may unpack to, where that is more than a batch


@dataclass(frozen=True)
class Layout:
    """The columns of images and labels. names: what integer labels count, None where the file does not say."""

    image: str
    label: str
    names: tuple[str, ...] | None
    text_labels: bool


def read_layout(path: Path, shards: Sequence[Path]) -> Layout:
    """The layout of the data set at `path`, which all its shards must share. Raises UnreadableDataset."""
    layouts = {shard.name: _schema_layout(path, read_schema(path, shard)) for shard in shards}
    first, *others = layouts
    differing = [name for name in others if layouts[name] != layouts[first]]
    if differing:
        raise UnreadableDataset(path, f"{first} and {differing[0]} differ in columns or class names")
    return layouts[first]


def read_schema(path: Path, shard: Path) -> Any:
    """The Arrow schema of a shard of the data set at `path`. Raises UnreadableDataset."""
    with _opened(path, shard) as file:
        return file.schema_arrow


def count_rows(path: Path, shard: Path) -> int:
    """As the file says. Raises UnreadableDataset, also where these are more than the file's bytes."""
    with _opened(path, shard) as file:
        rows, size = int(file.metadata.num_rows), shard.stat().st_size
    if not 0 <= rows <= size:
        raise UnreadableDataset(path, f"{shard.name} says that it has {rows:,} rows in {size:,} bytes")
    return rows


def read_columns(path: Path, shard: Path, columns: Sequence[str], *, bounded: bool = True) -> Iterator[tuple[Any, ...]]:
    """The values of some columns, a tuple for each row of a shard of the data set at `path`; see `read_rows`."""
    for _, values in read_rows(path, shard, columns, bounded=bounded):
        yield values


def read_rows(
    path: Path, shard: Path, columns: Sequence[str], wanted: np.ndarray | None = None, *, bounded: bool = True
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Numbers and values of rows of a shard of the data set at `path`: all, or the `wanted`, int64 (N,), ascending.

    Row groups that hold no wanted row are not read. Raises UnreadableDataset, also for a column that stands there
    twice; and, where `bounded`, for a small file that unpacks to a large one, before that is read where the file says
    so itself.
    """
    if wanted is not None and not len(wanted):
        return
    with _opened(path, shard) as file:
        names = file.schema_arrow.names
        if wrong := [name for name in columns if names.count(name) != 1]:
            fact = f"has {names.count(wrong[0])} columns of the name {wrong[0]!r}, not one"
            raise UnreadableDataset(path, f"{shard.name} {fact}")
        size, budget = shard.stat().st_size, max(_BATCH_BYTES, _UNPACKED * shard.stat().st_size)
        bomb = UnreadableDataset(path, f"{shard.name} has {size:,} bytes and unpacks to more than {budget:,}")
        groups = [_unpacked(file.metadata.row_group(i), columns) for i in range(file.num_row_groups)]
        if bounded and sum(groups) > budget:
            raise bomb
        start, rows = 0, max(1, min(_BATCH_ROWS, _BATCH_BYTES // max([1, *groups])))
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            mine = None if wanted is None else wanted[(wanted >= start) & (wanted < end)]
            if mine is not None and not len(mine):
                start = end
                continue
            for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=list(columns)):
                budget -= batch.nbytes
                if bounded and budget < 0:
                    raise bomb
                here = range(start, start + len(batch))
                start += len(batch)
                if mine is not None:
                    here = mine[(mine >= here.start) & (mine < here.stop)].tolist()
                    batch = batch.take([number - start + len(batch) for number in here])
                yield from zip(here, zip(*(batch.column(n).to_pylist() for n in columns), strict=True), strict=True)
        if start != file.metadata.num_rows:
            raise UnreadableDataset(
                path, f"{shard.name} says that it has {file.metadata.num_rows:,} rows, not {start:,}"
            )


def image_bytes(value: Any) -> bytes | None:
    """The encoded file in a value of the column of images; None where it holds none, a path alone for example."""
    return value.get("bytes") if isinstance(value, dict) else value


@contextmanager
def _opened(path: Path, shard: Path) -> Iterator[Any]:
    """A parquet file whose footer is read, and what goes wrong in the block as UnreadableDataset."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if not shard.is_file():  # a pipe would be waited for
            raise UnreadableDataset(path, f"{shard.name} is no regular file")
        with pq.ParquetFile(shard) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        why = " ".join(str(error).split())[:200]
        raise UnreadableDataset(path, f"{shard.name} is no parquet file, or damaged ({why})") from error


def _unpacked(group: Any, columns: Sequence[str]) -> int:
    """The bytes that the columns of a row group unpack to, as the file says."""
    parts = map(group.column, range(group.num_columns))
    return sum(part.total_uncompressed_size for part in parts if part.path_in_schema.partition(".")[0] in columns)


def _schema_layout(path: Path, schema: Any) -> Layout:
    import pyarrow.types as pt

    def is_bytes(kind: Any) -> bool:
        return bool(pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind))

    def is_image(kind: Any) -> bool:
        fields = kind if pt.is_struct(kind) else ()
        return is_bytes(kind) or any(f.name == "bytes" and is_bytes(f.type) for f in fields)

    def is_text(kind: Any) -> bool:
        return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))

    kinds = {f.name: f.type.value_type if pt.is_dictionary(f.type) else f.type for f in schema}
    images = [name for name, kind in kinds.items() if is_image(kind)]
    image = next((n for n in IMAGE_COLUMNS if n in images), images[0] if images else None)
    label = next((n for n in LABEL_COLUMNS if n in kinds), None)
    if image is None or label is None:
        missing = (
            "image (struct of bytes and path, or bytes)" if image is None else f"label ({', '.join(LABEL_COLUMNS)})"
        )
        raise UnreadableDataset(path, f"it has no column for the {missing}; its columns are {listing(schema.names)}")
    kind = kinds[label]
    if not (is_text(kind) or pt.is_integer(kind) or pt.is_floating(kind)):
        raise UnreadableDataset(path, f"its column {label!r} holds {kind}, neither integers nor text")
    return Layout(image, label, _schema_names(path, schema.metadata or {}, label), is_text(kind))


def _schema_names(path: Path, metadata: Mapping[bytes, bytes], label: str) -> tuple[str, ...] | None:
    """Names under the key `class_names` (a JSON list), or in the hub's own `huggingface` features."""
    key = "class_names" if b"class_names" in metadata else "huggingface"
    try:
        names = json.loads(metadata.get(key.encode(), b"null"))
        check_bounds(names, depth=50, items=10**6)
    except (ValueError, RecursionError) as error:
        raise UnreadableDataset(path, f"{key!r} in its schema is no JSON that can be read") from error
    if key == "huggingface":
        for step in ("info", "features", label, "names"):
            names = names.get(step) if isinstance(names, dict) else None
    if isinstance(names, dict) and all(map(str.isdecimal, names)):  # {"0": "cat", ...}
        names = [names[number] for number in sorted(names, key=int)]
    if names is None or names == []:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str | int) for name in names):
        raise UnreadableDataset(path, f"the class names in its schema are {shown(names)}, and must be a list of names")
    return tuple(map(str, names))
