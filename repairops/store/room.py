"""What jobs keep on this machine below REPAIROPS_HOME: how much, since when, and its removal."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from repairops.errors import JobRunning
from repairops.store.connection import home_folder
from repairops.store.jobs import LOCK, PLACE, job_lock


@dataclass(frozen=True)
class Kept:
    """A job's folder, or a decoded image set's file. days: since its last change or use. state: running, kept or
    removed.
    """

    path: Path
    bytes: int
    days: float
    state: str


def decoded_folder() -> Path | None:
    """Where decoded image sets are kept; None where no folder can be made there."""
    with contextlib.suppress(OSError):
        return home_folder("decoded")
    return None


def clear_folder(folder: Path) -> None:
    """Removes what a job that came to a verdict kept to go on: all is registered or logged. Its lock stays."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name not in (LOCK, PLACE):
            entry.unlink(missing_ok=True)


def clean(older_than: float, dry_run: bool = False) -> list[Kept]:
    """Removes the folders of jobs that have not changed for `older_than` days, none that a job is in, and decoded image
    sets that were not used for so long (a job that has one mapped keeps its pixels). Largest first.

    dry_run: says what it would remove, and removes nothing.
    """
    found = []
    for folder in [path for path in home_folder("jobs").iterdir() if path.is_dir()]:
        files = [path for path in folder.rglob("*") if path.is_file() and path.name not in (LOCK, PLACE)]
        size = sum(path.stat().st_size for path in files)
        days = (time.time() - max(path.stat().st_mtime for path in files or [*folder.glob(PLACE), folder][:1])) / 86400
        state = "removed" if days >= older_than else "kept"
        try:
            with job_lock(folder.name, folder):
                if state == "removed" and not dry_run:
                    shutil.rmtree(folder)
        except JobRunning:
            state = "running"
        found.append(Kept(folder, size, days, state))
    for file in home_folder("decoded").iterdir():
        with contextlib.suppress(FileNotFoundError):  # another job made room
            found.append(_clean_file(file, older_than, dry_run))
    return sorted(found, key=lambda each: -each.bytes)


def _clean_file(file: Path, older_than: float, dry_run: bool) -> Kept:
    """A part that is being written is running."""
    from repairops.data.decoded import PART, dead_parts  # with torch

    stat = file.stat()
    days = max(0.0, (time.time() - stat.st_mtime) / 86400)
    written = file.suffix == PART and file not in dead_parts(file.parent)
    state = "running" if written else "removed" if days >= older_than else "kept"
    if state == "removed" and not dry_run:
        file.unlink()
    return Kept(file, stat.st_size, days, state)
