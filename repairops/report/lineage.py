"""Where a repair came from: data quality, versions, batches, times. Plain values for the template."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from repairops.outcome import Record
from repairops.outcome.given import DataSet
from repairops.report.figures import share_bar
from repairops.report.formats import count, duration, short, when

MAX_BATCHES = 50
MEANINGS = {  # of `validation.ROW_RULES`; a rule that is not here shows its name alone
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
    "near_copy": "almost also in one of these sets",
    "stale": "the pinned version gets it right",
    "out_of_range": "a value outside its range",
}


def quality(record: Record) -> dict[str, Any]:
    """Quarantined rows: how many, beside the accepted ones as a bar, and by rule, most first."""
    if not (found := record.validation):
        return {}
    total, accepted = sum(found.quarantined.values()), found.accepted or 0
    field = f", {count(found.field_rows)} field rows" if found.field_rows else ""
    label = f"{count(found.accepted)} of {count(found.rows)} rows accepted{field}, {count(total)} quarantined."
    return {
        "quarantined": total,
        "bar": share_bar(
            [(accepted + (found.field_rows or 0), "accepted"), (total, "refused")], label=label, width=440, height=12
        ),
        "rules": sorted(((rule, n) for rule, n in found.quarantined.items() if n), key=lambda item: -item[1]),
    }


def stage_bar(seconds: float, longest: float) -> Markup:
    """A stage's time as a share of the longest one's."""
    parts = [(seconds, "accepted"), (longest - seconds, "none")]
    return share_bar(parts, label=duration(seconds), width=160)


def lineage(record: Record) -> list[tuple[str, str, bool]]:
    """Rows (name, value, whether the value is an identifier), without those that have no value."""
    model, new, env, method = record.model, record.registered, record.environment, record.method
    versions = {"repairops": env.repairops, "mlflow": env.mlflow, "torch": env.torch, "python": env.python}
    described = [method.name] if method else []
    if method:
        named = {"chosen": method.chosen, "recipe": method.recipe, "style": method.style}
        described += [f"{k} {v}" for k, v in named.items() if v and not (k == "chosen" and v == method.name)]
    rows = [
        ("Parent version", model.uri if model else "", True),
        ("Parent's run", (model and model.run_id) or "", True),
        ("Registered version", new.uri if new else "", True),
        *((name.replace("_", " ").capitalize(), _set(found), False) for name, found in (record.sets or {}).items()),
        ("Method", ", ".join(described), False),
        ("Configuration digest", record.config_digest, True),
        ("Job key", record.job_key, True),
        ("This run", record.tracking.run_id, True),
        ("Experiment", record.tracking.experiment or "", False),
        ("Commit", record.commit, True),
        ("Seed", "" if record.seed is None else str(record.seed), True),
        ("Hardware", ", ".join(part for part in (env.device, env.machine) if part), False),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version), False),
        ("Made", when(record.created_at) if record.created_at else "", False),
        ("Time in all", "" if record.seconds is None else duration(record.seconds), False),
    ]
    return [row for row in rows if row[1]]


def _set(found: DataSet) -> str:
    """A data set: how many images, of how many where some have another role, and what they can be told by."""
    among = f" of {count(found.whole.images)}" if found.whole else ""
    images = "" if found.images is None else f"{count(found.images)}{among} images, "
    return f"{images}sha256 {short(found.digest)}"
