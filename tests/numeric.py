"""Which tests hang on rounding, read from their source: a mark that a person must remember is forgotten.

Such a test is `numeric`: `make test-numeric` runs it again as other processors round, by PyTorch's kernels. Read are
the test and the functions of this folder that it uses, by name; not fixtures, which make what a test then judges. One
of them must hold a tolerance or assert a comparison with a float, and the test's module must import torch, or one that
does. Equal tensors do not count: most come of the same computation twice, on one processor as on another.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent
TOLERANCES = {"approx", "allclose", "assert_allclose", "assert_almost_equal", "assert_close", "isclose", "atol", "rtol"}


class Part(NamedTuple):
    """A function, class or constant of a test module; no fixture."""

    numeric: bool
    uses: frozenset[str]


def is_numeric(file: Path, name: str) -> bool:
    """Whether the test of this name in `file`, or what it uses, hangs on rounding."""
    parts = _in_scope(file)
    waiting, seen = [name], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for part in parts.get(name, ()):
            if part.numeric:
                return True
            waiting += part.uses
    return False


@cache
def _in_scope(file: Path) -> dict[str, list[Part]]:
    """Parts of a module and of all modules of this folder that it imports, by name; none where none imports torch."""
    found: dict[str, list[Part]] = {}
    waiting, seen = [file], set[Path]()
    computes = False
    while waiting:
        file = waiting.pop()
        if file in seen or not file.exists():
            continue
        seen.add(file)
        parts, imported = _read(file)
        computes = computes or "torch" in imported
        waiting += [TESTS / f"{module}.py" for module in imported]
        for name, part in parts:
            found.setdefault(name, []).append(part)
    return found if computes else {}


@cache
def _read(file: Path) -> tuple[list[tuple[str, Part]], set[str]]:
    """(Parts of one module by their names, names of the modules that it imports)."""
    parts, imported = [], set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and any("fixture" in _words(line) for line in node.decorator_list):
            continue
        words = set(_words(node))
        part = Part(bool(words & TOLERANCES) or _compares_with_float(node), frozenset(words))
        parts += [(name, part) for name in _names(node)]
    return parts, imported


def _names(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))


def _words(node: ast.AST) -> Iterator[str]:
    """What a piece of source names: variables, attributes and keywords."""
    for part in ast.walk(node):
        match part:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.keyword(arg=str(word)):
                yield word


def _compares_with_float(node: ast.AST) -> bool:
    """Whether an assertion compares with a float, or with an argument whose default is one."""
    defaults = [a for f in ast.walk(node) if isinstance(f, ast.FunctionDef) for a in _float_arguments(f)]
    compared = [
        c for a in ast.walk(node) if isinstance(a, ast.Assert) for c in ast.walk(a) if isinstance(c, ast.Compare)
    ]
    return any(_holds_float(c) or not set(defaults).isdisjoint(_words(c)) for c in compared)


def _float_arguments(function: ast.FunctionDef) -> list[str]:
    """Names of the arguments whose default is a float."""
    given = function.args
    with_default = given.args[len(given.args) - len(given.defaults) :] + given.kwonlyargs
    defaults = zip(with_default, [*given.defaults, *given.kw_defaults], strict=True)
    return [argument.arg for argument, default in defaults if default is not None and _holds_float(default)]


def _holds_float(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Constant) and isinstance(part.value, float) for part in ast.walk(node))
