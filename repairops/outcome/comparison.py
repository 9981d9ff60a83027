"""What a rival came to beside the challenger, where one was asked for."""

from __future__ import annotations

from dataclasses import dataclass

from repairops.gate.evidence import PairedCounts


@dataclass(frozen=True)
class Comparison:
    """A rival method from the same champion, on the same failures and images; nothing was chosen by it.

    method: as it was trained. form: 'one', 'hard' or 'mixed', see `sections.Form`. clean: beside the champion's
    answers. heldout_repaired: of `heldout_total` held-out failures. seconds: what it cost. validation_repair_rate: of
    the form that was chosen, None where there was none to choose.
    """

    method: str
    form: str
    clean: PairedCounts
    heldout_repaired: int
    heldout_total: int
    seconds: float
    validation_repair_rate: float | None = None
