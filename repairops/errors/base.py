"""What every error is, and words that messages share."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


def listing(items: Iterable[object], limit: int = 12) -> str:
    """Names for an error message: sorted as given, cut after `limit`, '(none)' when empty; long ones are cut too."""
    names = [text if len(text) <= 200 else f"{text[:197]}..." for text in map(str, items)]
    if not names:
        return "(none)"
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The names that exist and are as `name` after their last dot, else the one that looks most like it."""
    names = list(known)
    same = [each for each in names if each.rpartition(".")[2] == name.rpartition(".")[2]]
    return same or difflib.get_close_matches(name, names, n=1, cutoff=0.7)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence, with a space before it; '' where nothing that exists is like it."""
    found = nearest(name, known)
    return f" Did you mean {' or '.join(found)}?" if found else ""


def one_of(name: str, known: Iterable[str]) -> str:
    """What `InvalidOption` says of a name that does not exist: the nearest ones, else all."""
    names = list(known)
    found = nearest(name, names)
    return f"one that exists, such as {' or '.join(found)}" if found else f"one of {listing(names, 40)}"


def shown(value: object, limit: int = 80) -> str:
    """Any value for an error message: as Python writes it, in about `limit` characters, whatever it holds."""
    if isinstance(value, int) and abs(value) >= 10**limit:
        return f"a whole number of about {value.bit_length() * 3 // 10:,} digits"
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, limit, limit
    text = short.repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def one_line(error: BaseException) -> str:
    """What an exception says, in one line of at most 300 characters; the full stop is the message's own."""
    return " ".join(str(error).split())[:300].removesuffix(".") or "it says no more"


class RepairError(Exception):
    """Base of everything that repairops raises on purpose; `exit_code` is the command's exit status.

    message: the wording of a class, with a place for each of the facts that it is raised with, in their order.
    """

    exit_code = 1
    message = "{}"

    def __init__(self, *facts: object) -> None:
        super().__init__(self.message.format(*facts))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its message: the classes' own arguments are more than what the message keeps."""
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[RepairError], args: tuple[Any, ...], state: dict[str, Any]) -> RepairError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error
