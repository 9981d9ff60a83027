"""Which tests hang on rounding, read from their source: a mark that a person must remember is forgotten.

Such a test is `numeric`: `make test-numeric` runs it again as other processors round. Read are the test, its fixtures
(not the conftest's, which compute nothing) and the functions of this folder that they use, by name. One of them must
hold a tolerance, ask for equal arrays, compare with a float, or hold a float and ask for the larger of two values.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent
TOLERANCES = {"approx", "allclose", "assert_allclose", "assert_almost_equal", "assert_close", "isclose", "atol", "rtol"}
EQUALITIES = {"equal", "array_equal", "assert_array_equal"}  # of two ways to one result, perhaps


class Part(NamedTuple):
    """A function, class or constant of a test module."""

    numeric: bool
    uses: frozenset[str]


def is_numeric(file: Path, names: Iterable[str]) -> bool:
    """Whether one of the tests and fixtures of these names in `file`, or what they use, hangs on rounding."""
    parts = _in_scope(file)
    waiting, seen = list(names), set[str]()
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
    """Parts of a module and of all modules of this folder that it imports, by name."""
    found: dict[str, list[Part]] = {}
    waiting, seen = [file], set[Path]()
    while waiting:
        file = waiting.pop()
        if file in seen or not file.exists():
            continue
        seen.add(file)
        parts, imported = _read(file)
        waiting += [TESTS / f"{module}.py" for module in imported]
        for name, part in parts:
            found.setdefault(name, []).append(part)
    return found


@cache
def _read(file: Path) -> tuple[list[tuple[str, Part]], set[str]]:
    """(Parts of one module by the names that tests know them by, names of the modules that it imports)."""
    parts, imported = [], set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module)
    for node in tree.body:
        words = set(_words(node))
        part = Part(bool(words & (TOLERANCES | EQUALITIES)) or _compares_floats(node), frozenset(words))
        parts += [(name, part) for name in _names(node)]
    return parts, imported


def _names(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
        for decorator in node.decorator_list:  # @pytest.fixture(name="scene")
            for keyword in decorator.keywords if isinstance(decorator, ast.Call) else ():
                if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
                    yield str(keyword.value.value)
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))


def _words(node: ast.AST) -> Iterator[str]:
    """What a piece of source names: variables, attributes, and arguments, for a fixture is one."""
    for part in ast.walk(node):
        match part:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.arg(arg=word) | ast.keyword(arg=str(word)):
                yield word


def _compares_floats(node: ast.AST) -> bool:
    comparisons = [part for part in ast.walk(node) if isinstance(part, ast.Compare)]
    ordered = any(isinstance(sign, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for part in comparisons for sign in part.ops)
    return any(map(_holds_float, [node] if ordered else comparisons))


def _holds_float(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Constant) and isinstance(part.value, float) for part in ast.walk(node))
