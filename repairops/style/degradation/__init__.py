"""Degradations of images: their components, how they are applied, and how they are estimated from failures."""

from repairops.style.degradation.apply import degrade
from repairops.style.degradation.estimation import Estimate, estimate, nothing
from repairops.style.degradation.parameters import PARAMETERS, Degradation, limits

__all__ = ["PARAMETERS", "Degradation", "Estimate", "degrade", "estimate", "limits", "nothing"]
