"""What jobs keep on this machine below REPAIROPS_HOME: how much, since when, and its removal."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from repairops.errors import JobRunning
from repairops.store.connection import home_folder
from repairops.store.jobs import LOCK, PLACE, job_lock


@dataclass(frozen=True)
class JobFolder:
    """A job's folder. days: since its last change. state: running, kept or removed."""

    path: Path
    bytes: int
    days: float
    state: str


def clear_folder(folder: Path) -> None:
    """Removes what a job that came to a verdict kept to go on: all is registered or logged. Its lock stays."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name not in (LOCK, PLACE):
            entry.unlink(missing_ok=True)


def clean(older_than: float, dry_run: bool = False) -> list[JobFolder]:
    """Removes the folders of jobs that have not changed for `older_than` days, largest first; none that a job is in.

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
        found.append(JobFolder(folder, size, days, state))
    return sorted(found, key=lambda each: -each.bytes)
