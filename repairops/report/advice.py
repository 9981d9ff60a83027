"""What to do next, for each way that a repair can end."""

from __future__ import annotations

import shlex

from repairops.config import STYLED
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
            return [hint(record, check) for check in statements.deciding(record, "FAIL", "INCONCLUSIVE")] + [
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


def hint(record: Record, check: Check) -> str:
    """What to try where this check does not pass."""
    images, failures = (number(check.figures.get(key)) for key in ("images_needed", "failures_needed"))
    if (check.name, check.result) == ("clean_non_regression", "INCONCLUSIVE") and images:
        return f"Give a larger clean set: about {count(images)} images would settle it. {GENTLER}"
    if (check.name, check.result) == ("repair_rate", "INCONCLUSIVE") and failures:
        more = f"Log more failures of the same kind: about {count(failures)} held-out ones would settle it."
        return f"{_cut_short(record)} {more}".strip()
    known = RULES[check.name].hints.get(check.result) if check.name in RULES else None
    if known and (check.name, check.result) == ("repair_rate", "FAIL"):
        return _cut_short(record) or f"{_by_the_style(record)} {known}".strip()
    return known or f"{statements.check_name(check)} is {check.result}: its sentence in the table of checks says why."


def _by_the_style(record: Record) -> str:
    if record.method is None or record.method.name not in STYLED:
        return ""
    return (
        "Look at the styled images on the review page: where they do not resemble the failures, try another style.name."
    )


def _cut_short(record: Record) -> str:
    """What was given up for clean accuracy, where the served weights stop short of the fine-tuned ones; else ''."""
    points = record.training.tradeoff if record.training else ()
    chosen = next((point for point in points if point.chosen), None)
    if not chosen or chosen.weight == 1 or (record.form and record.form.name != "one"):
        return ""
    champion, end = points[0], points[-1]
    costs = [100 * (point.validation_accuracy - champion.validation_accuracy) for point in (end, chosen)]
    said = (
        f"To keep clean accuracy the step was cut to {chosen.weight:.0%} of the way. On what chose, the whole way "
        f"repairs {end.validation_repair_rate:.0%} of the failures at {costs[0]:+.2f} points, and this one "
        f"{chosen.validation_repair_rate:.0%} at {costs[1]:+.2f}."
    )
    if dict(record.config.get("guard", {})).get("mode") == "off":
        return f"{said} With guard.mode=auto the champion keeps the clean images, and the whole way may be served."
    images = record.training.validation_images if record.training else None
    known = f"; {count(images)} chose here" if images else ""
    return f"{said} More clean images to choose by (a validation set{known}) or more train images allow a larger step."


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
