"""The rows of a failure batch as they are logged, before validation: encoded images and columns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from repairops.data.parquet import read_columns, read_schema
from repairops.errors import InvalidFailures, UnreadableDataset, shown
from repairops.files import read_file
from repairops.store.runs import file_sha256

if TYPE_CHECKING:
    import pandas as pd

PART_ROWS = 10_000
IMAGE_BYTES = 256 * 2**20  # of one file; what a network may read of it validation says
T = TypeVar("T")
OPTIONAL = ("predicted", "confidence", "captured_at", "source", "group", "field")
_COLUMNS = ("sample_id", "label", *OPTIONAL[:-1])
_TRUTHS = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}


@dataclass(frozen=True, eq=False)
class FailureRows:
    """Columns of one length. sample_id: sha256 of the decoded pixels, or of the bytes where they do not decode.

    image: encoded files. label, predicted: class names or indices as text, predicted '' = unknown.
    confidence: NaN = unknown. captured_at: ISO 8601 or ''. batch: digest of the logged batch, '' before logging.
    field: whether the image was taken from the traffic whatever the model answered; else it is a failure.
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
    field: list[bool]

    def __len__(self) -> int:
        return len(self.sample_id)

    def digest(self) -> str:
        """sha256 over what each row says of its pixels; the order of the rows does not matter."""
        marks = ["\0field" if mark else "" for mark in self.field]
        texts = zip(self.sample_id, self.label, self.predicted, self.source, self.group, strict=True)
        lines = sorted("\0".join(row) + mark for row, mark in zip(texts, marks, strict=True))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def frame(self) -> pd.DataFrame:
        """The rows as validation takes them; without a column `field` where none is marked."""
        import pandas as pd

        return pd.DataFrame({name: getattr(self, name) for name in self._columns()})

    def _columns(self) -> list[str]:
        return [f.name for f in fields(self) if f.name != "field" or any(self.field)]

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
    field: Sequence[Any] | bool = False,
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
        label=_column("labels", labels, n, as_text),
        predicted=_column("predictions", predictions, n, as_text),
        confidence=_column("confidences", confidences, n, _number),
        captured_at=_column("captured_at", captured_at, n, as_text),
        source=_column("sources", sources, n, as_text),
        group=_column("groups", groups, n, as_text),
        batch=[""] * n,
        field=_column("field", [field] * n if isinstance(field, bool) else field, n, _truth),
    )


def write_rows(rows: FailureRows, folder: Path) -> dict[str, str]:
    """Writes part-*.parquet into `folder`; returns their sha256 by name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts, schema = {}, _schema(marked=any(rows.field))
    for number, start in enumerate(range(0, len(rows), PART_ROWS)):
        piece = {f.name: getattr(rows, f.name)[start : start + PART_ROWS] for f in fields(rows)}
        piece["image"] = [{"bytes": d, "path": name} for d, name in zip(piece["image"], piece["path"], strict=True)]
        file = folder / f"part-{number:05d}.parquet"
        table = pa.table({name: piece[name] for name in schema.names}, schema=schema)
        pq.write_table(table, file, compression="zstd")
        parts[file.name] = file_sha256(file)
    return parts


def read_rows(file: Path) -> FailureRows:
    """The rows of one part that `write_rows` wrote. Raises UnreadableDataset."""
    found = read_schema(file, file)
    schema = _schema(marked="field" in found.names)
    if not found.equals(schema, check_metadata=False):
        raise UnreadableDataset(file, "its columns are not those of a logged batch")
    rows = list(read_columns(file, file, schema.names, bounded=False))  # its digest is known
    columns = {name: [row[i] for row in rows] for i, name in enumerate(schema.names)}
    images = columns.pop("image")
    if not all(isinstance(image, dict) and image["bytes"] is not None for image in images):
        raise UnreadableDataset(file, "a row of it holds no image bytes")
    return FailureRows(
        image=[image["bytes"] for image in images],
        path=[image["path"] for image in images],
        batch=[""] * len(images),
        **{"field": [False] * len(images), **columns},
    )


def _schema(*, marked: bool) -> Any:
    """Of a logged part. marked: some of its batch's rows are from the traffic; others are as before there were such."""
    import pyarrow as pa

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = [(name, pa.string() if name != "confidence" else pa.float64()) for name in _COLUMNS]
    return pa.schema([("image", image), *texts, *([("field", pa.bool_())] if marked else [])])


def _encode(images: Any) -> tuple[list[bytes], list[str], list[str]]:
    """(encoded files, sample ids, names) of any accepted form of images."""
    from repairops.data.decoding import encode_png, file_id, sample_ids
    from repairops.data.sets import to_pixels

    if isinstance(images, Iterable) and not hasattr(images, "shape"):
        images = list(images)
        if images and isinstance(images[0], bytes | bytearray | str | Path):
            files = [_file_bytes(image) for image in images]
            names = [as_text(Path(image).name) if isinstance(image, str | Path) else "" for image in images]
            return files, [file_id(file) for file in files], names
    pixels = to_pixels(images)
    return [encode_png(image) for image in pixels], sample_ids(pixels).tolist(), [""] * len(pixels)


def _file_bytes(image: bytes | bytearray | str | Path) -> bytes:
    if isinstance(image, bytes | bytearray):
        return bytes(image)
    try:
        return read_file(image, IMAGE_BYTES)
    except OSError as error:
        raise InvalidFailures(f"{image} cannot be read ({error.strerror}). Check the path.") from error


def _column(name: str, values: Sequence[Any] | None, n: int, convert: Callable[[Any], T]) -> list[T]:
    """The values as they are stored, one for each image; all unknown where there are none."""
    found = [convert(value) for value in ([None] * n if values is None else values)]
    if len(found) != n:
        raise InvalidFailures(f"There are {n} images and {len(found)} {name}. Give one of {name} for each image.")
    return found


def as_text(value: Any) -> str:
    """A value as it is stored: '' for None and NaN, whole numbers without a point, times in ISO 8601."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if hasattr(value, "isoformat"):  # a date or a time
        return str(value.isoformat())
    if hasattr(value, "item"):  # numpy and torch scalars
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).encode("utf-8", "replace").decode()  # half a character, as in a damaged file's name, becomes '?'


def _truth(value: Any) -> bool:
    text = as_text(value).strip().lower()
    if text not in _TRUTHS:
        raise InvalidFailures(f"The column field holds {shown(value)}. Write true or false, or leave it empty.")
    return _TRUTHS[text]


def _number(value: Any) -> float:
    try:
        return float("nan") if value in (None, "") else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidFailures(
            f"The confidence {shown(value)} is not a number. Leave it empty where unknown."
        ) from error
