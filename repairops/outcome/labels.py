"""The section of outcome.json on failures whose logged label looks wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Suspect:
    """A failure whose logged `label` looks wrong; `answer`: what the networks that ask say instead.

    part: repair, validation or heldout. label_chance, answer_chance: of the two by these networks, in 0..1.
    """

    sample_id: str
    part: str
    label: str
    answer: str
    label_chance: float
    answer_chance: float


@dataclass(frozen=True)
class SuspectLabels:
    """What a look for wrong labels came to.

    mode: report or quarantine. asked: failures, of all parts. by_chance: how many of these would be listed if every
    label were right, about. known: restyled clean images that set the limit. listed: the surest first.
    quarantined: failures taken out, by part. note: why nothing was listed or taken out, else ''.
    """

    mode: str
    asked: int
    by_chance: float
    known: int
    listed: tuple[Suspect, ...] = ()
    quarantined: Mapping[str, int] = field(default_factory=dict)
    note: str = ""
