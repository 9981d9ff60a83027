"""What to do next, for each way that a repair can end."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from repairops.config import GENTLER, RULES
from repairops.report import facts
from repairops.report.facts import Outcome
from repairops.report.wording import DASH, count, dig, number, plain


def next_steps(outcome: Outcome) -> list[str]:
    """One to a few sentences in the order to take them; commands are shown apart."""
    match facts.kind(outcome):
        case "passed":
            return _after_pass(outcome)
        case "failed" | "inconclusive":
            return [hint(check) for check in facts.deciding(outcome, "FAIL", "INCONCLUSIVE")] + [
                "Run the repair again: changed options or new failures make it a new job."
            ]
        case "nothing_to_repair":
            return [f"Log new failures, for example with `repairops failures log {_model(outcome)}`, and run again."]
    if facts.batch_rejected(outcome):
        return [
            "See under 'Data quality' on the review page what was quarantined and why.",
            "Correct the labels or images and log them again.",
            "Where the rule is too strict for this batch, change validation.* and run again.",
        ]
    return ["Act on the message, then run the same command again: it goes on where it stopped."]


def hint(check: Mapping[str, Any]) -> str:
    """What to try where this check does not pass."""
    name, result = str(check.get("name")), str(check.get("result"))
    images, failures = (number(dig(check, "figures", key)) for key in ("images_needed", "failures_needed"))
    if (name, result) == ("clean_non_regression", "INCONCLUSIVE") and images:
        return f"Give a larger clean set: about {count(images)} images would settle it. {GENTLER}"
    if (name, result) == ("repair_rate", "INCONCLUSIVE") and failures:
        return f"Log more failures of the same kind: about {count(failures)} held-out ones would settle it."
    known = RULES[name].hints.get(result) if name in RULES else None
    return known or f"{facts.check_name(check)} is {result}: its sentence in the table of checks says why."


def _after_pass(outcome: Outcome) -> list[str]:
    if not outcome.get("registered"):
        return ["Nothing is registered yet: run the same command again to register the version."]
    if outcome.get("outcome") == "alias_moved":
        return ["Look at the version that the alias is at now, then run the same command again: it repairs that one."]
    if outcome.get("outcome") == "not_promoted":
        return ["Act on the message, then run the same command again: it repairs nothing anew and moves the alias."]
    if outcome.get("promoted"):
        return ["Watch the next failure batches; the command below rolls the alias back."]
    return ["Review the evidence, then promote the version with the command below."]


def _model(outcome: Outcome) -> str:
    name = plain(dig(outcome, "model", "name"))
    return "MODEL" if name == DASH else shlex.quote(name)
