"""Decoded image sets in files that outlast a job: the next one maps the pixels, and decodes nothing.

A file is named by what its images were decoded from and for, so nothing in it ever changes: pixels uint8 (N, C, H, W),
labels int64 (N,), sample ids (N, 32 bytes), one after another. It appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL

from repairops.config import ImagesConfig
from repairops.data.decoding import sample_id
from repairops.data.records import Drawn, ImageSet, InputSpec
from repairops.data.sets import decode_source, load_image_set, mapped, reserve
from repairops.data.sources import open_source

VERSION = "1"  # of the file's form and of what `decode_image` makes of a picture
SUFFIX, PART = ".images", ".part"
LEAST = 2**20  # bytes of pixels; fewer are decoded faster than they are looked after
CHECKED = 500  # images of a file whose ids are computed anew before it is believed
DEAD = 86400  # seconds without a change after which a part was left by a process that died
_BESIDE = 8 + 32  # bytes of an image's label and id


def kept_name(digest: str, spec: InputSpec, images: ImagesConfig, drawn: Drawn | None = None) -> str:
    """The name of the file for images whose encoded files have this digest: another one for each size and limit."""
    said = [VERSION, PIL.__version__, digest, spec.channels, spec.height, spec.width, spec.resize, *spec.class_names]
    rows = hashlib.sha256(drawn.rows.tobytes()).hexdigest() if drawn else ""
    text = "\0".join(map(str, [*said, images.max_image_pixels, images.max_image_bytes, rows]))
    return hashlib.sha256(text.encode()).hexdigest()[:32] + SUFFIX


def load_kept(
    path: Path,
    spec: InputSpec,
    images: ImagesConfig,
    file: Path,
    *,
    role: str,
    cache_dir: Path,
    unchanged: Callable[[], bool],
    warn: Callable[[str], None],
    drawn: Drawn | None = None,
) -> ImageSet:
    """`load_image_set`: mapped from `file`, a `kept_name` in a folder that exists, where it is there, else left there.

    unchanged: asked after decoding whether `path` still holds what the file's name says. warn: gets a sentence where
    nothing can be kept, and the job goes on without. Raises what `load_image_set` raises.
    """
    if (found := read_kept(file, spec, str(path), drawn)) is not None:
        return found
    source = open_source(path, spec.class_names, role, images.max_image_bytes)
    count = len(drawn.rows) if drawn else source.count
    shape = (count, spec.channels, spec.height, spec.width)
    part = _begin(file, int(np.prod(shape, dtype=np.int64)), count * _BESIDE, images, role, warn)
    if part is None:
        return load_image_set(path, spec, images, role=role, cache_dir=cache_dir, drawn=drawn)
    try:
        loaded = decode_source(source, mapped(part, shape), path, spec, images, drawn)
        if unchanged():
            _end(part, file, loaded)
    except OSError as error:
        warn(f"The decoded {role} is not kept for later jobs: {error.strerror or error}.")
    finally:
        part.unlink(missing_ok=True)
    return read_kept(file, spec, str(path), drawn) or loaded


def read_kept(file: Path, spec: InputSpec, source: str, drawn: Drawn | None = None) -> ImageSet | None:
    """The set in a file, its pixels mapped and private to this process; None where there is none, or a damaged one.

    Its ids are believed after those of `CHECKED` images, evenly spread, were computed anew. The file's time says that
    it was used.
    """
    each = spec.channels * spec.height * spec.width
    try:
        count, left = divmod(file.stat().st_size, each + _BESIDE)
        if left or not count or (drawn and count != len(drawn.rows)):
            return None
        shape = (count, spec.channels, spec.height, spec.width)
        with file.open("rb") as opened:
            opened.seek(count * each)
            labels = np.frombuffer(opened.read(8 * count), np.int64).copy()
            ids = np.frombuffer(opened.read(32 * count).hex().encode(), "S64").astype("<U64")
        pixels = mapped(file, shape, shared=False)
        os.utime(file)
    except (OSError, RuntimeError, ValueError):
        return None
    rows = np.unique(np.linspace(0, count - 1, min(CHECKED, count)).astype(np.int64))
    sound = all(sample_id(pixels[row]) == ids[row] for row in rows.tolist())
    if not sound or labels.min() < 0 or labels.max() >= spec.classes:
        return None
    return ImageSet(pixels, labels, spec.class_names, ids, source, drawn)


def _begin(
    file: Path, pixels: int, beside: int, images: ImagesConfig, role: str, warn: Callable[[str], None]
) -> Path | None:
    """A new file beside `file` that has its room on the disk; None where nothing is kept.

    Files that were not used for longest make room, up to `images.cache_mb` of all; no set takes more than half of what
    is free.
    """
    size, most = pixels + beside, images.cache_mb * 2**20
    if pixels < LEAST or size > most:
        return None
    try:
        others = sorted(file.parent.glob(f"*{SUFFIX}"), key=lambda other: other.stat().st_mtime)
        total = sum(other.stat().st_size for other in others)
        for other in [*dead_parts(file.parent), *others]:
            if other.suffix != PART and total + size <= most:
                break
            total -= other.stat().st_size if other.suffix != PART else 0
            other.unlink()
        free = shutil.disk_usage(file.parent).free
        if size > free // 2:
            warn(f"The decoded {role} is not kept for later jobs: it has {size >> 20:,} MB of {free >> 20:,} MB free.")
            return None
        handle, name = tempfile.mkstemp(prefix=f"{file.stem}.", suffix=PART, dir=file.parent)
        try:
            reserve(handle, size)
        except OSError:
            Path(name).unlink()
            raise
        finally:
            os.close(handle)
    except OSError as error:
        warn(f"The decoded {role} is not kept for later jobs: {error.strerror or error}.")
        return None
    return Path(name)


def dead_parts(folder: Path) -> list[Path]:
    """What processes that died have left half written."""
    parts = []
    for part in folder.glob(f"*{PART}"):
        with contextlib.suppress(OSError):
            if part.stat().st_mtime < time.time() - DEAD:
                parts.append(part)
    return parts


def _end(part: Path, file: Path, loaded: ImageSet) -> None:
    """Writes labels and ids behind the pixels, and puts the file in its place once all of it is on the disk."""
    with part.open("r+b") as opened:
        opened.seek(loaded.pixels.numel())
        opened.write(np.ascontiguousarray(loaded.labels, np.int64).tobytes())
        opened.write(bytes.fromhex("".join(loaded.sample_ids.tolist())))
        opened.flush()
        os.fsync(opened.fileno())  # after a crash the name must not stand for pages that were never written
    part.replace(file)
