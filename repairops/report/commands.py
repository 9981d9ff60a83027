"""The commands that promote, roll back, reproduce and recompute, each ready to copy into a shell."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

from repairops.report.facts import Outcome, production_alias
from repairops.report.wording import dig, mapping, mappings, number, plain

DEFAULT_ALIAS = "prod"  # what `repairops promote MODEL` moves
GATE_COMMAND = "repairops gate outcome.json"


def promote_command(outcome: Outcome) -> str:
    """The command that promotes the registered version; empty where there is none or it is promoted."""
    new = mapping(outcome.get("registered"))
    if not new or outcome.get("promoted") or outcome.get("outcome") != "passed":
        return ""
    version = shlex.quote(plain(new.get("version")))
    return f"repairops promote {_target(outcome)} --version {version} --by NAME --reason TEXT"


def review_command(outcome: Outcome) -> str:
    """The command that shows the evidence again, and whether a promotion would be refused now; empty as above."""
    new = mapping(outcome.get("registered"))
    version = shlex.quote(plain(new.get("version")))
    return f"repairops review {_target(outcome)} --version {version}" if promote_command(outcome) else ""


def rollback_command(outcome: Outcome) -> str:
    """The command that undoes the last promotion; empty where nothing was registered."""
    return f"repairops rollback {_target(outcome)}" if mapping(outcome.get("registered")) else ""


def _target(outcome: Outcome) -> str:
    """The registered model, with its production alias where that is not the default, as a shell word."""
    name, alias = plain(dig(outcome, "registered", "name")), production_alias(outcome)
    return shlex.quote(f"{name}@{alias}" if alias not in ("", DEFAULT_ALIAS) else name)


def reproduce_command(outcome: Outcome) -> str:
    """The command that runs the very job again: version, batches, image sets that were given as paths, seed and
    changed options; empty without a model.
    """
    model = mapping(outcome.get("model"))
    if model.get("name") is None or model.get("version") is None:
        return ""
    sets = mapping(outcome.get("sets"))
    batches = [b.get("run_id") or b.get("digest") for b in mappings(outcome.get("batches"))]
    values = {
        "model": f"models:/{plain(model['name'])}/{plain(model['version'])}",
        "failures": ",".join(plain(b) for b in batches if b),
        **{plain(name): plain(found["uri"]) for name, found in sets.items() if mapping(found).get("given")},
        "seed": plain(outcome["seed"]) if number(outcome.get("seed")) is not None else "",
        "set": ";".join(changed_options(outcome)),
        "rerun": "true",
    }
    return " ".join(["mlflow run ."] + [f"-P {shlex.quote(f'{k}={v}')}" for k, v in values.items() if v])


def changed_options(outcome: Outcome) -> list[str]:
    """The configuration's options that differ from the defaults, as `key=value`, without the seed."""
    from repairops.config import Config

    defaults = _flat(dataclasses.asdict(Config()))
    given = _flat(mapping(outcome.get("config")))
    return [f"{k}={_value(v)}" for k, v in given.items() if k != "seed" and (k not in defaults or defaults[k] != v)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _value(value: Any) -> str:
    return ",".join(map(plain, value)) if isinstance(value, list) else plain(value)
