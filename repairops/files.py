"""Files that nobody vouches for: their bytes, their text, and the values found in them, all within bounds."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

_STARTS = {  # what people take for text
    b"\xff\xfe": "it is UTF-16, not UTF-8; save it as UTF-8",
    b"\xfe\xff": "it is UTF-16, not UTF-8; save it as UTF-8",
    b"PK\x03\x04": "it is a spreadsheet or a zip, not text; save it as text in UTF-8",
}

DEEPEST = 100  # folders in folders


def read_file(path: str | Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; no more is read than that.

    A pipe would be waited for and a device may have no end, so neither is opened. Raises OSError; its `strerror` is the
    fact in a few words.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        with open(path, "rb") as file:  # of no size is also what a system makes as it is read
            data = file.read(min(found.st_size or limit, limit) + 1)
    except ValueError as error:
        raise OSError(errno.EINVAL, "its name holds a NUL") from error
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes")
    return data


def read_text(path: str | Path, limit: int) -> str:
    """The text of a file in UTF-8, with or without a byte order mark. Raises OSError as `read_file`."""
    return decode_text(read_file(path, limit))


def files_below(folder: Path, others: Iterable[Path] = ()) -> list[Path]:
    """What lies below a folder and is none itself, sorted by path: hidden files, pipes and dead links too.

    Links are followed, but each real folder is visited once, and never one of `others` or one around the folder.
    Raises OSError as `read_file`, also where folders lie more than DEEPEST deep.
    """
    found, waiting = [], [(folder, 0)]
    visited = {_identity(each) for each in (folder, *Path(os.path.realpath(folder)).parents, *others)}
    while waiting:
        parent, depth = waiting.pop()
        if depth > DEEPEST:
            raise OSError(errno.ELOOP, f"its folders are nested more than {DEEPEST} deep")
        try:
            entries = sorted(os.scandir(parent), key=lambda entry: entry.name)
        except OSError as error:
            raise OSError(error.errno, f"{parent}: {error.strerror}") from error
        for entry in entries:
            path = Path(entry.path)
            is_folder = os.path.isdir(path) if entry.is_symlink() else entry.is_dir()  # most need no stat of their own
            if not is_folder:
                found.append(path)
            elif (place := _identity(path)) not in visited:  # of two links to one, the first
                visited.add(place)
                waiting.append((path, depth + 1))
    return sorted(found)


def _identity(path: Path) -> tuple[int, int]:
    """Of the real file, through links."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def decode_text(data: bytes) -> str:
    """UTF-8 as text, without a byte order mark. Raises OSError, whose `strerror` says what it is instead."""
    fact = next((fact for start, fact in _STARTS.items() if data.startswith(start)), "")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        fact = fact or f"line {line} holds the byte 0x{data[error.start]:02x}, which is not UTF-8; save it as UTF-8"
        raise OSError(errno.EILSEQ, fact) from error
    if fact or "\0" in text:
        line = text.partition("\0")[0].count("\n") + 1
        raise OSError(errno.EILSEQ, fact or f"line {line} holds a NUL, so it is no text in UTF-8")
    return text


def check_bounds(value: object, *, depth: int, items: int) -> None:
    """Raises ValueError where plain values are nested deeper than `depth`, are more than `items` (one that stands in
    two places counts twice: a few lines of YAML may mean billions), or hold text that cannot be encoded.
    """
    left, waiting = items, [(value, 1)]
    while waiting:
        each, level = waiting.pop()
        left -= 1
        if left < 0:
            raise ValueError(f"it holds more than {items:,} values")
        if level > depth:
            raise ValueError(f"it is nested more than {depth} deep")
        if isinstance(each, str):
            _check_text(each)
        elif isinstance(each, Mapping):
            waiting += [(inner, level + 1) for pair in each.items() for inner in pair]
        elif isinstance(each, Iterable) and not isinstance(each, bytes):
            waiting += [(inner, level + 1) for inner in each]


def _check_text(text: str) -> None:
    if "\0" in text:
        raise ValueError("it holds a text with a NUL")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("it holds a text with half a character (a lone surrogate)") from error
