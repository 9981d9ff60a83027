"""Degradations of images: their components, how they are applied, and how they are estimated from failures."""

from repairops.core.styles.fitted.apply import degrade
from repairops.core.styles.fitted.estimation import estimate
from repairops.core.styles.fitted.parameters import PARAMETERS, Degradation, limits
from repairops.core.styles.fitted.random_effects import Estimate, nothing

__all__ = ["PARAMETERS", "Degradation", "Estimate", "degrade", "estimate", "limits", "nothing"]
