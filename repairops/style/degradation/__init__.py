"""Degradations of images: their components, how they are applied, and how they are estimated from failures."""

from repairops.style.degradation.apply import degrade
from repairops.style.degradation.estimation import estimate
from repairops.style.degradation.parameters import PARAMETERS, Degradation, limits
from repairops.style.degradation.random_effects import Estimate, nothing

__all__ = ["PARAMETERS", "Degradation", "Estimate", "degrade", "estimate", "limits", "nothing"]
