"""What jobs keep on this machine, and `repairops clean`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from repairops.cli import main
from repairops.store.jobs import job_lock, place_of, work_folder
from repairops.store.room import clean, clear_folder


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Three folders: one that changed just now, and two ten days old, of which a job is in one."""
    monkeypatch.setenv("REPAIROPS_HOME", str(tmp_path / "home"))
    folders = {name: work_folder(name) for name in ("young", "old", "live")}
    for name, folder in folders.items():
        (folder / "champion" / "data").mkdir(parents=True)
        (folder / "champion" / "data" / "model.pth").write_bytes(b"." * 1_000_000)
        place_of(folder)
        if name != "young":
            for file in folder.rglob("*"):
                os.utime(file, times=(time.time() - 864_000,) * 2)
    return folders


def test_only_old_folders_without_a_job_are_removed(jobs: dict[str, Path]) -> None:
    with job_lock("live", jobs["live"]):
        planned = CliRunner().invoke(main, ["clean", "--dry-run", "--json"])
        states = {Path(each["path"]).name: each["state"] for each in json.loads(planned.stdout)}
        assert states == {"young": "kept", "old": "removed", "live": "running"}
        assert all(folder.is_dir() for folder in jobs.values())
        done = CliRunner().invoke(main, ["clean"])
        assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "Removed 1 of 3 folders and files, 1.0 MB.")
        assert {name: folder.exists() for name, folder in jobs.items()} == {"young": True, "old": False, "live": True}
        assert {each.path: each.state for each in clean(0)} == {jobs["young"]: "removed", jobs["live"]: "running"}
    assert [(each.state, round(each.days)) for each in clean(11)] == [("kept", 10)]
    assert [each.state for each in clean(9)] == ["removed"]
    assert clean(0) == []


def test_a_job_that_ended_well_keeps_its_lock_alone(jobs: dict[str, Path]) -> None:
    with job_lock("young", jobs["young"]):
        clear_folder(jobs["young"])
    assert {path.name for path in jobs["young"].iterdir()} == {"lock", "place"}
