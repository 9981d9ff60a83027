"""Code in a process of its own, where some libraries do not import, as if they were not installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_REFUSING = '''
import sys
class Without:
    """A finder that does not find some libraries."""
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition('.')[0] in REFUSED else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
'''


def output_without(refused: Iterable[str], code: str, *arguments: str, folder: Path) -> str:
    """What `code` writes on stdout, started in `folder` with `arguments`; fails with its stderr where it fails."""
    script = f"REFUSED = {set(refused)!r}\n{_REFUSING}\n{code}"
    command = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()
