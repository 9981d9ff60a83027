"""Where a repair came from: data quality, versions, batches, times. Plain values for the template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repairops.report import commands
from repairops.report.facts import Outcome, clean_validation
from repairops.report.figures import share_bar
from repairops.report.wording import DASH, count, dig, duration, mapping, mappings, number, plain, short, when

MAX_BATCHES = 50
RULES = {  # meanings of `validation.ROW_RULES`; a rule that is not here shows its name alone
    "does_not_decode": "damaged, or no image at all",
    "too_large": "more bytes or pixels than allowed",
    "animated": "more than one frame",
    "wrong_mode": "neither 8-bit grey nor RGB",
    "wrong_size": "not the size that the model takes",
    "altered": "not the pixels that were logged",
    "unknown_label": "not a class of the model",
    "conflicting_labels": "the same pixels with another label",
    "duplicate": "the same pixels and label as another row",
    "in_clean_set": "also in the clean set",
    "in_validation_set": "also among the clean validation images",
    "in_train_set": "also in the train set",
    "stale": "the pinned version gets it right",
    "out_of_range": "a value outside its range",
}
SPLIT = (
    ("repair", "Repair failures, which guide the repair"),
    ("validation", "Validation failures, which choose the checkpoint"),
    ("heldout", "Held-out failures, which only judge"),
)


def quality(outcome: Outcome) -> dict[str, Any]:
    values = mapping(outcome.get("validation"))
    quarantined = {str(k): number(v) or 0.0 for k, v in mapping(values.get("quarantined")).items()}
    total, accepted = sum(quarantined.values()), number(values.get("accepted"))
    rows = number(values.get("rows"))
    label = f"{count(accepted)} of {count(rows)} rows accepted, {count(total)} quarantined."
    split = mapping(outcome.get("split"))
    return {
        "exists": bool(values),
        "rows": count(rows),
        "accepted": count(accepted),
        "quarantined": count(total),
        "bar": share_bar([(accepted or 0.0, "accepted"), (total, "refused")], label=label, width=440, height=12),
        "rules": [
            (plain(rule).replace("_", " "), RULES.get(rule, ""), count(n))
            for rule, n in sorted(quarantined.items(), key=lambda item: -item[1])
            if n
        ],
        "broken": [plain(b) for b in values.get("broken") or []],
        "split": [(name, count(split[key])) for key, name in SPLIT if key in split],
        "clean": clean_validation(outcome),
    }


def lineage(outcome: Outcome) -> dict[str, Any]:
    stages = {str(k): number(v) or 0.0 for k, v in mapping(outcome.get("stages")).items()}
    longest = max(stages.values(), default=0.0)
    batches = mappings(outcome.get("batches"))
    return {
        "facts": [(name, value, code) for name, value, code in _lineage_facts(outcome) if value not in ("", DASH)],
        "batches": [
            (short(b.get("digest")), count(b.get("rows")), when(b.get("logged_at")), plain(b.get("run_id")))
            for b in batches[:MAX_BATCHES]
        ],
        "batches_left_off": max(0, len(batches) - MAX_BATCHES),
        "stages": [
            (
                plain(name),
                duration(s),
                share_bar([(s, "accepted"), (longest - s, "none")], label=duration(s), width=160),
            )
            for name, s in stages.items()
        ],
        "options": commands.changed_options(outcome),
    }


def _lineage_facts(outcome: Outcome) -> list[tuple[str, str, bool]]:
    """Rows (name, value, whether the value is an identifier)."""
    model, new, env = (mapping(outcome.get(k)) for k in ("model", "registered", "environment"))
    versions = ", ".join(f"{k} {plain(env[k])}" for k in ("repairops", "mlflow", "torch", "python") if env.get(k))
    method = mapping(outcome.get("method"))
    described = ", ".join(
        f"{k} {plain(method[k])}" if k != "name" else plain(method[k])
        for k in ("name", "chosen", "recipe", "style")
        if method.get(k) and not (k == "chosen" and method[k] == method.get("name"))
    )
    sets = mapping(outcome.get("sets"))
    return [
        ("Parent version", plain(model.get("uri") or None), True),
        ("Parent's run", plain(model.get("run_id")), True),
        ("Registered version", plain(new.get("uri") or None), True),
        *((plain(name).replace("_", " ").capitalize(), _set(mapping(found)), False) for name, found in sets.items()),
        ("Method", described, False),
        ("Configuration digest", plain(outcome.get("config_digest")), True),
        ("Job key", plain(outcome.get("job_key")), True),
        ("This run", plain(dig(outcome, "tracking", "run_id")), True),
        ("Experiment", plain(dig(outcome, "tracking", "experiment")), False),
        ("Commit", plain(outcome.get("commit") or None), True),
        ("Seed", plain(outcome.get("seed")), True),
        ("Hardware", ", ".join(plain(env[k]) for k in ("device", "machine") if env.get(k)), False),
        ("Versions", versions, False),
        ("Made", when(outcome.get("created_at")), False),
        ("Time in all", duration(outcome.get("seconds")), False),
    ]


def _set(found: Mapping[str, Any]) -> str:
    """A data set: how many images, of how many where some have another role, and what they can be told by."""
    images, whole = number(found.get("images")), number(dig(found, "whole", "images"))
    among = f" of {count(whole)}" if whole is not None else ""
    parts = [f"{count(images)}{among} images" if images is not None else "", f"sha256 {short(found.get('digest'))}"]
    return ", ".join(part for part in parts if part)
