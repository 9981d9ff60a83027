"""Image sets: from arrays, an ImageFolder or hub-style parquet; in memory, or memory-mapped where they are large."""

from __future__ import annotations

import atexit
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repairops.config import ImagesConfig
from repairops.data.decoding import decode_image, encode_png, peek_shape, sample_id, sample_ids
from repairops.data.records import Drawn, ImageSet, InputSpec
from repairops.data.sources import Source, open_source, resolve_label
from repairops.errors import (
    DatasetImageUnusable,
    InvalidImages,
    InvalidLabels,
    NoSpaceForImages,
    UnreadableDataset,
    UnreadableImage,
)

_ROW_GROUP = 1000


def to_pixels(images: Any) -> Tensor:
    """Images in any usual form as uint8 (N, C, H, W), C = 1 or 3; always a copy.

    images: an array or tensor, uint8 or float in 0..1 (rounded to 255 steps), of shape (N, H, W), (N, H, W, C) or
    (N, C, H, W); or a sequence of PIL images (L or RGB) or arrays of one size.

    Raises InvalidImages, also where it cannot be told which axis holds the channels.
    """
    if isinstance(images, Sequence):
        images = _stacked(images)
    if not isinstance(images, np.ndarray | Tensor):
        raise InvalidImages(f"The images are a {type(images).__name__}")
    tensor = images.detach().cpu() if isinstance(images, Tensor) else _as_tensor(images)
    return _as_bytes(_channels_first(tensor)).clone(memory_format=torch.contiguous_format)


def from_arrays(images: Any, labels: Any, class_names: Sequence[str], source: str = "memory") -> ImageSet:
    """An image set from `to_pixels`' forms of images and labels as class indices or names.

    Numbers are indices; of texts a name wins over an index written as text. Raises InvalidImages, InvalidLabels.
    """
    names = tuple(class_names)
    pixels = to_pixels(images)
    values = labels.tolist() if isinstance(labels, np.ndarray | Tensor) else list(labels)
    if len(values) != len(pixels):
        raise InvalidLabels(f"There are {len(pixels)} images and {len(values)} labels", names)
    return ImageSet(pixels, _label_indices(values, names), names, sample_ids(pixels), source)


def load_image_set(
    path: str | Path,
    spec: InputSpec,
    images: ImagesConfig,
    *,
    role: str = "image set",
    cache_dir: Path | None = None,
    drawn: Drawn | None = None,
) -> ImageSet:
    """The images under `path`, decoded for a network: an ImageFolder, a parquet file or a folder of shards.

    Classes are matched by name with `spec.class_names`, whatever their order in the data set; parquet without
    class names has its integer labels taken as indices. Images are decoded one after another; where the pixels
    are more than `images.memory_limit_mb`, they lie in a memory-mapped file under `cache_dir` (default: the
    system's temporary folder) that vanishes with the process.

    role: the data set's name in messages, for example "clean set". drawn: which of them; the others are not decoded.

    Raises DatasetNotFound, UnreadableDataset (DatasetImageUnusable for one bad image), ClassMismatch,
    NoSpaceForImages.
    """
    path = Path(path)
    source = open_source(path, spec.class_names, role, images.max_image_bytes)
    count = len(drawn.rows) if drawn else source.count
    pixels = _allocate((count, spec.channels, spec.height, spec.width), images, role, cache_dir)
    return decode_source(source, pixels, path, spec, images, drawn)


def sample_images(
    path: str | Path, spec: InputSpec, images: ImagesConfig, count: int, *, seed: int, role: str = "image set"
) -> ImageSet:
    """`count` of the images under `path`, drawn evenly, in the data set's order: no others are decoded.

    Raises what `load_image_set` raises.
    """
    path = Path(path)
    source = open_source(path, spec.class_names, role, images.max_image_bytes)
    drawn = Drawn(np.sort(np.random.default_rng(seed).permutation(source.count)[:count]), source.count)
    pixels = _allocate((len(drawn.rows), spec.channels, spec.height, spec.width), images, role, None)
    return replace(decode_source(source, pixels, path, spec, images, drawn), drawn=None)


def decode_source(
    source: Source, pixels: Tensor, path: Path, spec: InputSpec, images: ImagesConfig, drawn: Drawn | None = None
) -> ImageSet:
    """Decodes the images of the source, or those drawn of it, into uint8 `pixels` (N, C, H, W).

    Raises UnreadableDataset (DatasetImageUnusable for one bad image), ClassMismatch.
    """
    out = pixels.numpy()
    labels, ids = np.empty(len(pixels), dtype=np.int64), np.empty(len(pixels), dtype="<U64")
    for row, (place, data, label) in enumerate(source.rows(drawn.rows if drawn else None)):
        try:
            image = decode_image(data, spec, max_pixels=images.max_image_pixels, max_bytes=images.max_image_bytes)
        except UnreadableImage as error:
            raise DatasetImageUnusable(path, place, error.detail) from error
        out[row], labels[row], ids[row] = image, label, sample_id(image)
    return ImageSet(pixels, labels, spec.class_names, ids, str(path), drawn)


def pick_images(
    image_set: ImageSet, indices: np.ndarray, images: ImagesConfig, *, role: str, cache_dir: Path | None = None
) -> ImageSet:
    """The images at `indices` (int64), in that order: a copy in memory, or as `load_image_set` where it is large.

    Raises NoSpaceForImages.
    """
    shape = (len(indices), *image_set.pixels.shape[1:])
    pixels = _allocate(shape, images, role, cache_dir)
    for start in range(0, len(indices), _ROW_GROUP):
        part = torch.from_numpy(indices[start : start + _ROW_GROUP])
        pixels[start : start + _ROW_GROUP] = image_set.pixels[part]
    labels, ids = image_set.labels[indices], image_set.sample_ids[indices]
    return ImageSet(pixels, labels, image_set.class_names, ids, image_set.source)


def peek_image_size(path: str | Path) -> tuple[int, int, int] | None:
    """(channels, height, width) of a data set's first image; None where that cannot be read."""
    caps = ImagesConfig()
    try:
        rows = open_source(Path(path), None, "image set", caps.max_image_bytes).rows(None)
        _, data, _ = next(rows)
        return peek_shape(data, max_pixels=caps.max_image_pixels, max_bytes=caps.max_image_bytes)
    except (UnreadableImage, UnreadableDataset):
        return None


def write_parquet(image_set: ImageSet, path: str | Path) -> None:
    """Writes an image set as one parquet file that `load_image_set` and the public hubs' tools read, without loss.

    Columns: image (struct of bytes, a PNG, and path), label (int64). The class names stand in the schema under the
    keys `class_names` (JSON list) and `huggingface`. The file appears when it is whole, never before.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(image_set.class_names)
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"class_names": json.dumps(names), "huggingface": json.dumps({"info": {"features": features}})},
    )
    with whole_file(Path(path)) as part, pq.ParquetWriter(part, schema) as writer:
        for start in range(0, len(image_set), _ROW_GROUP):
            block = image_set.pixels[start : start + _ROW_GROUP]
            files = [{"bytes": encode_png(p), "path": f"{start + i:08d}.png"} for i, p in enumerate(block)]
            labels = image_set.labels[start : start + _ROW_GROUP]
            writer.write_table(pa.table({"image": files, "label": labels}, schema=schema))


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to; the file takes the place of `path` when it is whole, so that nobody reads a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _allocate(shape: tuple[int, int, int, int], images: ImagesConfig, role: str, cache_dir: Path | None) -> Tensor:
    """An uninitialised uint8 tensor, in a memory-mapped file where it is larger than the memory limit."""
    size = int(np.prod(shape, dtype=np.int64))
    if size <= images.memory_limit_mb * 2**20:
        return torch.empty(shape, dtype=torch.uint8)
    folder = Path(cache_dir or tempfile.gettempdir())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="repairops-pixels-", dir=folder)
        try:
            reserve(handle, size)
            pixels = mapped(Path(name), shape)
        finally:
            os.close(handle)
            _remove_when_unused(name)
    except (OSError, RuntimeError) as error:
        raise NoSpaceForImages(role, size // 2**20, folder, str(error)) from error
    return pixels


def mapped(file: Path, shape: tuple[int, int, int, int], *, shared: bool = True) -> Tensor:
    """uint8 of this shape that lies at a file's start; not shared: what is written to it stays in this process."""
    size = int(np.prod(shape, dtype=np.int64))
    return torch.from_file(str(file), shared=shared, size=size, dtype=torch.uint8).view(shape)


def reserve(handle: int, size: int) -> None:
    """Takes the disk space now: writing to a mapped file on a full disk kills the process instead of raising."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:
        os.truncate(handle, size)


def _remove_when_unused(name: str) -> None:
    """Unlinks the file; the mapping keeps its pages until the tensor is gone. Windows refuses that: at exit then."""
    try:
        os.unlink(name)
    except PermissionError:
        atexit.register(Path(name).unlink, missing_ok=True)


def _stacked(images: Sequence[Any]) -> np.ndarray:
    if not images:
        raise InvalidImages("There are no images")
    modes = {getattr(image, "mode", "") for image in images}
    if modes - {"", "L", "RGB"}:
        raise InvalidImages(f"The PIL images have the modes {', '.join(sorted(modes))}; only L and RGB are taken")
    arrays = [np.asarray(image) for image in images]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise InvalidImages(f"The images have different shapes: {shapes[0]}, {shapes[1]}")
    return np.stack(arrays)


def _as_tensor(array: np.ndarray) -> Tensor:
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise InvalidImages(f"The images are {array.dtype}")
    return torch.from_numpy(np.array(array, dtype=np.uint8 if array.dtype == np.uint8 else np.float32))


def _channels_first(images: Tensor) -> Tensor:
    shape = tuple(images.shape)
    if images.ndim == 3 and shape[2] not in (1, 3):
        return images[:, None]
    if images.ndim == 3:
        raise InvalidImages(f"The images have the shape {shape}, which looks like one image (H, W, C), not many")
    if images.ndim != 4:
        raise InvalidImages(f"The images have the shape {shape}")
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first and last:
        raise InvalidImages(f"The images have the shape {shape}: the axis 1 or the axis 3 could hold the channels")
    if not first and not last:
        raise InvalidImages(f"The images have the shape {shape} with no axis of 1 or 3 channels")
    return images if first else images.permute(0, 3, 1, 2)


def _as_bytes(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise InvalidImages(f"The images are {images.dtype}")
    if images.numel():
        low, high = float(images.min()), float(images.max())  # NaN if any pixel is
        if not (low >= 0.0 and high <= 1.0):
            raise InvalidImages(f"The images are float from {low:g} to {high:g}")
    return (images.float() * 255).round().to(torch.uint8)


def _label_indices(values: Sequence[Any], names: tuple[str, ...]) -> np.ndarray:
    known = {value: _label_index(value, names) for value in set(values)}
    indices = [known[value] for value in values]
    if None in indices:
        row = indices.index(None)
        raise InvalidLabels(f"Label {row} is {values[row]!r}", names)
    return np.array(indices, dtype=np.int64)


def _label_index(value: Any, names: tuple[str, ...]) -> int | None:
    if isinstance(value, str):
        return resolve_label(value, names)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value) if 0 <= value < len(names) else None
    return None
