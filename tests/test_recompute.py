"""Evidence stays checkable: what outcome.json keeps gives the recorded verdict again, in either schema."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evidence_helpers import good_evidence, random_evidence

from repairops.config import GateConfig
from repairops.errors import OutcomeUnreadable
from repairops.gate import RULES, decide
from repairops.outcome import Outcome, read_outcome, recompute, write_outcome
from repairops.outcome.plain import to_plain
from repairops.outcome.record import SCHEMA


def random_policy(draw: np.random.Generator) -> GateConfig:
    levels = {name: str(draw.choice(["required", "advisory", "off"])) for name in RULES}
    numbers = {"margin_points": float(draw.choice([0.0, 0.5, 5.0])), "min_repair_rate": float(draw.uniform(0, 1))}
    return replace(GateConfig(), **levels, **numbers)


@pytest.mark.parametrize("seed", range(40))
def test_the_written_evidence_gives_the_recorded_verdict(seed: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(seed)
    evidence, policy = random_evidence(draw), random_policy(draw)
    verdict = decide(evidence, policy)
    values = to_plain({"schema": SCHEMA, "evidence": evidence, "policy": policy, "verdict": verdict})
    write_outcome(values, tmp_path / "outcome.json")
    again = read_outcome(tmp_path / "outcome.json")
    assert repr(again.record.evidence) == repr(evidence).replace("=inf", "=nan")  # JSON has one null for both
    assert again.record.policy == policy
    assert json.loads(json.dumps(to_plain(again.record.verdict))) == again.values["verdict"]
    found = recompute(again)
    assert found.result == verdict.result
    assert to_plain(found) == again.values["verdict"]


def first_schema(**changes: Any) -> dict[str, Any]:
    """An outcome as version 0.1.0 wrote it."""
    counts = {"both_right": 9000, "champion_only": 30, "challenger_only": 40, "both_wrong": 930}
    evidence = {
        "clean": counts,
        "clean_by_class": {"cat": counts},
        "heldout_repaired": 90,
        "heldout_total": 100,
        "parity": {"n": 10_100, "decisions_differ": 0, "max_difference": 1e-6, "reason": ""},
        "latency": {
            "batch_size": 1,
            "champion_median_ms": 1.0,
            "champion_p99_ms": 2.0,
            "challenger_median_ms": 1.1,
            "challenger_p99_ms": 2.0,
        },
        "champion_finite": True,
        "challenger_finite": True,
    }
    policy = {
        "confidence": 0.95,
        "margin_points": 0.5,
        "min_repair_rate": 0.3,
        "class_margin_points": 5.0,
        "max_negative_flips": 0.02,
        "parity_tolerance": 1e-3,
        "max_latency_ratio": 1.2,
        "clean_non_regression": "required",
        "repair_rate": "required",
        "class_recall": "required",
        "negative_flips": "advisory",
        "onnx_parity": "required",
        "latency": "advisory",
    }
    return {"schema": 1, "outcome": "passed", "evidence": {**evidence, **changes}, "policy": policy}


@pytest.mark.parametrize("latency", [True, False])
def test_an_outcome_of_the_first_schema_is_judged_by_the_checks_that_it_knows(tmp_path: Path, latency: bool) -> None:
    write_outcome(first_schema(**({} if latency else {"latency": None})), tmp_path / "outcome.json")
    verdict = recompute(read_outcome(tmp_path / "outcome.json"))
    assert verdict.result == "PASS"
    names = ["clean_non_regression", "repair_rate", "class_recall", "negative_flips", "onnx_parity", "latency"]
    assert [check.name for check in verdict.checks] == names
    assert verdict.checks[-1].result == ("PASS" if latency else "INCONCLUSIVE")


@pytest.mark.parametrize("schema", [0, 3, "2", None])
def test_another_schema_is_refused_with_its_number(tmp_path: Path, schema: object) -> None:
    write_outcome({**first_schema(), "schema": schema}, tmp_path / "outcome.json")
    with pytest.raises(OutcomeUnreadable, match=f"its schema is {schema!r}, and this version reads 1, 2"):
        read_outcome(tmp_path / "outcome.json")


@pytest.mark.parametrize("missing", ["clean", "clean_by_class", "heldout_total", "parity"])
def test_evidence_without_its_counts_is_refused(missing: str) -> None:
    evidence = to_plain(random_evidence(np.random.default_rng(0)))
    del evidence[missing]
    with pytest.raises(OutcomeUnreadable, match=f"evidence.{missing} is missing"):
        recompute(Outcome({"schema": SCHEMA, "evidence": evidence, "policy": asdict(GateConfig())}))


@pytest.mark.parametrize("missing", ["slices", "corruptions", "calibration", "onnx_accuracy", "latency"])
def test_evidence_that_was_not_recorded_was_not_measured(missing: str) -> None:
    """As what a later version adds is missing in this one's files: it raises nothing, and is never a pass."""
    evidence = to_plain(good_evidence())
    del evidence[missing]
    policy = asdict(replace(GateConfig(), **{missing: "required"}))
    outcome = Outcome({"schema": SCHEMA, "evidence": evidence, "policy": policy})
    assert not getattr(outcome.record.evidence, missing)
    checks = {check.name: check.result for check in recompute(outcome).checks}
    assert checks[missing] == "INCONCLUSIVE"


@pytest.mark.parametrize("changed", [{"confidence": 95}, {"mercy": "required"}])
def test_a_policy_that_this_version_does_not_know_is_refused(changed: dict[str, Any]) -> None:
    values = first_schema()
    values["policy"] |= changed
    with pytest.raises(OutcomeUnreadable, match=f"its policy is none that this version knows .*{next(iter(changed))}"):
        recompute(Outcome(values))


def test_counts_that_were_changed_by_hand_change_the_verdict() -> None:
    values = first_schema()
    values["evidence"]["clean"] = {**values["evidence"]["clean"], "champion_only": 300}
    assert recompute(Outcome(values)).result == "FAIL"


def test_classes_are_judged_as_they_were_when_the_outcome_was_made(tmp_path: Path) -> None:
    """A policy that does not name `class_test` is from before it: any fall beyond the margin was inconclusive."""
    small = {"both_right": 16, "champion_only": 2, "challenger_only": 0, "both_wrong": 2}
    values = first_schema()
    values["evidence"]["clean_by_class"]["emu"] = small
    assert recompute(Outcome(values)).result == "INCONCLUSIVE"
    values["policy"]["class_test"] = "together"
    assert recompute(Outcome(values)).result == "PASS"
