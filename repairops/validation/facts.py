"""What validation knows of each logged failure, one boolean column for each rule. Facts only; nothing decides here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from repairops.config import ImagesConfig
from repairops.data.decoding import decode_image, file_id, sample_id
from repairops.data.records import InputSpec
from repairops.data.sources import brief, resolve_label
from repairops.errors import UnreadableImage

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

Predict = Callable[["Tensor"], tuple[np.ndarray, np.ndarray]]
FindCopies = Callable[["Tensor"], Mapping[str, np.ndarray]]

ROW_RULES: dict[str, str] = {  # in the order in which the first broken one is named; the usual detail of each
    "does_not_decode": "the file does not decode",
    "too_large": "the file is too large",
    "animated": "the file has more than one frame",
    "wrong_mode": "the pixel mode cannot be converted",
    "wrong_size": "the size is not the model's",
    "altered": "the pixels are not those that were logged under this sample_id",
    "unknown_label": "the label is neither a class name nor an index",
    "conflicting_labels": "the same pixels were logged under different labels",
    "duplicate": "the same pixels and label stand earlier in the batch",
    "in_clean_set": "the image is in the clean set, which only judges",
    "in_validation_set": "the image is one of the clean validation images, which only choose",
    "in_train_set": "the image is in the train set already",
    "near_copy": "nearly the same image is in another set",
    "stale": "the pinned version answers this image correctly",
    "out_of_range": "a value is out of range",
}
# Re-logged batches bring duplicates, and earlier repairs make rows stale: neither says that the batch is bad.
BENIGN = ("duplicate", "stale")
_CONFIDENCE_SLACK = 1e-6  # float32 softmax may end slightly above 1
_CLOCK_SLACK = timedelta(days=1)  # times without a zone are read as UTC; a zone is at most 14 hours off


@dataclass(frozen=True, eq=False)
class RowFacts:
    """N logged rows, M of which decode.

    holds: bool frame (N, rules); True where the rule is kept or does not apply to the row.
    details: sentences beyond a rule's usual one, by (row, rule).
    pixels: uint8 (M, C, H, W). position: int64 (N,), the row's place in `pixels`, -1 where it does not decode.
    ids: (N,) strings, recomputed from the pixels, '' where they do not decode.
    labels, predicted: int64 (N,), -1 = unknown. confidence: float32 (N,), the pinned version's, NaN = unknown.
    groups, sources: (N,) strings, '' = unknown. field: bool (N,), rows of the traffic's sample that may judge.
    """

    holds: pd.DataFrame
    details: Mapping[tuple[int, str], str]
    pixels: Tensor
    position: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    groups: np.ndarray
    sources: np.ndarray
    field: np.ndarray


class _Broken:
    """Collects which rows break which rule, and why."""

    def __init__(self, rows: int) -> None:
        self.masks = {rule: np.zeros(rows, dtype=bool) for rule in ROW_RULES}
        self.details: dict[tuple[int, str], str] = {}

    def add(self, row: int, rule: str, detail: str) -> None:
        self.masks[rule][row] = True
        self.details[row, rule] = detail


def gather(
    rows: pd.DataFrame,
    spec: InputSpec,
    predict: Predict,
    known: Mapping[str, Collection[str]],
    images: ImagesConfig,
    *,
    find_copies: FindCopies | None = None,
    kept: Collection[str] | None = None,
    now: datetime | None = None,
) -> RowFacts:
    """All facts of all rows; arguments as `contract.validate`.

    known: by rule, the ids of images that it forbids. now: the time that `captured_at` may not pass.
    """
    import pandas as pd

    broken = _Broken(len(rows))
    encoded = rows["image"].tolist()
    pixels, position, ids = _decode(encoded, spec, images, broken)
    decodes = position >= 0
    _altered(rows["sample_id"].tolist(), encoded, ids, broken)
    labels = _labels(rows["label"].tolist(), spec.class_names, broken)
    predicted, confidence = _predictions(predict, pixels, position)
    _out_of_range(rows, confidence, decodes, now or datetime.now(UTC), broken)
    _repeated(ids, labels, decodes, broken)
    for rule, forbidden in known.items():
        forbidden = frozenset(forbidden)
        broken.masks[rule] = np.array([bool(i) and i in forbidden for i in ids], dtype=bool)
    for name, mask in (find_copies(pixels) if find_copies and len(pixels) else {}).items():
        for row in np.flatnonzero(decodes)[mask[position[decodes]]]:
            if not any(broken.masks[rule][row] for rule in known):
                broken.add(int(row), "near_copy", f"nearly the same image is in the {name}")
    right = decodes & (labels >= 0) & (predicted == labels)
    field = _in_sample(rows, ids) if kept is None else np.zeros(len(rows), dtype=bool)
    if kept is None:
        broken.masks["stale"] = right & ~field
    else:
        _not_kept(decodes & (labels >= 0), ids, kept, broken)
    return RowFacts(
        pd.DataFrame({rule: ~mask for rule, mask in broken.masks.items()}),
        broken.details,
        pixels,
        position,
        ids,
        labels,
        predicted,
        confidence,
        *(np.array([brief(text_of(v)) for v in rows[column]], dtype=np.str_) for column in ("group", "source")),
        *[field],
    )


def text_of(value: Any) -> str:
    """A logged value as text; '' for None, NaN and pandas' NA."""
    if value is None or value != value or type(value).__name__ == "NAType":
        return ""
    return str(value).strip()


def _decode(
    encoded: Sequence[Any], spec: InputSpec, images: ImagesConfig, broken: _Broken
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """(pixels, position, ids) of the rows; those that do not decode are noted under the reason."""
    out = np.empty((len(encoded), spec.channels, spec.height, spec.width), dtype=np.uint8)
    position = np.full(len(encoded), -1, dtype=np.int64)
    ids = np.full(len(encoded), "", dtype="<U64")
    used = 0
    for row, data in enumerate(encoded):
        try:
            data = bytes(data) if isinstance(data, bytes | bytearray | memoryview) else b""
            out[used] = decode_image(data, spec, max_pixels=images.max_image_pixels, max_bytes=images.max_image_bytes)
        except UnreadableImage as error:
            broken.add(row, error.reason, error.detail)
            continue
        position[row], ids[row] = used, sample_id(out[used])
        used += 1
    return torch.from_numpy(out[:used]), position, ids


def _altered(logged: Sequence[Any], encoded: Sequence[Any], ids: np.ndarray, broken: _Broken) -> None:
    """Compares the logged identifier with the bytes: the pixels as decoded here, else in the file's own size and
    mode, else the file itself."""
    for row, (value, data) in enumerate(zip(logged, encoded, strict=True)):
        claimed = text_of(value).lower()
        if not claimed or not ids[row] or claimed == ids[row]:
            continue
        if claimed not in (hashlib.sha256(data).hexdigest(), file_id(bytes(data))):
            broken.add(row, "altered", f"logged as {claimed[:12]}, the pixels are {ids[row][:12]} (sha256)")


def _labels(logged: Sequence[Any], class_names: Sequence[str], broken: _Broken) -> np.ndarray:
    labels = np.full(len(logged), -1, dtype=np.int64)
    for row, value in enumerate(logged):
        text = text_of(value)
        index = resolve_label(text, class_names)
        if index is None:
            found = f"the label {text[:80]!r}" if text else "the row has no label, which"
            broken.add(row, "unknown_label", f"{found} is neither a class name nor an index below {len(class_names)}")
        else:
            labels[row] = index
    return labels


def _predictions(predict: Predict, pixels: Tensor, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pinned version's answers by row; not asked where nothing decodes."""
    predicted = np.full(len(position), -1, dtype=np.int64)
    confidence = np.full(len(position), np.nan, dtype=np.float32)
    if len(pixels):
        predicted[position >= 0], confidence[position >= 0] = predict(pixels)
    return predicted, confidence


def _out_of_range(rows: pd.DataFrame, pinned: np.ndarray, decodes: np.ndarray, now: datetime, broken: _Broken) -> None:
    import pandas as pd

    values = rows["confidence"].tolist()
    numbers = pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").to_numpy(dtype=np.float64)
    known = np.array([text_of(value) != "" for value in values], dtype=bool)
    inside = (numbers >= -_CONFIDENCE_SLACK) & (numbers <= 1 + _CONFIDENCE_SLACK)
    for row in np.flatnonzero(known & ~inside):
        broken.add(int(row), "out_of_range", f"confidence is {text_of(values[row])[:40]}; it must be in 0..1")
    for row in np.flatnonzero(decodes & ~np.isfinite(pinned)):
        broken.add(int(row), "out_of_range", f"the pinned version's confidence is {pinned[row]}")
    stamps = [text_of(value) for value in rows["captured_at"].tolist()]
    times = pd.to_datetime(pd.Series(stamps, dtype=object), utc=True, errors="coerce", format="ISO8601")
    latest = pd.Timestamp(now + _CLOCK_SLACK)
    for row in np.flatnonzero(times.isna() & np.array([stamp != "" for stamp in stamps], dtype=bool)):
        broken.add(int(row), "out_of_range", f"captured_at is {stamps[row][:40]!r}, which is no ISO 8601 time")
    for row in np.flatnonzero(times > latest):
        broken.add(int(row), "out_of_range", f"captured_at is {stamps[row][:40]}, in the future")


def _in_sample(rows: pd.DataFrame, ids: np.ndarray) -> np.ndarray:
    """Rows, bool (N,), of which this copy or another one was logged as taken from the traffic whatever the answer."""
    if "field" not in rows:
        return np.zeros(len(rows), dtype=bool)
    marked = rows["field"].to_numpy(dtype=bool)
    return marked | np.isin(ids, list({*ids[marked].tolist()} - {""}))


def _not_kept(known: np.ndarray, ids: np.ndarray, kept: Collection[str], broken: _Broken) -> None:
    """Of the rows that are `known`, bool (N,), those that are not among the `kept`."""
    for row in np.flatnonzero(known & ~np.isin(ids, list(kept))):
        broken.add(int(row), "stale", "none of the version's repairs took it: it was right then, or quarantined")


def _repeated(ids: np.ndarray, labels: np.ndarray, decodes: np.ndarray, broken: _Broken) -> None:
    """Marks conflicting labels (all copies), then duplicates: all copies after the first that breaks no rule of its
    own, so that a sound copy is never lost to an unsound one before it."""
    labelled = decodes & (labels >= 0) & ~broken.masks["altered"]
    label_of: dict[str, int] = {}
    conflicting = set()
    for row in np.flatnonzero(labelled):
        if label_of.setdefault(ids[row], labels[row]) != labels[row]:
            conflicting.add(ids[row])
    kept: set[str] = set()
    for row in np.flatnonzero(labelled):
        if ids[row] in conflicting:
            broken.masks["conflicting_labels"][row] = True
        elif ids[row] in kept:
            broken.masks["duplicate"][row] = True
        elif not broken.masks["out_of_range"][row]:
            kept.add(ids[row])
