"""What a person sees in a terminal of 80 columns, and what a pipe gets."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPAIROPS = [sys.executable, "-m", "repairops"]
STEPS = """
import logging
from types import SimpleNamespace
from repairops.cli.console import set_up_logging
from repairops.config import TrainingConfig
from repairops.core.training.distributed import current_ranks
from repairops.core.training.epoch import EpochRunner

set_up_logging(quiet=False)
runner = SimpleNamespace(config=TrainingConfig(epochs=3), steps=4, ranks=current_ranks())
for epoch in (1, 2, 3):
    with EpochRunner._progress(runner, epoch) as advance:
        for step in range(4):
            advance()
            logging.getLogger("repairops").info("epoch %d, step %d is over", epoch, step)
"""


def seen_in_a_terminal(command: list[str], columns: int = 80) -> str:
    """What a command writes to a terminal of this width: stdout and stderr, as it came."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")} | {"TERM": "xterm"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=ROOT)
    os.close(theirs)
    parts = []
    while part := _read(ours):
        parts.append(part)
    os.close(ours)
    assert process.wait() == 0, b"".join(parts).decode()
    return b"".join(parts).decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's way to say that the other side is closed
        return b""


def test_tables_fit_the_terminal_and_a_pipe_gets_whole_lines() -> None:
    command = [*REPAIROPS, "methods"]
    lines = seen_in_a_terminal(command).splitlines()
    assert max(map(len, lines)) <= 80
    piped = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "\x1b" not in piped
    rows = piped.splitlines()
    assert max(map(len, rows)) > 80
    assert len(rows) < len(lines)
    words = re.compile("[a-z_]{4,9}")
    assert set(words.findall(piped)) <= set(words.findall("\n".join(lines)))  # folded between words


def test_verdicts_are_coloured_in_a_terminal_alone() -> None:
    command = [*REPAIROPS, "gate", str(ROOT / "tests" / "outcomes" / "schema2.json")]
    assert "\x1b[32m\x1b[1mPASS\x1b[0m" in seen_in_a_terminal(command)
    assert "\x1b" not in subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_no_log_line_breaks_the_bar_of_a_training(tmp_path: Path) -> None:
    script = tmp_path / "steps.py"
    script.write_text(STEPS)
    shown = seen_in_a_terminal([sys.executable, str(script)])
    assert {"1", "2", "3"} <= set(re.findall(r"epoch (\d)/3, steps", shown))
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n").splitlines()
    for epoch in (1, 2, 3):
        for step in range(4):
            assert plain.count(f"epoch {epoch}, step {step} is over") == 1
