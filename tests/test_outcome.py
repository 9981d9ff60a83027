"""outcome.json: kept files of both schemas are read, shown and judged as ever, and damaged ones end in one line."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import pytest
from evidence_helpers import good_evidence

from repairops.config import GateConfig
from repairops.config.fields import Level, required
from repairops.errors import OutcomeUnreadable
from repairops.gate import RULES, repaired
from repairops.outcome import Outcome, Record, read_outcome, recompute
from repairops.outcome.plain import to_plain
from repairops.report import render_markdown, render_page, render_terminal

FOLDER = Path(__file__).parent / "outcomes"
FILES = {  # what jobs wrote, but for the paths of their data; and what is shown of it
    "schema1": (
        "63 of 66 held-out failures are right now, and clean accuracy goes from 95.92% to 95.54%",
        "Version 2 of cls is registered under the alias challenger; the alias prod was not moved.",
    ),
    "schema2": (
        "61 of 66 held-out failures are right now, and clean accuracy stays at 95.67%",
        "Version 2 of cls is registered and promoted: the alias prod was moved to it.",
    ),
}
KINDS: tuple[Any, ...] = (None, "?", 7, -0.5, True, [], [None], {}, {"?": 1})
# Keys that hold whatever a job's options, checks and methods say, and those that follow from other ones.
OPEN = re.compile(
    r"config\.|policy\.(policy|clean_slices)|\.findings\[|\.figures$|training\.(champion|history\[\d+\])\.\w+$"
    r"|\.styles\[\d+\]\.\w+$|_ece$|onnx_accuracy\.(champion|challenger|n)$|\.set$"
)


def kept(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return values


@pytest.mark.parametrize("name", FILES)
def test_a_kept_file_is_read_shown_and_judged_as_it_was(name: str) -> None:
    outcome = read_outcome(FOLDER / f"{name}.json")
    record = outcome.record
    assert record.verdict
    verdict = recompute(outcome)
    assert verdict.result == record.verdict.result == "PASS"
    assert [c.name for c in verdict.checks] == [c.name for c in record.verdict.checks]
    assert [(c.level, c.result) for c in verdict.checks] == [(c.level, c.result) for c in record.verdict.checks]
    for shown in (render_page(record), render_markdown(record).replace("\\", ""), render_terminal(record)):
        assert all(sentence in shown for sentence in FILES[name])
        assert "None" not in shown


def test_a_record_is_written_as_it_was_read() -> None:
    """Keys, nesting and digits; the file has every section but a warning, and those that came later."""
    values = kept("schema2")
    values["policy"] |= {"max_clean_routing": 0.05, "clean_routing": "off", "repair_margin_points": 5.0}
    values["policy"] |= {"repairs_kept": "off", "earlier_repairs": "off", "class_test": "each"}
    values["policy"] |= {"field_margin_points": 2.0, "field_non_regression": "off"}
    record = read_outcome(FOLDER / "schema2.json").record
    assert to_plain(record) == values
    assert list(to_plain(record)) == list(values)
    unset = {key for key, value in vars(record).items() if value is None}
    later = {"form", "provenance", "least_harm", "comparison", "suspect_labels", "earlier"}
    assert unset == {"warning", "earlier_run"} | later


def test_what_was_not_reached_has_no_key_but_these() -> None:
    assert to_plain(Record())["registered"] is None
    assert not {"evidence", "training", "warning"} & to_plain(Record()).keys()
    evidence = to_plain(good_evidence(calibration=None, onnx_accuracy=None))
    assert (evidence["calibration"], evidence["onnx_accuracy"]) == (None, None)


@pytest.mark.parametrize("name", FILES)
def test_a_check_that_the_recorded_policy_does_not_name_is_off(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A required check that came later would not pass on this evidence; the archived verdict stays what it was."""
    fog = required("repaired", "Fog", FAIL="Wait for the sun.")
    later = make_dataclass("GateConfig", [("fog", Level, fog)], bases=(GateConfig,), frozen=True)
    monkeypatch.setattr("repairops.config.options.GateConfig", later)
    monkeypatch.setitem(RULES, "fog", RULES["slices"])
    monkeypatch.setattr(repaired, "check_fog", repaired.check_slices, raising=False)
    values = kept(name)
    found = recompute(Outcome(values))
    assert found.result == "PASS"
    assert "fog" not in [check.name for check in found.checks]
    assert Outcome(values).record.policy.fog == "off"  # type: ignore[union-attr]
    values["policy"]["fog"] = "required"
    assert recompute(Outcome(values)).result == "INCONCLUSIVE"


def test_keys_of_a_later_version_are_left_alone() -> None:
    values = kept("schema2")
    values["evidence"]["fog"] = values["fog"] = {"thick": True}
    outcome = Outcome(values)
    assert to_plain(recompute(outcome)) == values["verdict"]
    assert outcome.values["fog"] == {"thick": True}


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every key and entry below a value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in entries:
        yield (*path, key)
        yield from places(below, (*path, key))


def at(values: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        values = values[key]
    return values


def mutated(values: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """The values with another one at a path."""
    changed = copy.copy(values)
    here: Any = changed
    for key in path[:-1]:
        here[key] = copy.copy(here[key])
        here = here[key]
    here[path[-1]] = value
    return changed


def dotted(path: tuple[str | int, ...]) -> str:
    return re.sub(r"\.\[", "[", ".".join(f"[{key}]" if isinstance(key, int) else key for key in path))


@pytest.mark.parametrize("name", FILES)
def test_every_key_of_another_kind_is_named(name: str) -> None:
    values = kept(name)
    for path in places(values):
        if path[0] in ("schema", "config") or OPEN.search(dotted(path)):
            continue
        other = 0.5 if isinstance(at(values, path), dict) else {"?": [[]]}
        with pytest.raises(OutcomeUnreadable) as raised:
            _ = Outcome(mutated(values, path, other)).record
        message = str(raised.value)
        assert str(path[-1]) in message or path[-1] == "bins", (path, message)
        assert "\n" not in message


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("seed", range(2))
def test_damage_is_read_or_ends_in_one_line(name: str, seed: int) -> None:
    """Any key with a value of any kind: what is read can be shown, whatever it says."""
    draw, values = random.Random(seed), kept(name)
    paths = [path for path in places(values) if path[0] not in ("schema", "config")]
    refused = []
    for number, path in enumerate(draw.sample(paths, 100)):
        outcome = Outcome(mutated(values, path, draw.choice(KINDS)))
        try:
            assert render_markdown(outcome.record)
            assert render_terminal(outcome.record)
            if number % 20 == 0:
                assert render_page(outcome.record)
                recompute(outcome)
        except OutcomeUnreadable as error:
            refused.append(str(error))
    assert 0 < len(refused) < 100
    assert not [message for message in refused if "\n" in message]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ('{"schema": 2, "config": ' + "[" * 60 + "]" * 60 + "}", "nested more than 50 deep"),
        ('{"schema": 2, "message": "\\ud800"}', "half a character"),
        ('{"schema": 2, "message": "a\\u0000"}', "a text with a NUL"),
        ('{"schema": 1' + "0" * 5000 + "}", "it is not JSON"),
        ('{"schema": 1' + "0" * 400 + "}", "its schema is a whole number of about"),
        ('{"schema": 2.0}', r"its schema is 2\.0"),
        ("[]", "its schema is None"),
        ('{"schema": true}', "its schema is True"),
        ('{"schema": [2]}', r"its schema is \[2\]"),
        (
            '{"schema": 2, "seconds": 1' + "0" * 400 + "}",
            "seconds is a whole number of about 398 digits, and",
        ),
        ('{"schema": 2, "model": {"name": "cls"}}', r"model\.version is missing"),
        ('{"schema": 2, "batches": [{"digest": 5}]}', r"batches\[0\]\.digest is 5, and must be a text"),
        ('{"schema": 2, "policy": 3}', "policy is 3"),
        ('{"schema": 2, "seconds": true}', "seconds is True, and must be a number"),
        ('{"schema": 2, "seed": false}', "seed is False, and must be a whole number"),
        ('{"schema": 2, "promoted": 1}', "promoted is 1, and must be true or false"),
        ('{"schema": 2, "stages": {"a\\nb": "x"}}', r"stages\.a b is 'x', and must be a number"),
    ],
)
def test_what_is_no_outcome_is_refused_in_one_line(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "outcome.json").write_text(text)
    with pytest.raises(OutcomeUnreadable, match=why):
        read_outcome(tmp_path / "outcome.json")


@pytest.mark.parametrize("count", [-1, -700, 10_000_001, 10**18, 10**400])
@pytest.mark.parametrize(
    "path",
    [("clean", "both_right"), ("heldout_total",), ("parity", "n"), ("clean_by_class", "0"), ("latency", 0, "runs")],
    ids=lambda path: path[0],
)
def test_impossible_counts_are_no_traceback(path: tuple[str | int, ...], count: int) -> None:
    values = kept("schema2")
    if path[0] == "clean_by_class":
        path = (path[0], next(iter(values["evidence"][path[0]])), "both_wrong")
    values = mutated(values, ("evidence", *path), count)
    with pytest.raises(OutcomeUnreadable, match=rf"cannot be judged|{path[-1]} is a whole number of about 398 digits"):
        recompute(Outcome(values))
