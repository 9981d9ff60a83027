"""The failure batch's data contract: rows are quarantined with their reasons, batches pass or fail."""
