"""The failure batch's data contract: rows are quarantined with their reasons, batches pass or fail."""

from repairops.validation.contract import ValidationReport, validate
from repairops.validation.facts import ROW_RULES

__all__ = ["ROW_RULES", "ValidationReport", "validate"]
