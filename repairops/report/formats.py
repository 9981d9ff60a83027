"""Values as a reader sees them. What is missing, NaN or infinite is an en dash, never a number."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

DASH = "–"
MINUS = "−"


def number(value: object) -> float | None:
    """`value` where it is a finite number (no boolean), else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def plain(value: Any) -> str:
    """One line of printable text: control characters and line breaks become spaces; None is a dash."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    text = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    return text or DASH


def fixed(value: float | None, digits: int = 2) -> str:
    """A number with `digits` decimals and a true minus sign."""
    x = number(value)
    if x is None:
        return DASH
    text = f"{abs(x):,.{digits}f}"
    return f"{MINUS}{text}" if x < 0 and float(text.replace(",", "")) != 0 else text


def signed(value: float | None, digits: int = 2) -> str:
    """As `fixed`, with a plus sign where it rounds to something above zero."""
    x = number(value)
    text = fixed(x, digits)
    return f"+{text}" if x is not None and x > 0 and float(text.replace(",", "")) != 0 else text


def percent(value: float | None, digits: int = 1) -> str:
    """A share in 0..1 as a percentage."""
    x = number(value)
    return DASH if x is None else f"{fixed(100 * x, digits)}%"


def count(value: float | None) -> str:
    """A whole number with thousands separators."""
    return fixed(value, 0)


def megabytes(size: float | None) -> str:
    """Bytes in millions, with two digits that say something."""
    x = number(size)
    return DASH if x is None else f"{fixed(x / 1e6, 2 if x < 1e6 else 1)} MB"


def of(part: float | None, whole: float | None) -> str:
    """'231 of 300'; a dash where either is missing."""
    return DASH if part is None or whole is None else f"{count(part)} of {count(whole)}"


def ratio(part: float | None, whole: float | None) -> float | None:
    """part / whole, None where that is not a number."""
    return None if part is None or not whole else part / whole


def duration(seconds: float | None) -> str:
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


def short(digest: str) -> str:
    """The first 12 characters of a digest or run id."""
    return plain(digest)[:12]


def when(value: str) -> str:
    """An ISO 8601 time as '2026-03-02 14:05 UTC'; other text as it is."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return plain(value)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def series(items: Iterable[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    names = list(items)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
