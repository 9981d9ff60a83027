"""What a repair came to: the record that outcome.json holds, the report shows and the exit code repeats."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repairops.config import GateConfig, config_from_dict
from repairops.errors import OutcomeUnreadable, UsageError, listing
from repairops.gate.evidence import Evidence, Verdict

SCHEMA = 2
READABLE = (1, 2)
EXIT_CODES = {
    "passed": 0,
    "nothing_to_repair": 0,
    "error": 1,
    "failed": 3,
    "inconclusive": 4,
    "alias_moved": 5,  # passed and registered, not promoted
    "not_promoted": 5,  # likewise, since the promotion was refused
}
OF_VERDICT = {"PASS": "passed", "FAIL": "failed", "INCONCLUSIVE": "inconclusive"}


@dataclass(frozen=True)
class Outcome:
    """The values of outcome.json, plain JSON. `repeated` is True where an earlier run had done the job."""

    values: Mapping[str, Any]
    repeated: bool = False

    @property
    def kind(self) -> str:
        """passed, failed, inconclusive, nothing_to_repair or error; alias_moved and not_promoted are passed and
        registered, but the production alias was not moved."""
        return str(self.values["outcome"])

    @property
    def exit_code(self) -> int:
        return int(self.values["exit_code"])

    @property
    def message(self) -> str:
        return str(self.values["message"])

    @property
    def version(self) -> str:
        """The registered version, '' where none was registered."""
        return str((self.values.get("registered") or {}).get("version", ""))


def write_outcome(values: Mapping[str, Any], path: Path) -> None:
    """Writes outcome.json; NaN and infinity become null, since JSON has neither."""
    path.write_text(json.dumps(_finite(values), indent=1, allow_nan=False), encoding="utf-8")


def read_outcome(path: str | Path) -> dict[str, Any]:
    """An outcome.json as plain values, of this schema or an earlier one. Raises OutcomeUnreadable."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise OutcomeUnreadable(path, error.strerror or str(error)) from error
    except ValueError as error:
        raise OutcomeUnreadable(path, f"it is not JSON ({error})") from error
    if not isinstance(values, dict) or values.get("schema") not in READABLE:
        found = values.get("schema") if isinstance(values, dict) else None
        raise OutcomeUnreadable(path, f"its schema is {found!r}, and this version reads {listing(READABLE)}")
    return values


def recompute(values: Mapping[str, Any], path: object = "outcome.json") -> Verdict:
    """The verdict from an outcome's own counts and policy, computed anew. Raises OutcomeUnreadable.

    Checks that an outcome of schema 1 does not know are off. It was judged by the score test, and is judged by the
    exact one here, so that the two can differ where the evidence is at the edge.
    """
    from repairops.gate import RULES, decide

    if not values.get("evidence") or not values.get("policy"):
        raise OutcomeUnreadable(path, f"it holds no evidence of a gate (outcome {values.get('outcome')!r})")
    levels = dict.fromkeys(RULES, "off") if values.get("schema") == 1 else {}
    try:
        policy: GateConfig = config_from_dict({"gate": {**levels, **values["policy"]}}).gate
    except UsageError as error:
        raise OutcomeUnreadable(path, f"its policy is none that this version knows ({error})") from error
    try:
        evidence = Evidence.from_dict(_numbers(_upgraded(values)))
    except (KeyError, TypeError, AttributeError) as error:
        raise OutcomeUnreadable(path, f"its evidence is incomplete ({error!r})") from error
    return decide(evidence, policy)


def _upgraded(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The evidence in the present shape: schema 1 had one latency or none, and none of what came later."""
    evidence: Mapping[str, Any] = values["evidence"]
    if values.get("schema") != 1:
        return evidence
    later: dict[str, Any] = {
        "heldout_by_cluster": {},
        "slices": [],
        "corruptions": {},
        "calibration": None,
        "onnx_accuracy": None,
    }
    latency = evidence.get("latency")
    return {**later, **evidence, "latency": [latency] if latency else []}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, str | bytes):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Evidence with the nulls that stand for NaN turned back."""
    parity = {k: math.nan if v is None else v for k, v in evidence["parity"].items()}
    latency = [{k: math.nan if v is None else v for k, v in one.items()} for one in evidence["latency"]]
    return {**evidence, "parity": parity, "latency": latency}
