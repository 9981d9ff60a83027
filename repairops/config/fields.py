"""What an option is: its default, the numbers that it takes and its sentence, together in one field."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import field
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

from repairops.errors import InvalidOption

T = TypeVar("T")
Level = Literal["required", "advisory", "off"]  # of a check of the gate


class Range(NamedTuple):
    """How a message names the numbers that are allowed; lowest and highest of them, or `only` these few."""

    wanted: str
    low: float = -sys.float_info.max
    high: float = sys.float_info.max
    only: tuple[float, ...] = ()

    def holds(self, number: float) -> bool:
        """NaN and infinity are in no range."""
        return number in self.only if self.only else self.low <= number <= self.high


_LEAST, _BELOW_1 = sys.float_info.min, math.nextafter(1, 0)
ANY = Range("a finite number")
COUNT = Range("1 or more", 1)
NOT_NEGATIVE = Range("0 or more", 0)
NONE_OR_MORE = Range("0 (none) or more", 0)
ALL_OR_MORE = Range("0 (all) or more", 0)
OWN_OR_MORE = Range("-1 (chosen for you), 0 or more", -1)
POSITIVE = Range("positive", _LEAST)
SHARE = Range("from 0 to 1", 0, 1)
SHARE_NOT_0 = Range("above 0 and at most 1", _LEAST, 1)
PART = Range("at least 0 and below 1", 0, _BELOW_1)
PART_NOT_0 = Range("above 0 and below 1", _LEAST, _BELOW_1)
POINTS = Range("from 0 to 100 percentage points", 0, 100)


def option(
    default: T, sentence: str, numbers: Range | None = None, *, affects_result: bool = True, rule: Rule | None = None
) -> T:
    """A field of a stage; every number has a range, which holds for each element of a list.

    sentence: what docs/reference/configuration.md says of it, with the unit; links are relative to that page.
    affects_result: False for what does not change what a job makes and decides; it is not in the digest.
    """
    metadata = {"sentence": sentence, "numbers": numbers, "affects_result": affects_result, "rule": rule}
    return field(default=default, metadata=metadata)


class Rule(NamedTuple):
    """A check of the gate but for its level: the function `check_NAME` in the module `home` of `repairops.gate`."""

    home: str
    title: str
    hints: Mapping[str, str]  # what the report advises where the result is this one
    needs: str  # evidence without which the check, where advisory, has nothing to say and is left out
    only: bool  # left out without that evidence where required too: it asks what other jobs do not have


def check(level: Level, home: str, title: str, *, needs: str = "", only: bool = False, **hints: str) -> Level:
    """The line of a check: the option that is its level, with the default, and its `Rule`."""
    return option(level, "Level of the check of this name.", rule=Rule(home, title, hints, needs, only))


required, advisory = partial(check, "required"), partial(check, "advisory")


class Stage:
    """Options of the stage that the class is named after. Raises InvalidOption for a number out of its range."""

    def __post_init__(self) -> None:
        self.check(**vars(self))

    @classmethod
    def check(cls, **values: Any) -> None:
        """Raises InvalidOption for a number that is out of the range of the option of this name; NaN always is."""
        stage = cls.__name__.removesuffix("Config").lower()
        for name, value in values.items():
            numbers: Range | None = cls.__dataclass_fields__[name].metadata["numbers"]  # type: ignore[attr-defined]
            for number in value if isinstance(value, tuple) else (value,):
                if numbers and not numbers.holds(number):
                    raise InvalidOption(f"{stage}.{name}", value, numbers.wanted)
