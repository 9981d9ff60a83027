"""The gate: from counts and figures to a verdict. Statistics only, no torch; the same evidence, the same verdict."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from repairops.config import RULES, GateConfig
from repairops.gate.evidence import Check, Evidence, Result, Verdict
from repairops.gate.phrases import Ruling, without_nan
from repairops.gate.planning import CHANGED, PLAUSIBLE, gate_warning, in_words, least_harm, whole_power

__all__ = [
    "CHANGED",
    "PLAUSIBLE",
    "RULES",
    "check_of",
    "decide",
    "gate_warning",
    "in_words",
    "least_harm",
    "whole_power",
]


def check_of(name: str) -> Callable[[Evidence, GateConfig], Ruling]:
    """The function of a check: of 'latency', `check_latency` in the module that its line in `RULES` names."""
    found: Callable[[Evidence, GateConfig], Ruling]
    found = getattr(import_module(f"repairops.gate.{RULES[name].home}"), f"check_{name}")
    return found


def decide(evidence: Evidence, policy: GateConfig) -> Verdict:
    """FAIL where a required check fails, else INCONCLUSIVE where one is, else PASS; checks at level 'off' are left out.

    So is an advisory check whose evidence (`Rule.needs`) is not there: it would say nothing to a reviewer; and a
    required one that only such evidence calls for (`Rule.only`).
    Whatever the levels, outputs of the challenger that are not finite are never better than FAIL, and a missing
    baseline (no clean image, or outputs of the champion that are not finite) never better than INCONCLUSIVE.
    """
    checks = []
    for name, rule in RULES.items():
        level = getattr(policy, name)
        asked = not rule.needs or getattr(evidence, rule.needs) or (level == "required" and not rule.only)
        if level != "off" and asked:
            result, summary, figures = check_of(name)(evidence, policy)
            checks.append(Check(name, level, result, summary, without_nan(figures)))
    results: list[Result] = [check.result for check in checks if check.level == "required"]
    if not evidence.challenger_finite:
        results.append("FAIL")
    if not evidence.champion_finite or evidence.clean.n == 0:
        results.append("INCONCLUSIVE")
    worst: Result = "FAIL" if "FAIL" in results else "INCONCLUSIVE" if "INCONCLUSIVE" in results else "PASS"
    return Verdict(worst, tuple(checks))
