"""What to do next, for each way that a repair can end."""

from __future__ import annotations

import shlex

from repairops.gate.evidence import Check
from repairops.outcome import Record
from repairops.report import facts
from repairops.report.wording import count, number, plain

GENTLER = "Train more gently: a third of training.learning_rate, or fewer training.epochs."
HINTS = {
    ("clean_non_regression", "FAIL"): f"{GENTLER} If the loss is acceptable to you, raise gate.margin_points.",
    ("clean_non_regression", "INCONCLUSIVE"): "Give a larger clean set.",
    (
        "repair_rate",
        "FAIL",
    ): "Look at the styled images on the review page: where they do not resemble the failures, try another "
    "style.name; else log more failures of the same kind, or raise training.epochs.",
    ("repair_rate", "INCONCLUSIVE"): "Log more failures of the same kind, so that more of them are held out.",
    ("class_recall", "FAIL"): f"Add train images of the classes that fell (listed on the review page). {GENTLER}",
    (
        "class_recall",
        "INCONCLUSIVE",
    ): "Give a clean set with more images of the smallest classes (listed on the review page).",
    ("negative_flips", "FAIL"): f"Look at the negative flips on the review page. {GENTLER}",
    ("onnx_parity", "FAIL"): "Correct what the exporter names, or set gate.onnx_parity=advisory if ONNX is not served.",
    ("onnx_parity", "INCONCLUSIVE"): "Read the exporter's reason, and run the job again.",
    (
        "cluster_repair",
        "FAIL",
    ): "Look at that cluster on the review page: log more failures of its kind, or try another "
    "style.name where its styled images do not resemble them.",
    ("slices", "FAIL"): "Look at that slice on the review page: log more failures of it, or add train images of it.",
    ("corruptions", "FAIL"): f"Decide whether the field sees that corruption. {GENTLER}",
    ("calibration", "FAIL"): f"Recalibrate before promoting, or raise gate.max_ece_rise. {GENTLER}",
    ("onnx_accuracy", "FAIL"): f"As for clean non-regression. {GENTLER}",
    ("latency", "FAIL"): "Measure again on an idle machine; if it stays, raise gate.max_latency_ratio.",
}


def next_steps(record: Record) -> list[str]:
    """One to a few sentences in the order to take them; commands are shown apart."""
    match facts.kind(record):
        case "passed":
            return [_after_pass(record)]
        case "failed" | "inconclusive":
            return [hint(check) for check in facts.deciding(record, "FAIL", "INCONCLUSIVE")] + [
                "Run the repair again: changed options or new failures make it a new job."
            ]
        case "nothing_to_repair":
            model = shlex.quote(plain(record.model.name)) if record.model else "MODEL"
            return [f"Log new failures, for example with `repairops failures log {model}`, and run again."]
    if facts.broken_rules(record):
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
    known = HINTS.get((check.name, check.result))
    return known or f"{facts.check_name(check)} is {check.result}: its sentence in the table of checks says why."


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
