"""What a repair came to: the record that outcome.json holds, the report shows and the exit code repeats."""

from repairops.outcome.record import EXIT_CODES, OF_VERDICT, SCHEMA, Outcome, read_outcome, recompute, write_outcome

__all__ = ["EXIT_CODES", "OF_VERDICT", "SCHEMA", "Outcome", "read_outcome", "recompute", "write_outcome"]
