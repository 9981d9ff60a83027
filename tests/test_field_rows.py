"""Field images that the champion gets right: they judge, and nothing is trained on them or chosen by them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from evidence_helpers import good_evidence, random_evidence
from guard_helpers import images as bright_images
from guard_helpers import pair
from pipeline_helpers import (
    NAMES,
    SHOTS,
    Scene,
    call,
    options,
    overexposed,
    scene_fixture,  # noqa: F401
    template_fixture,  # noqa: F401
)
from store_helpers import CLASSES, digits

from repairops import log_failures
from repairops.config import GateConfig, ImagesConfig, ValidationConfig
from repairops.data.decoding import encode_png, sample_ids
from repairops.data.records import FailureBatch, FailureSplit, FieldRows, HeldOutFailures, ImageSet, InputSpec
from repairops.data.sets import from_arrays
from repairops.data.split import apart_from
from repairops.errors import InvalidFailures
from repairops.gate import decide
from repairops.gate.evidence import Evidence, FieldCounts, RepairCounts, RoutedCounts, Routing
from repairops.gate.field import check_field_non_regression, field_accuracy
from repairops.model.network import Classifier, to_unit
from repairops.outcome import Record
from repairops.outcome.plain import from_plain, to_plain
from repairops.pipeline import repair
from repairops.report import traffic
from repairops.stages.traffic import with_field_rows
from repairops.store.batches import fetch_rows, list_failures, log_rows
from repairops.store.connection import connect
from repairops.store.failure_files import rows_from_path
from repairops.store.failure_rows import make_rows
from repairops.validation.contract import ValidationReport, validate

POLICY = GateConfig()
NO_FAILURES = RepairCounts(0, 0)


# What the gate says


@pytest.mark.parametrize(
    ("judged", "broken", "result"),
    [(149, 0, "PASS"), (148, 0, "INCONCLUSIVE"), (1000, 11, "PASS"), (1000, 20, "INCONCLUSIVE"), (1000, 32, "FAIL")],
)
def test_the_check_asks_for_proof_that_few_right_answers_break(judged: int, broken: int, result: str) -> None:
    """0.98 ** 149 is below 5%, and 0.98 ** 148 is not."""
    counts = FieldCounts(judged, 50, judged, broken, NO_FAILURES)
    found, summary, figures = check_field_non_regression(good_evidence(field_rows=counts), POLICY)
    assert found == result
    assert summary.startswith(f"{broken} of {judged:,} field rows were right and are wrong now")
    assert figures["difference_points"] == pytest.approx(-100 * broken / judged)
    assert (figures["images_needed"] is not None) == (result == "INCONCLUSIVE" and broken != 20)


def test_without_field_rows_nothing_is_asked_unless_it_must_be() -> None:
    without = good_evidence(field_rows=None)
    assert "field_non_regression" not in [check.name for check in decide(without, POLICY).checks]
    demanded = decide(without, replace(POLICY, field_non_regression="required"))
    assert demanded.result == "INCONCLUSIVE"
    none_judges = good_evidence(field_rows=FieldCounts(5, 5, 0, 0, NO_FAILURES))
    assert check_field_non_regression(none_judges, POLICY)[0] == "INCONCLUSIVE"
    assert check_field_non_regression(replace(without, challenger_finite=False), POLICY)[0] == "FAIL"


def test_accuracy_on_the_traffic_weighs_both_parts_by_their_shares() -> None:
    """Failures are a tenth of the traffic, of which three in five are repaired; one in 220 of the others breaks."""
    found = field_accuracy(FieldCounts(900, 100, 880, 4, RepairCounts(18, 30)), 0.95)
    assert found.failing.value == pytest.approx(0.1)
    assert found.before.value == pytest.approx(0.9)
    assert found.change.value == pytest.approx(0.1 * 0.6 - 0.9 / 220)
    assert found.after.value == pytest.approx(0.9 + found.change.value)
    for estimate in found:
        assert estimate.value is not None
        assert estimate.lower < estimate.value < estimate.upper
    assert 0.08 < found.failing.lower < 0.09
    assert found.change.lower > 0


def test_what_no_image_shows_has_no_value_and_the_widest_bounds() -> None:
    none_held = field_accuracy(FieldCounts(900, 100, 880, 0, NO_FAILURES), 0.95)
    assert none_held.after.value is None
    assert none_held.before.value == pytest.approx(0.9)
    assert none_held.after.upper > 0.99
    no_failure = field_accuracy(FieldCounts(300, 0, 300, 3, NO_FAILURES), 0.95)
    assert no_failure.before == (1.0, pytest.approx(0.99, abs=1e-3), 1.0)
    assert no_failure.after.value == pytest.approx(0.99)
    nothing = field_accuracy(FieldCounts(0, 0, 0, 0, NO_FAILURES), 0.95)
    assert nothing.failing.value is nothing.after.value is None


def test_the_bounds_hold_as_often_as_they_say() -> None:
    """3 in 10 of the failures are held out. Each bound is to hold in 95% of samples, and holds in more."""
    draw = np.random.default_rng(0)
    failing, repaired, broken = 0.15, 0.5, 0.02
    true = failing * repaired - (1 - failing) * broken
    missed = np.zeros(2)
    for _ in range(400):
        failed = int(draw.binomial(300, failing))
        held, judged = round(0.3 * failed), 300 - failed
        counts = RepairCounts(int(draw.binomial(held, repaired)), held)
        found = field_accuracy(FieldCounts(judged, failed, judged, int(draw.binomial(judged, broken)), counts), 0.95)
        missed += [found.change.lower > true, found.change.upper < true]
    assert missed.max() <= 0.05 * 400


def test_evidence_with_a_sample_comes_back_from_json_and_without_one_it_is_as_before() -> None:
    found = good_evidence(routing=Routing(RoutedCounts(4, 100), RoutedCounts(9, 10), field_rows=RoutedCounts(2, 90)))
    assert from_plain(Evidence, json.loads(json.dumps(to_plain(found)))) == found
    without = to_plain(good_evidence(field_rows=None))
    assert "field_rows" not in without
    assert "field_rows" not in without["routing"]
    draw = np.random.default_rng(1)
    for _ in range(30):
        decide(random_evidence(draw), replace(POLICY, field_non_regression="required"))


def test_counts_that_do_not_fit_each_other_are_refused_and_not_shown() -> None:
    wrong = good_evidence(field_rows=FieldCounts(900, 100, 880, 881, RepairCounts(18, 30)))
    with pytest.raises(ValueError, match="do not fit each other"):
        decide(wrong, POLICY)
    assert traffic.before_after(Record(evidence=wrong)) == []
    assert len(traffic.before_after(Record(evidence=good_evidence()))) == 2


# How they are logged


def test_marks_are_kept_and_a_batch_without_them_is_as_before(registry: str) -> None:
    client = connect()
    client.create_registered_model("cls")
    plain, marked = (make_rows(digits(4), [0, 1, 2, 3], field=field) for field in (False, [True, False, True, False]))
    assert plain.digest() != marked.digest()
    assert plain.digest() == make_rows(digits(4), [0, 1, 2, 3]).digest()
    assert "field" not in plain.frame()
    assert marked.frame()["field"].tolist() == [True, False, True, False]
    first, second = log_rows("cls", plain), log_rows("cls", marked)
    assert first.run_id != second.run_id
    assert fetch_rows(client, [first, second]).field == [*[False] * 4, True, False, True, False]
    run = client.get_run(second.run_id)
    assert run.data.tags["repairops.field_images"] == "2"
    assert run.data.metrics == {"failures": 2, "field_images": 2}
    assert (
        "2 failures and 2 images of the traffic, right and wrong alike, of cls" in run.data.tags["mlflow.note.content"]
    )
    assert client.get_run(first.run_id).data.metrics == {"failures": 4}


def test_the_command_takes_them_by_option_or_by_column(registry: str, tmp_path: Path) -> None:
    connect().create_registered_model("cls")
    for i, image in enumerate(digits(3)):
        (tmp_path / f"{i}.png").write_bytes(encode_png(torch.from_numpy(image)[None]))
    table = tmp_path / "failures.csv"
    table.write_text("file,label,field\n0.png,0,yes\n1.png,1,\n2.png,2,False\n")
    assert rows_from_path(tmp_path).field == [True, False, False]
    code, said = call("failures", "log", "cls", str(tmp_path), "--field")
    assert code == 0
    assert "Logged 3 images of the traffic, right and wrong alike, of cls" in said
    (batch,) = list_failures("cls")
    assert fetch_rows(connect(), [batch]).field == [True] * 3
    assert '"field": 3' in call("failures", "show", "cls", batch.digest, "--json")[1]
    table.write_text("file,label,field\n0.png,0,north\n")
    with pytest.raises(InvalidFailures, match=r"field holds 'north'\. Write true or false"):
        rows_from_path(tmp_path)


# What validation makes of them


SPEC = InputSpec(1, 8, 8, CLASSES)


def validated(labels: list[int], field: list[bool] | None, pixels: np.ndarray, **options: Any) -> ValidationReport:
    """Of a champion that says class 0."""
    rows = make_rows(pixels, labels, field=field if field is not None else False).frame()

    def champion(images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(images), np.int64), np.full(len(images), 0.9, np.float32)

    config = ValidationConfig(min_rows=1, min_classes=1, max_class_share=1.0)
    found: dict[str, Any] = {"clean_ids": [], "train_ids": [], "images": ImagesConfig(), "config": config, **options}
    return validate(pd.DataFrame(rows), SPEC, champion, **found)


def test_right_answers_of_the_sample_are_field_rows_and_wrong_ones_failures() -> None:
    pixels, ids = digits(6), sample_ids(torch.from_numpy(digits(6))[:, None])
    labels, field = [0, 0, 1, 1, 0, 2], [True, False, True, False, True, False]
    report = validated(labels, field, pixels, train_ids=[ids[4]])
    assert report.accepted is not None
    assert report.field is not None
    assert report.accepted.images.sample_ids.tolist() == ids[[2, 3, 5]].tolist()
    assert report.field.images.sample_ids.tolist() == [ids[0]]  # what is in the train set does not judge
    assert report.field.images.labels.tolist() == [0]
    assert report.field.failures == {ids[2]}
    assert {rule: n for rule, n in report.counts.items() if n} == {"stale": 1, "in_train_set": 1}
    assert report.broken == ()

    assert validated(labels, None, pixels).field is None
    kept = validated(labels, field, pixels, kept=ids[[2, 3, 5]].tolist())  # of a consolidation
    assert kept.field is None
    assert kept.counts["stale"] == 3


def test_an_image_that_was_logged_as_a_failure_before_is_of_the_sample_all_the_same() -> None:
    pixels = np.concatenate([digits(3), digits(3)])
    report = validated([1, 2, 0] * 2, [False] * 3 + [True] * 3, pixels)
    assert report.counts["duplicate"] == 3
    assert report.accepted is not None
    assert report.field is not None
    assert report.field.failures == set(report.accepted.images.sample_ids.tolist())
    assert len(report.field.failures) == 2
    assert len(report.field.images) == 1


# Who judges


def batch(found: ImageSet, groups: list[str]) -> FailureBatch:
    n, blank = len(found), np.full(len(found), "")
    return FailureBatch(found, np.zeros(n, np.int64), np.ones(n, np.float32), np.array(groups), blank)


def split_of(repair: FailureBatch, heldout: FailureBatch) -> FailureSplit:
    return FailureSplit(repair, repair.subset(np.arange(0)), HeldOutFailures(heldout))


def test_a_field_row_of_a_scene_that_has_trained_does_not_judge() -> None:
    every = from_arrays(digits(40), np.zeros(40, int), CLASSES)
    brighter = from_arrays((digits(1) // 2 + 60).astype(np.uint8), [0], CLASSES)  # as the first repair failure
    shown = from_arrays(torch.cat([every.pixels[20:24], brighter.pixels]), np.zeros(5, int), CLASSES)
    field = FieldRows(shown, np.array(["door", "", "yard", "hall", ""]), frozenset())
    repair_part = batch(every.subset(np.array([0, 5])), ["", "door"])
    heldout = batch(every.subset(np.array([6])), ["hall"])
    assert apart_from(field, split_of(repair_part, heldout), 0.999).tolist() == [1, 2, 3]
    chooses = FailureSplit(repair_part.subset(np.arange(0)), repair_part, HeldOutFailures(heldout))
    assert apart_from(field, chooses, 0.999).tolist() == [1, 2, 3]


def test_of_a_guarded_version_it_is_told_how_many_field_rows_are_routed() -> None:
    """Bright images go to the repaired network; of the failures of the sample those that were held out are counted."""
    challenger = pair()
    pixels = bright_images(0.2, 0.25, 0.3, 0.35, 0.8)
    from repairops.model.evaluation import predict

    labels = predict(challenger, pixels, np.zeros(5, np.int64)).labels
    labels[1] = (labels[1] + 1) % len(CLASSES)  # an answer that broke
    every = from_arrays(digits(40), np.zeros(40, int), CLASSES)
    heldout = batch(every.subset(np.arange(10, 14)), ["a", "b", "c", "d"])
    split = split_of(batch(every.subset(np.arange(3)), ["x", "y", "z"]), heldout)
    ids = heldout.images.sample_ids
    field = FieldRows(
        from_arrays(pixels, labels, CLASSES), np.array(["", "", "x", "", ""]), frozenset([*ids[:3], "repairs"])
    )
    logged: dict[str, list[str]] = {}
    job = SimpleNamespace(
        device="cpu", config=options(), log_role=lambda role, found: logged.update({role: found.tolist()})
    )
    evidence = good_evidence(field_rows=None)
    answers = SimpleNamespace(challenger_heldout=SimpleNamespace(right=np.array([True, False, True, True])))
    repaired = SimpleNamespace(network=challenger, split=split)
    found = with_field_rows(*cast(Any, (job, evidence, repaired, field, answers)))
    assert found.field_rows == FieldCounts(5, 4, 4, 1, RepairCounts(2, 3))
    assert found.routing is not None
    assert found.routing.field_rows == RoutedCounts(1, 4)
    assert logged["field_rows"] == field.images.sample_ids[[0, 1, 3, 4]].tolist()
    assert with_field_rows(*cast(Any, (job, evidence, repaired, None, answers))) is evidence


# A whole job


def labelled_traffic(scene: Scene) -> tuple[torch.Tensor, np.ndarray, list[str], np.ndarray]:
    """The field's photographs with their labels and groups, and which of them the champion has right, bool (N,)."""
    import mlflow

    from repairops.model.evaluation import predict

    data = scene.data
    scans = np.repeat(np.arange(len(data.field)), SHOTS)
    shots = overexposed(to_unit(data.field.pixels[torch.from_numpy(scans)]), torch.Generator().manual_seed(3))
    pixels, labels = shots.mul(255).round().byte(), data.field.labels[scans]
    champion = Classifier(mlflow.pytorch.load_model("models:/cls/1"), data.spec)
    return pixels, labels, [f"scan {i}" for i in scans], predict(champion, pixels, labels).right


@pytest.mark.long
def test_a_job_says_what_becomes_of_the_traffic(scene: Scene) -> None:
    import mlflow

    from repairops.model.evaluation import predict

    pixels, labels, groups, right = labelled_traffic(scene)
    log = {"labels": [NAMES[i] for i in labels], "groups": groups, "sources": "camera 1", "field": True}
    logged = log_failures("prod/cls", pixels, **log)
    outcome = repair(failures=logged.digest, config=options("gate.min_repair_rate=0.1"))

    values, run_id = outcome.values, outcome.values["tracking"]["run_id"]
    assert outcome.kind == "passed", outcome.message
    wrong = int((~right).sum())
    assert values["validation"]["accepted"] == wrong
    assert values["validation"]["field_rows"] == int(right.sum())
    assert values["validation"]["quarantined"] == {}
    counts = values["evidence"]["field_rows"]
    assert (counts["right"], counts["failed"]) == (right.sum(), wrong)
    assert counts["heldout"]["total"] == values["split"]["heldout"]  # all failures are of the sample
    assert counts["heldout"]["repaired"] == values["evidence"]["heldout_repaired"]

    # Those that judge share no scan with a failure that has trained or chosen, and were not trained on.
    ids = sample_ids(pixels)

    def role(name: str) -> set[str]:
        return set(scene.artifact(run_id, f"roles/{name}.txt").read_text(encoding="utf-8").split())

    judging = np.isin(ids, list(role("field_rows")))
    used = np.isin(ids, [*role("repair_failures"), *role("validation_failures")])
    assert not {groups[i] for i in np.flatnonzero(judging)} & {groups[i] for i in np.flatnonzero(used)}
    assert not (judging & ~right).any()
    assert 0 < counts["judged"] == judging.sum() < counts["right"]
    network = Classifier(mlflow.pytorch.load_model("models:/cls/2"), scene.data.spec)
    answers = predict(network, pixels[torch.from_numpy(judging)], labels[judging])
    assert counts["broken"] == int((~answers.right).sum())

    # It is said wherever a repair is told of.
    record = outcome.record
    accuracy, broke = traffic.before_after(record)
    assert accuracy[1] == f"{100 * right.mean():.2f}%"
    assert broke[2] == f"{counts['broken']} of {counts['judged']}"
    page = scene.artifact(run_id, "report.html").read_text(encoding="utf-8")
    assert "Field traffic" in page
    assert traffic.note(record) in page
    version = scene.client.get_model_version("cls", "2")
    assert accuracy[2] in version.description
    assert version.tags["repairops.field_accuracy"] == f"{accuracy[1]} -> {accuracy[2]}"
    metrics = scene.client.get_run(run_id).data.metrics
    assert metrics["judge/field_images"] == len(pixels)
    assert metrics["judge/field_failing"] == pytest.approx(wrong / len(pixels))
    assert metrics["judge/field_broken"] == counts["broken"]
    assert "gate/field_non_regression" in metrics
    assert call("gate", str(scene.artifact(run_id, "outcome.json")))[0] == 0

    # What a version was repaired from never judges its next repair: rows that it has right now are stale.
    scene.client.set_registered_model_alias("cls", "prod", "2")
    with pytest.raises(Exception, match="does not pass validation"):
        repair(failures=logged.digest, config=options("validation.min_rows=100000"))
    assert "field_rows" not in scene.outcome(scene.repairs()[0].info.run_id)["validation"]
