"""Digests of data sets that lie on this machine, by what their files hold; a file that has not changed is read once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from repairops.data.sources import image_files
from repairops.store.connection import home_folder

THREADS = 8  # files read at once: of many small ones each waits for the disk or the network
SETTLED = 2 * 10**9  # nanoseconds; a file that changed so lately may change again at the same time and size


class Entry(NamedTuple):
    """A file as it was read: size in bytes, time of change of its content and of its entry in nanoseconds, sha256."""

    size: int
    changed: int
    moved: int
    sha256: str


class Digests(NamedTuple):
    """sha256 of the names and contents of a data set's files: with its path, which names a job's set, and without."""

    path: str
    content: str


def path_digest(path: Path) -> str:
    """See `digests_of`."""
    return digests_of(path).path


def digests_of(path: Path, *, keep: bool = True) -> Digests:
    """Of a data set's files: parquet, else images.

    What each file held is kept below REPAIROPS_HOME by its size and times of change (also those of a file that took the
    place of another one are new), so that a data set that is digested again is not read again (keep: not
    of one that goes with its job). What cannot be read is said where the set is loaded.
    """
    files: list[str] = (
        [str(path)] if path.is_file() else sorted({*map(str, path.glob("*.parquet")), *map(str, image_files(path))})
    )
    start = len(str(path.parent))
    files_of = {file[start:]: file for file in files}
    kept = _kept(path) if keep else None
    known, before = _read(kept), time.time_ns() - SETTLED
    same = {name: known[name] for name, file in files_of.items() if name in known and known[name][:3] == _marks(file)}
    changed = [name for name in files_of if name not in same]
    with ThreadPoolExecutor(THREADS) as pool:
        anew = dict(zip(changed, pool.map(_read_anew, [files_of[name] for name in changed]), strict=True))
    found = {name: same.get(name) or anew[name] for name in files_of}
    settled = {name: entry for name, entry in found.items() if max(entry.changed, entry.moved) < before}
    if kept and settled != known:
        _write(kept, settled)
    own = len(str(path)) - start
    return Digests(
        _sha256(str(path), *(f"{name} {entry.sha256}" for name, entry in found.items())),
        _sha256(path.suffix, *(f"{name[own:]} {entry.sha256}" for name, entry in found.items())),
    )


def _sha256(*lines: str) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _read_anew(file: str) -> Entry:
    try:
        with open(file, "rb") as opened:
            marks, digest = _marks(file), hashlib.file_digest(opened, "sha256").hexdigest()
        return Entry(*marks, digest)
    except OSError:
        return Entry(0, 0, 0, "unreadable")


def _marks(file: str) -> tuple[int, int, int]:
    """Size and times of change; zeros where the file cannot be asked."""
    try:
        stat = os.stat(file)
    except OSError:
        return 0, 0, 0
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _kept(path: Path) -> Path | None:
    """Where the entries of a data set's files are kept; None where nothing can be."""
    with contextlib.suppress(OSError):
        return home_folder("digests") / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.json"
    return None


def _read(kept: Path | None) -> dict[str, Entry]:
    """Nothing where the file is missing or damaged: then all is read anew."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
        found = json.loads(kept.read_text(encoding="utf-8")) if kept else {}
        return {name: Entry(*entry) for name, entry in found.items()}
    return {}


def _write(kept: Path, entries: Mapping[str, Entry]) -> None:
    from repairops.data.sets import whole_file  # with torch

    with contextlib.suppress(OSError), whole_file(kept) as part:  # a full disk costs time, not the job
        part.write_text(json.dumps(entries), encoding="utf-8")
