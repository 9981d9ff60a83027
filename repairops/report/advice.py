"""What to do next, for each way that a repair can end."""

from __future__ import annotations

import shlex

from repairops.config.gate import GENTLER, RULES
from repairops.gate.evidence import Check
from repairops.outcome import Record
from repairops.report import statements
from repairops.report.formats import count, number, plain


def next_steps(record: Record) -> list[str]:
    """One to a few sentences in the order to take them; commands are shown apart."""
    match statements.kind(record):
        case "passed":
            return [_after_pass(record)]
        case "failed" | "inconclusive":
            return [hint(check) for check in statements.deciding(record, "FAIL", "INCONCLUSIVE")] + [
                "Run the repair again: changed options or new failures make it a new job."
            ]
        case "nothing_to_repair":
            model = shlex.quote(plain(record.model.name)) if record.model else "MODEL"
            return [f"Log new failures, for example with `repairops failures log {model}`, and run again."]
    if statements.broken_rules(record):
        return [
            "See under 'Data quality' on the review page what was quarantined and why.",
            "Correct the labels or images and log them again.",
            "Where the rule is too strict for this batch, change validation.* and run again.",
        ]
    return ["Act on the message, then run the same command again: it goes on where it stopped."]


def hint(check: Check) -> str:
    """What to try where this check does not pass."""
    images, failures = (number(check.figures.get(key)) for key in ("images_needed", "failures_needed"))
    if (check.name, check.result) == ("clean_non_regression", "INCONCLUSIVE") and images:
        return f"Give a larger clean set: about {count(images)} images would settle it. {GENTLER}"
    if (check.name, check.result) == ("repair_rate", "INCONCLUSIVE") and failures:
        return f"Log more failures of the same kind: about {count(failures)} held-out ones would settle it."
    known = RULES[check.name].hints.get(check.result) if check.name in RULES else None
    return known or f"{statements.check_name(check)} is {check.result}: its sentence in the table of checks says why."


def _after_pass(record: Record) -> str:
    if not record.registered:
        return "Nothing is registered yet: run the same command again to register the version."
    if record.outcome == "alias_moved":
        return "Look at the version that the alias is at now, then run the same command again: it repairs that one."
    if record.outcome == "not_promoted":
        return "Act on the message, then run the same command again: it repairs nothing anew and moves the alias."
    if record.promoted:
        return "Watch the next failure batches; the command below rolls the alias back."
    return "Review the evidence, then promote the version with the command below."
