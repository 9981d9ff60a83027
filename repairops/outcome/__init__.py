"""What a repair came to: the record that outcome.json holds, the report shows and the exit code repeats."""

from repairops.outcome.record import EXIT_CODES, OF_VERDICT, Outcome, Record, read_outcome, recompute, write_outcome

__all__ = ["EXIT_CODES", "OF_VERDICT", "Outcome", "Record", "read_outcome", "recompute", "write_outcome"]
