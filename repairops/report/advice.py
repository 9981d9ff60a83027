"""What to do next, for each way that a repair can end."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from repairops.report import facts
from repairops.report.facts import Outcome
from repairops.report.wording import DASH, count, dig, number, plain

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
    known = HINTS.get((name, result))
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
