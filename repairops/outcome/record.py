"""What a repair came to: the record that outcome.json holds, the report shows and the exit code repeats."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from repairops.config import GateConfig, config_from_dict
from repairops.errors import OutcomeUnreadable, UsageError, listing, shown
from repairops.files import check_bounds, read_text
from repairops.gate import RULES, decide
from repairops.gate.evidence import Evidence, RepairCounts, Verdict
from repairops.gate.planning import LeastHarm, PowerAt
from repairops.outcome import given, sections
from repairops.outcome.given import EarlierFailures, Provenance, SuspectLabels
from repairops.outcome.plain import Unfit, from_plain, to_plain
from repairops.outcome.sections import Comparison

SCHEMA = 2
READABLE = (1, 2)
MOST_IMAGES = 10_000_000  # of a count that is judged: the exact test of more takes minutes
_BYTES, _DEPTH, _VALUES = 256 * 2**20, 50, 10_000_000  # of an outcome.json, at most
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
class Record:
    """All that is known of a repair, and what outcome.json holds; None where the job did not get there.

    outcome: passed, failed, inconclusive, nothing_to_repair or error; alias_moved and not_promoted are passed and
    registered, but the production alias was not moved.
    config: the resolved options by stage. stages: seconds by stage. power, least_harm, warning: what is known of
    the gate before the training.
    not_moved: why the alias was not moved, '' where it was. earlier_run: the run that came to this outcome.
    """

    schema: int = SCHEMA
    outcome: str = "error"
    exit_code: int = 1
    message: str = ""
    job_key: str = ""
    created_at: str = ""  # ISO 8601
    model: given.ModelVersion | None = None
    registered: given.ModelVersion | None = field(default=None, metadata={"null": True})
    promoted: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    config_digest: str = ""
    seed: int | None = None
    batches: tuple[given.Batch, ...] = ()
    environment: given.Environment = field(default_factory=given.Environment)
    tracking: given.Tracking = field(default_factory=given.Tracking)
    commit: str = ""
    stages: Mapping[str, float] = field(default_factory=dict)
    sets: Mapping[str, given.DataSet] | None = None
    clean_validation: given.CleanValidation | None = None
    champion: sections.ChampionFigures | None = None
    power: tuple[PowerAt, ...] | None = None
    least_harm: LeastHarm | None = None
    warning: str | None = None
    validation: given.Validation | None = None
    split: sections.SplitSizes | None = None
    earlier: EarlierFailures | None = None
    suspect_labels: SuspectLabels | None = None
    clusters: tuple[sections.Cluster, ...] | None = None
    method: sections.MethodNames | None = None
    style: sections.Looks | None = None
    training: sections.Training | None = None
    form: sections.Form | None = None
    challenger: sections.ChallengerFigures | None = None
    negative_flips: int | None = None
    artifacts: sections.Artifacts | None = None
    comparison: Comparison | None = None
    evidence: Evidence | None = None
    policy: GateConfig | None = None
    verdict: Verdict | None = None
    not_moved: str | None = None
    confusion: sections.Confusion | None = None
    heldout_by_class: Mapping[str, RepairCounts] | None = None
    provenance: Provenance | None = None
    seconds: float | None = None
    earlier_run: str | None = None


@dataclass(frozen=True)
class Outcome:
    """The values of outcome.json, plain JSON, and as a `record`. repeated: an earlier run had done the job."""

    values: Mapping[str, Any]
    repeated: bool = False
    source: object = "outcome.json"  # for messages

    @cached_property
    def record(self) -> Record:
        """The values as a record. Raises OutcomeUnreadable, which names the key that does not fit."""
        values, policy = _upgraded(self.values), self.values.get("policy")
        try:
            record = from_plain(Record, {key: value for key, value in values.items() if key != "policy"})
            return record if policy is None else replace(record, policy=_policy(policy))
        except Unfit as error:
            raise OutcomeUnreadable(self.source, " ".join(str(error).split())) from error

    @property
    def kind(self) -> str:
        """See `Record.outcome`."""
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
    path.write_text(json.dumps(to_plain(values), indent=1, allow_nan=False), encoding="utf-8")


def read_outcome(path: str | Path, source: object = "") -> Outcome:
    """An outcome.json of this schema or an earlier one. Raises OutcomeUnreadable; `source` names it, else the path."""
    source = source or path
    try:
        values = json.loads(read_text(path, _BYTES))
        check_bounds(values, depth=_DEPTH, items=_VALUES)
    except OSError as error:
        raise OutcomeUnreadable(source, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise OutcomeUnreadable(source, f"it is not JSON that can be read ({error})") from error
    schema = values.get("schema") if isinstance(values, dict) else None
    if type(schema) is not int or schema not in READABLE:
        raise OutcomeUnreadable(source, f"its schema is {shown(schema)}, and this version reads {listing(READABLE)}")
    outcome = Outcome(values, source=source)
    _ = outcome.record  # whatever does not fit is said now
    return outcome


def recompute(outcome: Outcome) -> Verdict:
    """The verdict from an outcome's own counts and policy, computed anew. Raises OutcomeUnreadable.

    A check that its policy does not name is off: the gate did not ask it then. An outcome of schema 1 was judged by
    the score test, and is judged by the exact one here, so that the two can differ where the evidence is at the edge.
    """
    record = outcome.record
    if record.evidence is None or record.policy is None:
        raise OutcomeUnreadable(outcome.source, f"it holds no evidence of a gate (outcome {record.outcome!r})")
    if wrong := next((count for count in _counts(record.evidence) if not 0 <= count <= MOST_IMAGES), None):
        fact = f"one is {shown(wrong)}, and each is from 0 to {MOST_IMAGES:,}"
        raise OutcomeUnreadable(outcome.source, f"its counts cannot be judged ({fact})")
    try:
        return decide(record.evidence, record.policy)
    except (ArithmeticError, ValueError) as error:
        raise OutcomeUnreadable(outcome.source, f"its counts cannot be judged ({error})") from error


def _counts(evidence: Any) -> Iterator[int]:
    """All whole numbers in the evidence."""
    if type(evidence) is int:
        yield evidence
    elif is_dataclass(evidence):
        yield from chain.from_iterable(_counts(getattr(evidence, each.name)) for each in fields(evidence))
    elif isinstance(evidence, Mapping | tuple):
        yield from chain.from_iterable(map(_counts, evidence.values() if isinstance(evidence, Mapping) else evidence))


def _policy(values: Any) -> GateConfig:
    """The recorded policy; checks that it does not name are off, and classes were judged each by itself."""
    if not isinstance(values, Mapping):
        raise Unfit(f"policy is {values!r}, and must hold values by name")
    try:
        return config_from_dict({"gate": {**dict.fromkeys(RULES, "off"), "class_test": "each", **values}}).gate
    except UsageError as error:
        raise Unfit(f"its policy is none that this version knows ({error})") from error


def _upgraded(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values in the present shape: schema 1 had one latency or none."""
    evidence = values.get("evidence")
    if values.get("schema") != 1 or not isinstance(evidence, Mapping):
        return values
    latency = evidence.get("latency")
    return {**values, "evidence": {**evidence, "latency": [latency] if latency else []}}
