"""Values as a reader sees them. What is missing, NaN or infinite is an en dash, never a number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

DASH = "–"
MINUS = "−"


def number(value: Any) -> float | None:
    """`value` as a finite float; None for everything else (None, NaN, infinity, text, booleans)."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def mapping(value: Any) -> Mapping[str, Any]:
    """`value` where it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The mappings in a list; an empty list for anything else."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list | tuple) else []


def dig(values: Any, *keys: str) -> Any:
    """values[key][key]..., or None where one of them is missing."""
    for key in keys:
        if not isinstance(values, Mapping):
            return None
        values = values.get(key)
    return values


def plain(value: Any) -> str:
    """One line of printable text: control characters and line breaks become spaces; None is a dash."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    text = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    return text or DASH


def fixed(value: Any, digits: int = 2) -> str:
    """A number with `digits` decimals and a true minus sign."""
    x = number(value)
    if x is None:
        return DASH
    text = f"{abs(x):,.{digits}f}"
    return f"{MINUS}{text}" if x < 0 and float(text.replace(",", "")) != 0 else text


def signed(value: Any, digits: int = 2) -> str:
    """As `fixed`, with a plus sign where it rounds to something above zero."""
    x = number(value)
    text = fixed(x, digits)
    return f"+{text}" if x is not None and x > 0 and float(text.replace(",", "")) != 0 else text


def percent(value: Any, digits: int = 1) -> str:
    """A share in 0..1 as a percentage."""
    x = number(value)
    return DASH if x is None else f"{fixed(100 * x, digits)}%"


def count(value: Any) -> str:
    """A whole number with thousands separators."""
    return fixed(value, 0)


def of(part: Any, whole: Any) -> str:
    """'231 of 300'; a dash where either is missing."""
    return DASH if number(part) is None or number(whole) is None else f"{count(part)} of {count(whole)}"


def ratio(part: Any, whole: Any) -> float | None:
    """part / whole, None where that is not a number."""
    a, b = number(part), number(whole)
    return None if a is None or not b else a / b


def duration(seconds: Any) -> str:
    """'0.4 s', '41 s', '3 min 12 s', '1 h 04 min'."""
    s = number(seconds)
    if s is None or s < 0:
        return DASH
    if s < 9.95:
        return f"{s:.1f} s"
    whole = round(s)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def short(digest: Any) -> str:
    """The first 12 characters of a digest or run id."""
    return plain(digest)[:12]


def when(value: Any) -> str:
    """An ISO 8601 time as '2026-03-02 14:05 UTC'; other text as it is."""
    if isinstance(value, int | float) and not isinstance(value, bool) and number(value) is not None:
        value = datetime.fromtimestamp(value / 1000 if value > 1e11 else value, UTC).isoformat()
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return plain(value)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def series(items: Iterable[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    names = list(items)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
