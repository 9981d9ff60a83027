"""Whole repairs whose clean images have two roles: those that choose never judge, and the outcome says which."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from pipeline_helpers import (
    NAMES,
    Scene,
    call,
    digits,
    log_champion,
    options,
    scene_fixture,  # noqa: F401
    shell_options,
    subset,
    template_fixture,  # noqa: F401
)

from repairops import log_failures
from repairops.data.decoding import sample_ids
from repairops.data.records import ImageSet
from repairops.data.sets import from_arrays, write_parquet
from repairops.errors import CleanSetRemembered, InvalidOption, NoUnseenImages
from repairops.model.evaluation import predict
from repairops.model.network import Classifier
from repairops.outcome import Outcome
from repairops.outcome.given import DataSet
from repairops.pipeline import repair
from repairops.stages.job import Job
from repairops.stages.roles import _too_little, assign_clean_roles
from repairops.store.connection import connect
from repairops.store.jobs import JobRun
from repairops.store.models import ModelRef

CUT = "split.min_clean_images=800"  # the scene's clean set has 808
ROLES = ("clean_validation", "repair_failures", "validation_failures", "heldout_failures")


def roles(scene: Scene, outcome: Outcome) -> dict[str, set[str]]:
    """The sample ids that the job logged for each role."""
    run_id = outcome.values["tracking"]["run_id"]
    found = {}
    for name in ROLES:
        lines = scene.artifact(run_id, f"roles/{name}.txt").read_text(encoding="utf-8").split("\n")[:-1]
        assert lines == sorted(lines)
        found[name] = set(lines)
    return found


def assert_disjoint(parts: dict[str, set[str]]) -> None:
    assert all(parts.values())
    assert len(set.union(*parts.values())) == sum(map(len, parts.values()))


def judged(outcome: Outcome) -> int:
    return sum(outcome.values["evidence"]["clean"].values())


def champion_right(scene: Scene, images: ImageSet) -> int:
    network = mlflow.pytorch.load_model("models:/cls/1")
    return int(predict(Classifier(network, scene.data.spec), images.pixels, images.labels).right.sum())


@pytest.mark.long
def test_what_is_cut_from_the_clean_set_chooses_and_nothing_else_does(scene: Scene) -> None:
    few = "gate.min_repair_rate=0.1"  # so few images that choose allow small steps alone
    outcome = repair(config=options(CUT, few, "gate.corruptions=advisory", "gate.onnx_accuracy=advisory"))

    assert outcome.kind == "passed", outcome.message
    clean, values = scene.data.clean, outcome.values
    parts = roles(scene, outcome)
    chosen = np.isin(clean.sample_ids, list(parts["clean_validation"]))
    rest = clean.subset(np.flatnonzero(~chosen))
    assert_disjoint(parts | {"train": set(scene.data.train.sample_ids.tolist()), "judged": set(rest.sample_ids)})
    assert 100 < len(parts["clean_validation"]) <= chosen.sum() <= 162  # a fifth of 808, whole groups

    # Every figure of the gate is of the rest.
    evidence, split = values["evidence"], values["split"]
    assert judged(outcome) == values["champion"]["clean_n"] == len(rest)
    by_class = {name: sum(counts.values()) for name, counts in evidence["clean_by_class"].items()}
    assert by_class == {name: int((rest.labels == i).sum()) for i, name in enumerate(NAMES)}
    assert values["champion"]["clean_accuracy"] == pytest.approx(champion_right(scene, rest) / len(rest))
    assert evidence["parity"]["n"] == len(rest) + split["heldout"]
    assert evidence["onnx_accuracy"]["n"] == len(rest)
    assert {sum(counts.values()) for counts in evidence["corruptions"].values()} == {len(rest)}
    assert sum(b["n"] for b in evidence["calibration"]["bins"]["champion"]) == len(rest)

    # Whoever takes what is listed out of the clean set has what judged.
    assert values["sets"]["clean_set"]["digest"] == rest.digest
    assert values["sets"]["clean_set"]["images"] == len(rest)
    assert values["sets"]["clean_set"]["whole"] == {
        "uri": values["sets"]["clean_set"]["uri"],
        "given": False,
        "digest": clean.digest,
        "images": len(clean),
    }

    # What was cut chose the epoch and the point, and the whole train set trained.
    training, account = values["training"], values["clean_validation"]
    chooses = clean.subset(np.flatnonzero(chosen))
    assert training["validation_unseen"] is True
    assert (training["validation_images"], training["train_images"]) == (len(chooses), len(scene.data.train))
    assert training["champion"]["validation_right"] == champion_right(scene, chooses)
    (point,) = (point for point in training["tradeoff"] if point["chosen"])
    ids = sample_ids(scene.logged.pixels)
    rows = np.flatnonzero(np.isin(ids, list(parts["validation_failures"])))
    network = Classifier(mlflow.pytorch.load_model("models:/cls/2"), scene.data.spec)
    repaired = predict(network, scene.logged.pixels[torch.from_numpy(rows)], scene.logged.labels[rows]).right
    assert training["validation_failures"] == len(rows) == split["validation"]
    assert point["validation_repair_rate"] == pytest.approx(repaired.mean())
    assert (account["source"], account["images"], account["digest"]) == ("clean set", len(chooses), chooses.digest)
    assert account["note"].startswith(f"{len(chooses)} of 808 images of the clean set choose")
    report = scene.artifact(values["tracking"]["run_id"], "report.html").read_text(encoding="utf-8")
    assert account["note"] in report
    assert f"{len(rest)} of 808 images" in report
    assert "The champion was not trained on the clean validation images" in report
    assert f"{len(chooses)} of 808 images" in scene.client.get_model_version("cls", "2").description
    assert call("gate", str(scene.artifact(values["tracking"]["run_id"], "outcome.json")))[0] == 0

    # Another seed cuts otherwise, and is another job.
    other = repair(config=options(CUT, "seed=1", "training.epochs=1"))
    assert other.values["job_key"] != values["job_key"]
    for role in ("clean_validation", "heldout_failures"):
        assert roles(scene, other)[role] != parts[role]


@pytest.mark.long
def test_a_small_clean_set_judges_as_a_whole_and_the_outcome_says_so(scene: Scene) -> None:
    outcome = repair(config=options("training.epochs=1"))

    values = outcome.values
    account, run_id = values["clean_validation"], values["tracking"]["run_id"]
    assert (account["source"], account["unseen"], account["images"]) == ("train set", False, 68)  # a tenth of 684
    assert "808 images, fewer than the 4,000 (split.min_clean_images)" in account["note"]
    assert judged(outcome) == values["sets"]["clean_set"]["images"] == 808
    assert values["training"]["validation_unseen"] is False
    assert "roles/clean_validation.txt" not in scene.artifacts(run_id)
    report = scene.artifact(run_id, "report.html").read_text(encoding="utf-8")
    assert "A part of the train set chooses, which the champion probably remembers" in report
    assert "cannot show well what is lost on new images" in report


def test_the_default_asks_for_4000_images_and_the_options_for_none_at_all() -> None:
    assert _too_little(4000, options()) == ""
    assert "3,999 images, fewer than the 4,000" in _too_little(3999, options())
    for none in ("split.clean_validation_fraction=0", "training.max_validation_images=0"):
        assert "the options ask for no part of the clean set" in _too_little(50_000, options(none))
        assert options(none).digest() != options().digest()


@pytest.fixture
def job(registry: str, tmp_path: Path) -> Job:
    """A job whose clean set is on record."""
    client = connect()
    run = JobRun(client, client.create_run("0").info.run_id)
    found = Job(run, "key", tmp_path, ModelRef("cls", "1", "prod", ""), [], options("split.min_clean_images=400"))
    found.record = replace(found.record, sets={"clean_set": DataSet("clean.parquet", digest="whole", images=500)})
    return found


def test_images_of_the_train_set_neither_judge_nor_choose(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    data = digits()
    mixed = [subset(data.train, 60), subset(data.clean, 440)]
    pixels, labels = torch.cat([s.pixels for s in mixed]), np.concatenate([s.labels for s in mixed])
    unseen, judging = assign_clean_roles(job, data.train, from_arrays(pixels, labels, NAMES), None)
    assert unseen is not None
    assert judging.rows is not None
    known = set(data.train.sample_ids.tolist())
    assert not known & {*unseen.sample_ids.tolist(), *judging.images.sample_ids.tolist()}
    assert len(unseen) + len(judging.images) == 440
    assert np.array_equal(
        sample_ids(pixels)[judging.rows], judging.images.sample_ids
    )  # rows of the set as it was given
    said = "60 of 500 images of the clean set stand in the train set and judge nothing."
    assert said in caplog.text
    account, sets = job.record.clean_validation, job.record.sets
    assert account is not None
    assert account.note.endswith(said)
    assert sets is not None
    part = sets["clean_set"]
    assert (part.images, part.digest) == (len(judging.images), judging.images.digest)
    assert part.whole == DataSet("clean.parquet", digest="whole", images=500)

    _, without = assign_clean_roles(job, data.train, data.clean, None)  # nothing in common: as before
    assert job.record.clean_validation is not None
    assert "train set and" not in job.record.clean_validation.note
    assert without.rows is not None


def test_a_clean_set_that_is_mostly_the_train_set_is_refused(job: Job) -> None:
    train = digits().train
    with pytest.raises(CleanSetRemembered, match=r"684 of the 684 images of the clean set .* stand in the train"):
        assign_clean_roles(job, train, train, None)


def brighter(images: ImageSet) -> ImageSet:
    """A grey level up: other sample ids, the same photos."""
    return from_arrays((images.pixels.int() + 1).clamp(max=255).byte(), images.labels, NAMES, images.source)


def joined(*parts: ImageSet) -> ImageSet:
    return from_arrays(torch.cat([p.pixels for p in parts]), np.concatenate([p.labels for p in parts]), NAMES)


def test_a_clean_set_that_is_shifted_by_a_grey_level_is_no_validation_set(job: Job) -> None:
    data = digits()
    with pytest.raises(NoUnseenImages, match=r"808 of the 808 images .*0 are in the train set and 808 in the clean"):
        assign_clean_roles(job, data.train, data.clean, brighter(data.clean))


def test_near_copies_neither_judge_nor_choose_and_are_counted(job: Job) -> None:
    data = digits()
    train, near_train = data.train, brighter(subset(data.train, 20))
    own, rest = subset(data.clean, 100), data.clean.subset(np.arange(100, 808))
    clean = joined(near_train, subset(train, 5), rest)
    unseen, judging = assign_clean_roles(job, train, clean, joined(own, brighter(subset(rest, 30)), near_train))
    assert unseen is not None
    assert unseen.sample_ids.tolist() == own.sample_ids.tolist()
    assert judging.images.sample_ids.tolist() == rest.sample_ids.tolist()
    account = job.record.clean_validation
    assert account is not None
    assert (account.in_train_set, account.in_clean_set) == (20, 30)
    assert "20 that stand in the train set and 30 that judge do not. Of these 50 are near copies: " in account.note
    assert "25 of 733 images of the clean set stand in the train set" in account.note
    assert "Of these 20 are near copies: the same photo, encoded anew or a grey level off." in account.note

    with pytest.raises(CleanSetRemembered, match="684 of the 684 images"):
        assign_clean_roles(job, train, brighter(train), None)


@pytest.mark.slow
def test_a_validation_set_chooses_and_never_judges(scene: Scene, tmp_path: Path) -> None:
    """100 images of its own, 20 that judge and 10 that the champion was trained on."""
    data = scene.data
    own, rest = subset(data.clean, 100), data.clean.subset(np.arange(100, 808))
    clean_file, validation_file = tmp_path / "clean.parquet", tmp_path / "validation.parquet"
    write_parquet(rest, clean_file)
    mixed = [own, subset(rest, 20), subset(data.train, 10)]
    pixels, labels = torch.cat([s.pixels for s in mixed]), np.concatenate([s.labels for s in mixed])
    write_parquet(from_arrays(pixels, labels, NAMES), validation_file)
    log_failures("prod/cls", own.pixels[:1], [NAMES[own.labels[0]]])  # the field's log holds an image that chooses
    arguments = [f"--clean-set={clean_file}", f"--validation-set={validation_file}"]
    code, _ = call("repair", *arguments, *shell_options(), "--set=split.min_clean_images=1", "--rerun")

    run = scene.repairs()[0]
    outcome = Outcome(scene.outcome(run.info.run_id))
    assert (code, outcome.kind) == (0, "passed")
    parts = roles(scene, outcome)
    assert parts["clean_validation"] == set(own.sample_ids.tolist())
    assert_disjoint(parts | {"train": set(data.train.sample_ids.tolist()), "judged": set(rest.sample_ids.tolist())})
    assert judged(outcome) == 708
    assert outcome.values["clean_validation"] == {
        "source": "validation set",
        "unseen": True,
        "images": 100,
        "digest": own.digest,
        "in_train_set": 10,
        "in_clean_set": 20,
        "note": "100 of 130 images of the validation set choose; none of them judges or trains. "
        "10 that stand in the train set and 20 that judge do not.",
    }
    assert outcome.values["sets"]["validation_set"]["images"] == 130
    assert outcome.values["training"]["champion"]["validation_right"] == champion_right(scene, own)

    assert outcome.values["validation"]["quarantined"] == {"in_validation_set": 1}

    # The next repair of what was registered finds it beside the other two; the same job without it has another key.
    logged = {tag.value: json.loads(e.dataset.source)["uri"] for e in run.inputs.dataset_inputs for tag in e.tags}
    contexts = {"training": "train_set", "evaluation": "clean_set", "validation": "validation_set"}
    assert "failures" in logged
    assert {context: logged[context] for context in contexts} == {
        context: outcome.values["sets"][name]["uri"] for context, name in contexts.items()
    }
    assert (logged["evaluation"], logged["validation"]) == (str(clean_file), str(validation_file))
    without = repair(clean_set=clean_file, config=options("split.min_clean_images=1"))
    assert without.values["job_key"] != outcome.values["job_key"]
    assert without.values["clean_validation"]["source"] == "clean set"

    with pytest.raises(NoUnseenImages, match=r"708 images.*0 are in the train set and 708 in the clean set"):
        repair(clean_set=clean_file, validation_set=clean_file, config=options())


@pytest.mark.slow
def test_a_validation_set_that_was_logged_with_the_model_is_found(scene: Scene) -> None:
    data = digits()
    network = mlflow.pytorch.load_model("models:/cls/1")
    given, rest = subset(data.clean, 150), data.clean.subset(np.arange(150, 808))
    log_champion(network, data, clean_set=rest, validation_set=given)
    scene.logged.log()
    outcome = repair(config=options("training.epochs=1", "training.max_validation_images=80"))
    account = outcome.values["clean_validation"]
    assert (account["source"], account["images"]) == ("validation set", 80)
    assert roles(scene, outcome)["clean_validation"] < set(given.sample_ids.tolist())
    assert judged(outcome) == 658


def test_a_fraction_out_of_range_is_refused(scene: Scene) -> None:
    with pytest.raises(InvalidOption, match=r"split.clean_validation_fraction"):
        repair(config=options("split.clean_validation_fraction=1"))
