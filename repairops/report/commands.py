"""The commands that promote, roll back, reproduce and recompute, each ready to copy into a shell."""

from __future__ import annotations

import shlex
from typing import Any

from repairops.config import load
from repairops.outcome import Record
from repairops.report.formats import plain
from repairops.report.statements import production_alias

DEFAULT_ALIAS = "prod"  # what `repairops promote MODEL` moves


def promote_command(record: Record) -> str:
    """The command that promotes the registered version; empty where there is none or it is promoted."""
    return f"repairops promote {_version(record)} --by NAME --reason TEXT" if _waits(record) else ""


def review_command(record: Record) -> str:
    """The command that shows the evidence again, and whether a promotion would be refused now; empty as above."""
    return f"repairops review {_version(record)}" if _waits(record) else ""


def rollback_command(record: Record) -> str:
    """The command that undoes the last promotion; empty where nothing was registered."""
    return f"repairops rollback {_target(record)}" if record.registered else ""


def serve_command(record: Record) -> str:
    """MLflow's command that serves the version to people; empty where none was registered, or without an ONNX file."""
    new = record.registered
    if not new or not (record.artifacts and record.artifacts.onnx_sha256):
        return ""
    uri = shlex.quote(f"models:/{plain(new.name)}/{plain(new.version)}/onnx")
    return f"mlflow models serve -m {uri} --env-manager local"


def gate_command(record: Record) -> str:
    """The command that computes the verdict again; empty where the gate was not asked."""
    run = plain(record.tracking.run_id)
    place = shlex.quote(f"runs:/{run}") if run else "outcome.json"
    return f"repairops gate {place}" if record.evidence else ""


def _waits(record: Record) -> bool:
    """Whether a passed version waits for its promotion."""
    return bool(record.registered and not record.promoted and record.outcome == "passed")


def _version(record: Record) -> str:
    number = plain(record.registered.version) if record.registered else ""
    return f"{_target(record)} --version {shlex.quote(number)}"


def _target(record: Record) -> str:
    """The registered model, with its production alias where that is not the default, as a shell word."""
    name, alias = plain(record.registered.name) if record.registered else "", production_alias(record)
    return shlex.quote(f"{name}@{alias}" if alias not in ("", DEFAULT_ALIAS) else name)


def reproduce_command(record: Record) -> str:
    """The command that runs the very job again: version, batches, image sets that were given as paths, seed and
    changed options; empty without a model.
    """
    if not record.model:
        return ""
    values = {
        "model": f"models:/{plain(record.model.name)}/{plain(record.model.version)}",
        "failures": ",".join(plain(b.run_id or b.digest) for b in record.batches),
        **{plain(name): plain(found.uri) for name, found in (record.sets or {}).items() if found.given},
        "seed": "" if record.seed is None else str(record.seed),
        "set": ";".join(changed_options(record)),
        "rerun": "true",
    }
    return " ".join(["mlflow run ."] + [f"-P {shlex.quote(f'{k}={v}')}" for k, v in values.items() if v])


def changed_options(record: Record) -> list[str]:
    """The configuration's options that differ from the defaults, as `key=value`, without the seed."""
    return [f"{name}={_value(value)}" for name, value in load.changed_options(record.config).items()]


def _value(value: Any) -> str:
    return ",".join(map(plain, value)) if isinstance(value, list) else plain(value)
