"""Frozen dataclasses from plain JSON values and back, by their type hints."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from repairops.errors import shown

T = TypeVar("T")
_hints: Callable[[Any], dict[str, Any]] = cache(get_type_hints)
OTHERS = {"others": True}  # metadata of a field, a mapping, for the keys that no other field has
LARGEST = 10**300  # whole number; a float that is made of a larger one overflows
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


class Unfit(ValueError):
    """A key whose value is of another kind than its field, or that is missing and has no default."""


def to_plain(value: Any) -> Any:
    """Plain JSON values of a dataclass or of anything made of them. NaN and infinity become None: JSON has neither.

    A field that is None is left out, unless its metadata says "null". A class whose JSON is not its fields has a
    `to_dict`, and an `unfolded` that gives its fields' values from it.
    """
    if hasattr(value, "to_dict"):
        return to_plain(value.to_dict())
    if is_dataclass(value):
        plain: dict[str, Any] = {}
        for each in fields(value):
            found = getattr(value, each.name)
            if each.metadata.get("others"):
                plain |= to_plain(found)
            elif found is not None or each.metadata.get("null"):
                plain[each.name] = to_plain(found)
        return plain
    if isinstance(value, Mapping):
        return {str(key): to_plain(found) for key, found in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(found) for found in value]
    value = value.item() if hasattr(value, "item") else value  # numpy's numbers
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_plain(kind: type[T], values: Any, key: str = "") -> T:
    """The dataclass that `to_plain` made `values` of. Raises Unfit, which names the key below `key`.

    A missing key takes its field's default, null is None or NaN where the field can hold it, and keys that no field
    has are left out, so that files of earlier and later versions are read.
    """
    if not isinstance(values, Mapping):
        raise Unfit(f"{key or 'it'} is {shown(values)}, and must hold values by name")
    unfolded = getattr(kind, "unfolded", None)
    values = unfolded(values) if unfolded else values
    hints, found, start = _hints(kind), {}, f"{key}." if key else ""
    for each in fields(kind):  # type: ignore[arg-type]
        if each.metadata.get("others"):
            found[each.name] = {name: value for name, value in values.items() if name not in hints}
        elif each.name in values:
            found[each.name] = _fitting(hints[each.name], values[each.name], f"{start}{each.name}")
        elif each.default is MISSING and each.default_factory is MISSING:
            raise Unfit(f"{start}{each.name} is missing")
    return kind(**found)


def _fitting(hint: Any, value: Any, key: str) -> Any:
    """The value as its hint says."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _one_of(parts, value, key)
    if is_dataclass(hint):
        return from_plain(hint, value, key)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_fitting(parts[0], each, f"{key}[{number}]") for number, each in enumerate(value))
    if origin is Mapping and isinstance(value, Mapping):
        return {str(name): _fitting(parts[1], each, f"{key}.{name}") for name, each in value.items()}
    if hint is float and value is None:
        return math.nan
    if hint is Any or (origin is Literal and value in parts):
        return value
    kind = int | float if hint is float else hint
    fits = hint in WORDS and isinstance(value, kind) and isinstance(value, bool) == (hint is bool)
    if fits and not (isinstance(value, int) and abs(value) > LARGEST):
        return value
    wanted = {tuple: "a list", Mapping: "values by name", Literal: f"one of {', '.join(map(str, parts))}"}
    raise Unfit(f"{key} is {shown(value)}, and must be {WORDS.get(hint) or wanted[origin]}")


def _one_of(hints: tuple[Any, ...], value: Any, key: str) -> Any:
    """The value as the first of some hints that it fits."""
    if value is None and types.NoneType in hints:
        return None
    *first, last = (hint for hint in hints if hint is not types.NoneType)
    for hint in first:
        try:
            return _fitting(hint, value, key)
        except Unfit:
            continue
    return _fitting(last, value, key)
