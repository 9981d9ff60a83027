"""Seeded damage: to bytes, to plain values, to images and parquet as they are made; and what its reading takes."""

from __future__ import annotations

import io
import json
import random
import resource
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

TEXTS = (
    *(
        "",
        " ",
        "0",
        "-1",
        "3",
        "1e999",
        "nan",
        "9" * 5000,
        "zero",
        "Zero",
        "a\0b",
        "é",
        "日本",
        "\u202e",
        "x" * 200_000,
    ),
    *("../x.png", "/etc/passwd", "~nobody/x", "a" * 300, "a/" * 3000, ";", "\t", "\n", '"', "'", "#", "{", "[" * 900),
    *("2024-02-30", "9999-99-99T99:99", "-200000-01-01", "None", "true", "runs:/x", "models:/cls/1", "%s", "{0}"),
)
NUMBERS = (0, 1, -1, 2, 7, 255, 2**31, 2**53, -(2**63), 2**64, 10**18, 10**400, 0.5, -0.5, 1e-300, 1e300, 1e308)
ODD = (None, True, False, float("nan"), float("inf"), -float("inf"), [], {}, [[]], [None], {"?": 1}, {"": {}}, "\ud800")


def damaged_bytes(data: bytes, draw: random.Random) -> bytes:
    """A few bytes flipped, cut out, put in, repeated or moved, or the end cut off."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        start = draw.randrange(len(found) + 1)
        end = min(len(found), start + draw.choice((1, 2, 4, 8, 64, 512)))
        kind = draw.randrange(7)
        if kind == 0:
            found[start:end] = bytes(
                draw.choice((0, 0x7F, 0xFF, b ^ (1 << draw.randrange(8)))) for b in found[start:end]
            )
        elif kind == 1:
            del found[start:end]
        elif kind == 2:
            found[start:start] = draw.randbytes(draw.choice((1, 2, 8, 64)))
        elif kind == 3:
            found[start:start] = found[start:end] * draw.choice((1, 2, 100))
        elif kind == 4:
            found[start:end] = draw.choice((b"\0", b"\xff\xfe", b"PK\x03\x04", b"\r\n", b'"', b"1" * 400, b"[" * 900))
        elif kind == 5:
            found[start:end] = draw.randbytes(end - start)
        elif draw.random() < 0.3:
            del found[start:]
    return bytes(found)


def any_value(draw: random.Random) -> Any:
    """A value of any kind, small or absurd; some are deep."""
    kind = draw.randrange(12)
    if kind == 0:
        return nested(draw.choice((5, 60, 300)), draw.choice(([], {})))
    if kind == 1:
        return [any_value(draw) for _ in range(draw.randrange(3))]
    return draw.choice(draw.choice((TEXTS, NUMBERS, ODD)))


def nested(depth: int, value: Any) -> Any:
    for _ in range(depth):
        value = {"a": value} if isinstance(value, dict) else [value]
    return value


def damaged_values(values: Any, draw: random.Random) -> Any:
    """A deep copy of plain values with one to three of them replaced, left out, or put under another name."""
    values = json.loads(json.dumps(values))
    for _ in range(draw.choice((1, 1, 2, 3))):
        here, parents = values, []
        while isinstance(here, dict | list) and here and (not parents or draw.random() < 0.8):
            key = draw.choice(list(here) if isinstance(here, dict) else range(len(here)))
            parents.append((here, key))
            here = here[key]
        if not parents:
            return any_value(draw)
        parent, key = parents[-1]
        kind = draw.randrange(5)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[draw.choice(TEXTS)] = parent.pop(key)
        else:
            parent[key] = any_value(draw)
    return values


def some_image(draw: random.Random) -> bytes:
    """An encoded image of any format, mode and size, some long and narrow."""
    sizes = (8, 8, 16, 1, 2, 5000, 40_000)
    width, height = draw.choice(sizes), draw.choice(sizes)
    if width * height > 10**6:
        height = 3
    kind, mode = (
        draw.choice(("PNG", "JPEG", "TIFF", "TIFF")),
        draw.choice(("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F")),
    )
    seen = np.random.default_rng(draw.randrange(2**32)).integers(0, 256, (min(height, 64), min(width, 64), 3), np.uint8)
    image = Image.fromarray(seen).resize((width, height)).convert(mode)
    how: dict[str, Any] = {}
    if kind == "TIFF":
        packed = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")
        how["compression"] = "jpeg" if (mode, width, height) == ("RGB", 16, 8) else draw.choice(packed)
    if draw.random() < 0.2:
        how["exif"] = b"Exif\0\0MM\0*" + draw.randbytes(40)
    with io.BytesIO() as file, suppress(Exception):  # a mode that the format does not take
        image.save(file, kind, **how)
        return file.getvalue()
    return some_image(draw)


def damaged_image(data: bytes, draw: random.Random) -> bytes:
    """Values of a PNG's header, with a checksum that fits; else bytes."""
    if data[:4] != b"\x89PNG" or draw.random() < 0.5:
        return damaged_bytes(data, draw)
    header = bytearray(data[12:29])
    place = draw.choice((4, 8, 12, 13, 16))  # width, height, depth, colour, interlace
    header[place : place + 4 if place < 12 else place + 1] = (
        struct.pack(">I", draw.choice((0, 1, 8, 7000, 2**31 - 1, 2**32 - 1))) if place < 12 else draw.randbytes(1)
    )
    return data[:12] + bytes(header) + struct.pack(">I", zlib.crc32(header)) + data[33:]


def some_parquet(path: Path, png: bytes, draw: random.Random) -> None:
    """A file with a column of images, one of labels and others; some are of another type, or have odd values."""
    rows, odd = draw.choice((0, 1, 3, 3, 20, 20)), lambda: draw.random() < 0.3
    columns = [odd_images(rows, png, draw) if odd() else pa.array([{"bytes": png, "path": "a.png"}] * rows)]
    usual = (
        pa.array([draw.randrange(4) for _ in range(rows)], pa.int64()),
        pa.array([draw.choice(("zero", "one", "two", "three")) for _ in range(rows)], pa.string()),
    )
    columns += [odd_values(rows, draw) if odd() else draw.choice(usual) for _ in range(4)]
    names = ["image", "label", *draw.sample(("predicted", "confidence", "captured_at", "source", "group"), 3)]
    if draw.random() < 0.1:
        names[draw.randrange(5)] = draw.choice(("label", "image", "", "image.bytes"))
    stored = any_value(draw) if odd() else draw.choice((None, None, ["zero", "one", "two", "three"], {"0": "zero"}))
    key = draw.choice(("class_names", "huggingface"))
    value = stored if key == "class_names" else {"info": {"features": {"label": {"names": stored}}}}
    text = draw.choice(("[" * 9000, "cat,dog", "")) if draw.random() < 0.1 else json.dumps(value)
    table = pa.Table.from_arrays(columns, names=names).replace_schema_metadata({key: text} if stored else None)
    pq.write_table(table, path, compression=draw.choice(("none", "snappy", "zstd")), use_dictionary=draw.random() < 0.5)


def odd_images(rows: int, png: bytes, draw: random.Random) -> pa.Array:
    """Images by another type, or with values that are none."""
    files = [draw.choice((png, png, None, b"", png[:40])) for _ in range(rows)]
    paths: list[str | None] = [draw.choice(("a.png", None)) for _ in range(rows)]
    structs = [
        draw.choice((None, {"bytes": f, "path": p}, {"bytes": f, "path": p})) for f, p in zip(files, paths, strict=True)
    ]
    kept = pa.struct([("bytes", draw.choice((pa.binary(), pa.large_binary()))), ("path", pa.string())])
    return draw.choice(
        (
            pa.array(structs, kept),
            pa.array(files, draw.choice((pa.binary(), pa.large_binary(), pa.binary_view()))),
            pa.array(files, pa.binary()).dictionary_encode(),
            pa.array(paths, pa.string()),
            pa.array([{"path": path} for path in paths], pa.struct([("path", pa.string())])),
            pa.nulls(rows),
        )
    )


def odd_values(rows: int, draw: random.Random) -> pa.Array:
    """Texts, some not in UTF-8, numbers, times out of range, truths, lists."""

    def of(kind: pa.DataType, *pool: object) -> pa.Array:
        return pa.array([draw.choice(pool) for _ in range(rows)], kind)

    times = of(pa.int64(), 0, 2**62, -(2**62), None).cast(pa.timestamp(draw.choice(("us", "ns"))))
    not_utf8 = of(pa.binary(), b"zero", b"\xff\xfe")
    return draw.choice(
        (
            of(draw.choice((pa.string(), pa.large_string(), pa.string_view())), "zero", "one", None, *TEXTS[:12]),
            of(draw.choice((pa.int8(), pa.int64(), pa.uint64(), pa.float64())), 0, 1, 3),
            of(pa.int64(), 0, 4, -1, None, 2**62),
            of(pa.float64(), 0, 0.5, None, float("nan"), float("inf")),
            of(pa.string(), "zero", "one").dictionary_encode(),
            pa.StringArray.from_buffers(rows, *not_utf8.buffers()[1:]),
            *(times, pa.nulls(rows), of(pa.bool_(), True, False), of(pa.list_(pa.int64()), [1], None)),
        )
    )


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """A function that says how many bytes the process's resident memory rose at most since the block began."""
    with suppress(OSError):  # elsewhere than on Linux the peak is the process's own, from its start
        Path("/proc/self/clear_refs").write_text("5")
    start = _peak()
    yield lambda: _peak() - start


def _peak() -> int:
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
