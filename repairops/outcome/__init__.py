"""What a repair came to: the record that outcome.json holds, the report shows and the exit code repeats."""

from repairops.outcome.plain import from_plain, to_plain
from repairops.outcome.record import (
    EXIT_CODES,
    OF_VERDICT,
    SCHEMA,
    Outcome,
    Record,
    read_outcome,
    recompute,
    write_outcome,
)

__all__ = [
    "EXIT_CODES",
    "OF_VERDICT",
    "SCHEMA",
    "Outcome",
    "Record",
    "from_plain",
    "read_outcome",
    "recompute",
    "to_plain",
    "write_outcome",
]
