"""Moving a production alias to a repaired version and back, and the review before it."""
