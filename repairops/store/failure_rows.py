"""The rows of a failure batch as they are logged, before validation: encoded images and columns."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from repairops.errors import InvalidFailures
from repairops.store.runs import file_sha256

if TYPE_CHECKING:
    import pandas as pd

PART_ROWS = 10_000
T = TypeVar("T")
_COLUMNS = ("sample_id", "label", "predicted", "confidence", "captured_at", "source", "group")


@dataclass(frozen=True, eq=False)
class FailureRows:
    """Columns of one length. sample_id: sha256 of the decoded pixels, or of the bytes where they do not decode.

    image: encoded files. label, predicted: class names or indices as text, predicted '' = unknown.
    confidence: NaN = unknown. captured_at: ISO 8601 or ''. batch: digest of the logged batch, '' before logging.
    """

    sample_id: list[str]
    image: list[bytes]
    path: list[str]
    label: list[str]
    predicted: list[str]
    confidence: list[float]
    captured_at: list[str]
    source: list[str]
    group: list[str]
    batch: list[str]

    def __len__(self) -> int:
        return len(self.sample_id)

    def digest(self) -> str:
        """sha256 over what each row says of its pixels; the order of the rows does not matter."""
        lines = sorted(
            "\0".join(row)
            for row in zip(self.sample_id, self.label, self.predicted, self.source, self.group, strict=True)
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def frame(self) -> pd.DataFrame:
        """The rows as validation takes them."""
        import pandas as pd

        return pd.DataFrame({f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def concatenate(cls, parts: Sequence[FailureRows]) -> FailureRows:
        return cls(*([value for part in parts for value in getattr(part, f.name)] for f in fields(cls)))


def make_rows(
    images: Any,
    labels: Sequence[str | int],
    predictions: Sequence[str | int] | None = None,
    *,
    confidences: Sequence[float] | None = None,
    captured_at: Sequence[Any] | None = None,
    sources: Sequence[str] | str | None = None,
    groups: Sequence[Any] | None = None,
    paths: Sequence[str] | None = None,
) -> FailureRows:
    """Rows from arrays, tensors, PIL images, encoded files or paths; see `log_failures`. Raises InvalidFailures."""
    encoded, ids, names = _encode(images)
    n = len(encoded)
    if n == 0:
        raise InvalidFailures("The failure batch has no images. Log at least one.")
    if isinstance(sources, str):
        sources = [sources] * n
    return FailureRows(
        sample_id=ids,
        image=encoded,
        path=list(paths) if paths is not None else names,
        label=_column("labels", labels, n, _text),
        predicted=_column("predictions", predictions, n, _text),
        confidence=_column("confidences", confidences, n, _number),
        captured_at=_column("captured_at", captured_at, n, _text),
        source=_column("sources", sources, n, _text),
        group=_column("groups", groups, n, _text),
        batch=[""] * n,
    )


def rows_from_path(path: str | Path, table: str | Path | None = None, source: str = "") -> FailureRows:
    """Rows from a parquet with an image column, or from a folder with a CSV of its files.

    The CSV (`table`, else failures.csv in the folder) has a column `file` (relative to the folder) and `label`, and
    may have `predicted`, `confidence`, `captured_at`, `source` and `group`; a parquet may have the same columns.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _rows_from_folder(path, Path(table) if table else path / "failures.csv", source)
    if path.is_file():
        return _rows_from_parquet(path, source)
    raise InvalidFailures(f"{path} does not exist. Give a folder with a CSV, or a parquet file.")


def write_rows(rows: FailureRows, folder: Path) -> dict[str, str]:
    """Writes part-*.parquet into `folder`; returns their sha256 by name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = {}
    for number, start in enumerate(range(0, len(rows), PART_ROWS)):
        piece = {f.name: getattr(rows, f.name)[start : start + PART_ROWS] for f in fields(rows)}
        image = [{"bytes": data, "path": name} for data, name in zip(piece["image"], piece["path"], strict=True)]
        columns = {name: pa.array(piece[name]) for name in _COLUMNS}
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        file = folder / f"part-{number:05d}.parquet"
        pq.write_table(pa.table({"image": pa.array(image, kind), **columns}), file, compression="zstd")
        parts[file.name] = file_sha256(file)
    return parts


def read_rows(file: Path) -> FailureRows:
    """The rows of one part that `write_rows` wrote."""
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    images = table.column("image").to_pylist()
    columns = {name: table.column(name).to_pylist() for name in _COLUMNS}
    return FailureRows(
        image=[image["bytes"] for image in images],
        path=[image["path"] for image in images],
        batch=[""] * len(images),
        **columns,
    )


def _rows_from_folder(folder: Path, table: Path, source: str) -> FailureRows:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file))
    except OSError as error:
        raise InvalidFailures(
            f"{table} cannot be read ({error.strerror}). Write a CSV with the columns file and label there, "
            "or name it with --csv."
        ) from error
    if not lines:
        raise InvalidFailures(f"{table} has no rows. Write one line for each failure.")
    for column in ("file", "label"):
        if column not in lines[0]:
            raise InvalidFailures(f"{table} has no column {column!r}; it has: {', '.join(lines[0])}.")
    paths = []
    for line in lines:
        path = folder / str(line["file"])
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InvalidFailures(f"{table} names {line['file']!r}, which lies outside {folder}. Move it inside.")
        if not path.is_file():
            raise InvalidFailures(f"{table} names {line['file']!r}, which is not in {folder}. Correct the line.")
        paths.append(path)
    return _with_columns(paths, lines, [str(line["file"]) for line in lines], source)


def _rows_from_parquet(path: Path, source: str) -> FailureRows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InvalidFailures(f"{path} is not a parquet file ({' '.join(str(error).split())[:150]}).") from error
    binary = [f.name for f in table.schema if pa.types.is_struct(f.type) or pa.types.is_binary(f.type)]
    if len(binary) != 1 or "label" not in table.column_names:
        raise InvalidFailures(
            f"{path} has the columns {', '.join(table.column_names)}; it needs one column of images "
            "(bytes, or a struct of bytes and path) and the column label."
        )
    images = table.column(binary[0]).to_pylist()
    files = [image["bytes"] if isinstance(image, dict) else image for image in images]
    names = [str((image.get("path") if isinstance(image, dict) else "") or "") for image in images]
    others = [name for name in table.column_names if name != binary[0]]
    return _with_columns(files, table.select(others).to_pylist(), names, source)


def _with_columns(images: Any, lines: Sequence[dict[str, Any]], names: list[str], source: str) -> FailureRows:
    def column(name: str) -> list[Any] | None:
        return [line[name] for line in lines] if name in lines[0] else None

    sources = column("source")
    return make_rows(
        images,
        [line["label"] for line in lines],
        column("predicted"),
        confidences=column("confidence"),
        captured_at=column("captured_at"),
        sources=source or None if sources is None else [value or source for value in sources],
        groups=column("group"),
        paths=names,
    )


def _encode(images: Any) -> tuple[list[bytes], list[str], list[str]]:
    """(encoded files, sample ids, names) of any accepted form of images."""
    from repairops.data.decoding import encode_png, file_id, sample_ids
    from repairops.data.sets import to_pixels

    if isinstance(images, Iterable) and not hasattr(images, "shape"):
        images = list(images)
        if images and isinstance(images[0], bytes | bytearray | str | Path):
            files = [_file_bytes(image) for image in images]
            names = [Path(image).name if isinstance(image, str | Path) else "" for image in images]
            return files, [file_id(file) for file in files], names
    pixels = to_pixels(images)
    return [encode_png(image) for image in pixels], sample_ids(pixels).tolist(), [""] * len(pixels)


def _file_bytes(image: bytes | bytearray | str | Path) -> bytes:
    if isinstance(image, bytes | bytearray):
        return bytes(image)
    path = Path(image)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidFailures(f"{path} cannot be read ({error.strerror}). Check the path.") from error


def _column(name: str, values: Sequence[Any] | None, n: int, convert: Callable[[Any], T]) -> list[T]:
    """The values as they are stored, one for each image; all unknown where there are none."""
    found = [convert(value) for value in ([None] * n if values is None else values)]
    if len(found) != n:
        raise InvalidFailures(f"There are {n} images and {len(found)} {name}. Give one of {name} for each image.")
    return found


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if hasattr(value, "isoformat"):  # a date or a time
        return str(value.isoformat())
    if hasattr(value, "item"):  # numpy and torch scalars
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def _number(value: Any) -> float:
    try:
        return float("nan") if value in (None, "") else float(value)
    except (TypeError, ValueError) as error:
        raise InvalidFailures(f"The confidence {value!r} is not a number. Leave it empty where unknown.") from error
