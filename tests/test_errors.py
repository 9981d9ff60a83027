"""Errors as they leave a process, and whether each is raised with the facts that it words."""

from __future__ import annotations

import ast
import errno
import inspect
import pickle
import string
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError

import repairops
from repairops import errors
from repairops.errors import AliasMoved, RepairError, UnreadableImage

KINDS = {kind.__name__: kind for kind in vars(errors).values() if inspect.isclass(kind)}


def test_errors_survive_a_process_pool():
    moved = pickle.loads(pickle.dumps(AliasMoved("cls", "prod", "1", "2")))
    assert isinstance(moved, AliasMoved)
    assert moved.exit_code == 5
    assert "at version 1 and is at 2" in str(moved)
    image = pickle.loads(pickle.dumps(UnreadableImage("animated", "it has 3 frames")))
    assert (image.reason, image.detail, str(image)) == ("animated", "it has 3 frames", "it has 3 frames")


def raised() -> Iterator[tuple[str, ast.Call, type[RepairError]]]:
    """Each place that makes an error whose class has a message and no constructor of its own."""
    for module in sorted(Path(repairops.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
                kind = KINDS[node.func.id]
                if kind.__init__ is RepairError.__init__:
                    yield f"{module.name}:{node.lineno} {kind.__name__}", node, kind


def test_every_error_is_raised_with_as_many_facts_as_its_message_has_places() -> None:
    calls = list(raised())
    assert len(calls) > 100
    for place, call, kind in calls:
        names = [name for _, name, _, _ in string.Formatter().parse(kind.message) if name is not None]
        places = {name or str(number) for number, name in enumerate(names)}
        assert places == {str(number) for number in range(len(call.args))}, place
        assert not call.keywords, place


def test_a_message_takes_any_text_as_a_fact() -> None:
    assert str(errors.InvalidOption("a.b", "{x}", "{0}")) == "Option a.b is '{x}'; it must be {0}."
    assert str(RepairError("{not a place}")) == "{not a place}"


def test_every_exception_becomes_the_class_of_its_fact_in_one_line() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/home/jobs/x")
    kinds = {
        errors.AliasMoved: AliasMoved("cls", "prod", "1", "2"),
        errors.NoSpace: full,
        errors.NoMemory: MemoryError(),
        errors.FileUnusable: PermissionError(errno.EACCES, "Permission denied", "/srv/jobs"),
        errors.Interrupted: KeyboardInterrupt(),
        errors.Unforeseen: SystemExit(3),
    }
    for kind, error in kinds.items():
        assert type(errors.foreseen(error)) is kind
    assert errors.foreseen(kinds[AliasMoved]) is kinds[AliasMoved]
    assert isinstance(errors.foreseen(torch.OutOfMemoryError("CUDA out of memory")), errors.NoMemory)
    assert isinstance(
        errors.foreseen(SafetensorError("I/O error: No space left on device (os error 28)")), errors.NoSpace
    )
    told = str(errors.foreseen(ZeroDivisionError("a line\nand another {0}")))
    assert told.startswith("ZeroDivisionError: a line and another {0}. Nobody foresaw this")
    assert "/srv/jobs cannot be used: Permission denied" in str(errors.foreseen(kinds[errors.FileUnusable]))
