"""Who made what, where it lies, what this clean set and this alias have seen before. Plain values for the template."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from repairops.config import looser_than_default
from repairops.outcome import Record
from repairops.outcome.given import AliasMove, Provenance
from repairops.report.formats import count, percent, plain, series, short, when

MAX_MOVES = 20
KINDS = {
    "promotion": "promoted",
    "rollback": "rolled back",
    "logged": "logged with a new model",
    "outside": "moved outside repairops",
}


def looser(record: Record) -> str:
    """Every limit and level of the gate that is looser than the default, in one sentence; '' where none is."""
    found = looser_than_default(record.policy) if record.policy else []
    named = [f"gate.{each.name} {_value(each.value)} (default {_value(each.default)})" for each in found]
    return f"Looser than the default: {series(named)}." if named else ""


def reuse(record: Record) -> str:
    """How many gates the clean set has decided before, and what that does to the confidence; '' where it has none."""
    earlier = len(record.provenance.earlier_gates) if record.provenance else 0
    if not earlier or not record.policy:
        return ""
    risk = 1 - record.policy.confidence
    gates = "1 gate" if earlier == 1 else f"{count(earlier)} gates"
    together = percent(min(1.0, (earlier + 1) * risk), 0)
    return (
        f"This clean set has decided {gates} of this model before. One gate passes a repair that loses more than its "
        f"margin with a chance of at most {percent(risk, 0)}; that at least one of these {count(earlier + 1)} does so "
        f"has a chance of at most {together}. A fresh clean set starts again."
    )


def people(record: Record) -> list[tuple[str, str]]:
    """Rows (part, who): who logged and ran, and who must approve."""
    found, model = record.provenance, record.model
    if not found:
        return []
    by: dict[str, int] = {}
    for batch in record.batches:
        name = found.failures_by.get(batch.digest, "")
        by[name] = by.get(name, 0) + (batch.rows or 0)
    failures = series([f"{plain(name)} ({count(rows)})" for name, rows in by.items() if name])
    rows = [("Champion logged by", plain(found.champion_by)), ("Failures logged by", failures)]
    rows += [("Repaired by", plain(found.ran_by))]
    if record.registered and model:
        who = f"Whoever may edit the registered model {plain(model.name)}; name and reason are recorded"
        who = "Nobody: register.promote=auto moved the alias" if record.promoted else who
        rows.append(("To be approved by", who))
    return [row for row in rows if row[1]]


def links(record: Record) -> list[tuple[str, str, str]]:
    """Rows (what, name, address) in MLflow: registry, run, both versions, batches; address '' where it has no pages."""
    found = record.provenance or Provenance()
    rows = [("Registry", found.registry, found.registry if _pages(found) else "")]
    if record.tracking.run_id:
        rows.append(("Run", record.tracking.run_id, _run(found, found.experiment, record.tracking.run_id)))
    for what, version in (("Champion", record.model), ("Challenger", record.registered)):
        if version:
            page = f"#/models/{quote(version.name, safe='')}/versions/{quote(version.version)}"
            rows.append((what, version.uri, _at(found, page)))
    for batch in record.batches[:MAX_MOVES]:
        if batch.run_id:
            name = f"{short(batch.digest)}, {count(batch.rows)} rows"
            rows.append(("Failure batch", name, _run(found, found.failures_experiment, batch.run_id)))
    return [row for row in rows if row[1]]


def alias_history(record: Record) -> list[dict[str, Any]]:
    """The last moves of the production alias, newest first."""
    moves = record.provenance.alias_history if record.provenance else ()
    return [_move(move) for move in reversed(moves[-MAX_MOVES:])]


def _move(move: AliasMove) -> dict[str, Any]:
    versions = (plain(version) if version else "none" for version in (move.version_from, move.version_to))
    what = KINDS.get(move.kind, move.kind) + (", forced" if move.forced else "")
    return {
        "at": when(move.at) if move.at else "",
        "what": what,
        "versions": " → ".join(versions),
        "by": plain(move.by),
        "reason": plain(move.reason),
    }


def _pages(found: Provenance) -> bool:
    return found.registry.startswith(("http://", "https://"))


def _at(found: Provenance, page: str) -> str:
    return f"{found.registry.rstrip('/')}/{page}" if _pages(found) else ""


def _run(found: Provenance, experiment: str, run_id: str) -> str:
    return _at(found, f"#/experiments/{quote(experiment)}/runs/{quote(run_id)}") if experiment else ""


def _value(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
