"""The repair job from end to end, in this process: what it registers, logs, repeats, and leaves alone."""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.entities import Run
from pipeline_helpers import (
    NAMES,
    OPTIONS,
    Scene,
    call,
    cifar_scene,
    options,
    scene_fixture,  # noqa: F401
    subset,
    template_fixture,  # noqa: F401
)

from repairops import log_failures, log_model
from repairops.config import load_config
from repairops.data.sets import write_parquet
from repairops.errors import LossNotFinite
from repairops.model.evaluation import predict
from repairops.model.network import Classifier
from repairops.outcome import Outcome
from repairops.outcome.plain import to_plain
from repairops.pipeline import repair
from repairops.promotion.history import user
from repairops.promotion.move import rollback
from repairops.report import render_terminal


def right(scene: Scene, version: str) -> np.ndarray:
    """Which clean images a registered version gets right, by its network alone."""
    network = mlflow.pytorch.load_model(f"models:/cls/{version}").eval()
    clean = scene.data.clean
    return predict(Classifier(network, scene.data.spec), clean.pixels, clean.labels).right


def check_mlflows_pages(scene: Scene, run: Run, outcome: Outcome) -> None:
    """The run has its parameters, the logged model the figures of what is registered, on the data that judged it."""
    assert run.info.run_name == "repair cls 1 -> 2"
    parameters = run.data.params
    wanted = {"job.model": "models:/cls/1", "job.seed": "0", "job.failures": str(len(scene.logged))}
    assert wanted.items() <= parameters.items()
    assert parameters["gate.margin_points"] == str(outcome.values["config"]["gate"]["margin_points"])
    assert parameters["training.epochs"] == "3"
    assert "gate.latency" not in parameters  # as by default
    assert "" not in parameters.values()
    assert "images.memory_limit_mb" not in parameters

    inputs = run.inputs.dataset_inputs
    found = {entry.tags[0].value: entry.dataset for entry in inputs}
    assert len(inputs) == len(found)
    assert found.keys() == {"training", "evaluation", "failures"}
    assert found["failures"].digest == outcome.values["batches"][0]["digest"][:36]
    assert json.loads(found["failures"].profile) == {"num_rows": len(scene.logged)}

    provenance = outcome.record.provenance
    assert provenance is not None
    assert provenance.registry == scene.uri
    assert provenance.experiment == run.info.experiment_id
    assert provenance.ran_by == provenance.champion_by == next(iter(provenance.failures_by.values())) == user()
    assert provenance.earlier_gates == ()
    assert [(move.kind, move.version_to) for move in provenance.alias_history] == [("logged", "1")]

    evidence, checks = outcome.values["evidence"], outcome.values["verdict"]["checks"]
    model = scene.client.get_logged_model(scene.client.get_model_version("cls", "2").source.removeprefix("models:/"))
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "cls", "version": 2}]
    figures = {metric.key: metric for metric in model.metrics}
    assert not {"validation_repair_rate", "loss"} & figures.keys()  # which are of epochs, not of what is registered
    assert figures.keys() <= run.data.metrics.keys()
    rate = figures["judge/heldout_repair_rate"]
    assert rate.value == evidence["heldout_repaired"] / evidence["heldout_total"] > 0
    assert (rate.dataset_name, rate.dataset_digest) == (found["failures"].name, found["failures"].digest)
    assert figures["judge/challenger_clean_accuracy"].dataset_name == found["evaluation"].name
    by_name = {check["name"]: check["figures"] for check in checks}
    classes = [row["difference_points"] for row in by_name["class_recall"]["classes"]]
    assert figures["gate/class_recall.classes.lowest_difference_points"].value == min(classes)
    assert figures["judge/negative_flips"].value == evidence["clean"]["champion_only"]
    for check in checks:
        assert figures[f"gate/{check['name']}"].value == {"PASS": 1, "FAIL": 0, "INCONCLUSIVE": 0.5}[check["result"]]
    assert figures["gate/all_required"].value == 1
    assert not {key for key in figures if "margin_points" in key or ".max_" in key or ".min_" in key}
    for figure in ("lower_points", "difference_points", "upper_points"):
        assert figures[f"gate/clean_non_regression.{figure}"].value == by_name["clean_non_regression"][figure]
    assert figures["time/fine-tune"].value == outcome.values["stages"]["fine-tune"]


def test_a_repair_registers_one_complete_version_and_repeats_nothing(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    measured = [f"gate.{check}=advisory" for check in ("latency", "onnx_accuracy", "corruptions")]
    looks = ["validation.data_docs=true", "validation.suspect_labels=report", "guard.mode=auto"]
    settings = [*OPTIONS, *looks, *measured]
    config = load_config(overrides=settings)
    outcome = repair(config=config)

    assert (outcome.kind, outcome.exit_code, outcome.repeated) == ("passed", 0, False)
    assert scene.versions() == ["1", "2"]
    assert outcome.version == scene.version_at("challenger") == "2"
    assert scene.version_at("prod") == "1"
    (run,) = scene.repairs()
    assert run.info.status == "FINISHED"
    assert run.data.tags["repairops.outcome"] == "passed"
    assert run.data.tags["repairops.exit_code"] == "0"
    assert run.data.tags["repairops.registered_version"] == "2"
    assert scene.client.get_experiment(run.info.experiment_id).name == "repairops/repairs/cls"

    version = scene.client.get_model_version("cls", "2")
    batch = outcome.values["batches"][0]["digest"]
    expected = {
        "repairops.kind": "repair",
        "repairops.verdict": "PASS",
        "repairops.parent_version": "1",
        "repairops.batches": batch[:16],
        "repairops.config_digest": config.digest(),
        "repairops.run_id": run.info.run_id,
        "repairops.seed": "0",
    }
    assert expected.items() <= version.tags.items()
    assert "held-out" in version.description
    assert "float32 (N, 1, 16, 16), in which a pixel p of 0..255 is (p / 255 - 0.5) / 0.5" in version.description
    assert "\n–\n" not in version.description
    first = scene.client.get_model_version("cls", "1").description
    assert "\n\nLogged with its train set and clean set.\n\n" in first
    assert scene.client.get_registered_model("cls").description.startswith("Image classifier: 16x16 grey images to 10")

    # The artifacts are whole and lie beside the copied registry, not in the template that it was copied from.
    assert {
        "outcome.json",
        "report.html",
        "clusters.png",
        "styles.png",
        "validation/quarantine.parquet",
        "validation/result.json",
        "validation/data_docs/index.html",
    } <= scene.artifacts(run.info.run_id)
    assert run.info.artifact_uri.startswith((scene.folder / "registry").as_uri())
    model = scene.client.get_logged_model(version.source.removeprefix("models:/"))
    assert model.artifact_location.startswith((scene.folder / "registry").as_uri())
    for name in ("clusters.png", "styles.png"):
        assert scene.artifact(run.info.run_id, name).read_bytes().startswith(b"\x89PNG")
    stored = scene.outcome(run.info.run_id)
    assert stored == outcome.values == to_plain(outcome.record)
    report = scene.artifact(run.info.run_id, "report.html").read_text(encoding="utf-8")
    assert all(check["summary"][:40] in report for check in stored["verdict"]["checks"])
    assert [row["batch_size"] for row in stored["evidence"]["latency"]] == [1, 32]
    assert all(row["challenger_median_ms"] > 0 for row in stored["evidence"]["latency"])

    check_mlflows_pages(scene, run, outcome)

    # One entry of each metric per epoch, the champion being epoch 0.
    steps = [m.step for m in scene.client.get_metric_history(run.info.run_id, "validation_accuracy")]
    assert steps == [0, 1, 2, 3]
    losses = scene.client.get_metric_history(run.info.run_id, "loss")
    assert [m.step for m in losses] == [1, 2, 3]
    assert [m.value for m in losses] == pytest.approx([h["loss"] for h in stored["training"]["history"]])

    # The figures are those of the two registered versions.
    champion, challenger = right(scene, "1"), right(scene, "2")
    assert stored["evidence"]["clean"] == {
        "both_right": int((champion & challenger).sum()),
        "champion_only": int((champion & ~challenger).sum()),
        "challenger_only": int((~champion & challenger).sum()),
        "both_wrong": int((~champion & ~challenger).sum()),
    }
    assert sum(stored["evidence"]["clean"].values()) == len(scene.data.clean)
    by_class = stored["evidence"]["clean_by_class"]
    for key, total in stored["evidence"]["clean"].items():
        assert sum(counts[key] for counts in by_class.values()) == total
    assert {name: sum(c.values()) for name, c in by_class.items()} == {
        name: int((scene.data.clean.labels == i).sum()) for i, name in enumerate(NAMES)
    }
    validation, split = stored["validation"], stored["split"]
    assert validation["rows"] == len(scene.logged) == validation["accepted"]
    assert sum(split.values()) == validation["accepted"]
    assert stored["evidence"]["heldout_total"] == split["heldout"] > 0
    assert sum(c["size"] for c in stored["clusters"]) == split["repair"]
    evidence = stored["evidence"]
    assert evidence["parity"]["n"] == len(scene.data.clean) + split["heldout"]
    assert evidence["parity"]["decisions_differ"] == 0
    assert evidence["onnx_accuracy"]["counts"] == evidence["clean"]
    clusters = evidence["heldout_by_cluster"]
    assert list(clusters) == [str(c["id"]) for c in stored["clusters"]]
    assert sum(counts["total"] for counts in clusters.values()) == split["heldout"]
    assert sum(counts["repaired"] for counts in clusters.values()) == evidence["heldout_repaired"]
    assert evidence["onnx_accuracy"]["n"] == len(scene.data.clean)
    assert evidence["onnx_accuracy"]["champion"] == pytest.approx(champion.mean(), abs=0.003)
    assert {sum(counts.values()) for counts in evidence["corruptions"].values()} == {len(scene.data.clean)}
    assert sum(b["n"] for b in evidence["calibration"]["bins"]["challenger"]) == len(scene.data.clean)
    sizes = {name: stored["artifacts"].pop(name) for name in ("onnx_bytes", "champion_onnx_bytes")}
    assert stored["artifacts"] == {
        "weights_sha256": version.tags["repairops.weights_sha256"],
        "onnx_sha256": version.tags["repairops.onnx_sha256"],
    }
    assert version.tags["repairops.form"] == stored["form"]["name"] != "one"
    assert "Champion and repaired network, guarded: the repaired network answers for" in version.description
    assert sizes["onnx_bytes"] > 2 * sizes["champion_onnx_bytes"] > 0  # two networks and a guard
    (point,) = [point for point in stored["training"]["tradeoff"] if point["chosen"]]
    assert point["weight"] > 0
    assert stored["power"][0]["changed"] < stored["power"][-1]["changed"]
    assert {"changed", "power", "classes", "repair", "gate"} == stored["power"][0].keys()
    assert stored["least_harm"]["classes"] == 10
    assert stored["suspect_labels"]["asked"] == stored["validation"]["accepted"]
    assert stored["suspect_labels"]["quarantined"] == {}
    assert "labels" in stored["stages"]

    # The gate agrees with itself, offline.
    code, text = call("gate", str(scene.artifact(run.info.run_id, "outcome.json")), "--json")
    assert code == 0
    assert json.loads(text)["result"] == json.loads(text)["recorded"] == "PASS"

    # All of it is registered or logged, so the job's folder keeps nothing but its lock.
    assert {path.name for path in (scene.home / "jobs").rglob("*") if path.is_file()} == {"lock", "place"}

    # The same job again does nothing and says so.
    again = repair(config=config)
    assert again.repeated
    assert (again.kind, again.exit_code, again.version) == ("passed", 0, "2")
    assert f"in run {run.info.run_id}" in again.message
    assert "registered version 2" in again.message
    assert scene.versions() == ["1", "2"]
    newest = scene.repairs()[0]
    assert newest.data.tags["repairops.outcome"] == "repeated:passed"
    assert newest.data.tags["repairops.earlier_run"] == run.info.run_id
    assert newest.info.status == "FINISHED"
    assert not newest.data.metrics

    # Asked to promote later, it moves the alias to what it has; a roll-back of that stands.
    auto = load_config(overrides=[*settings, "register.promote=auto"])
    moved = repair(config=auto)
    assert moved.repeated
    assert "The alias 'prod' moved to it now" in moved.message
    assert scene.version_at("prod") == "2"
    rollback("prod/cls", reason="looks odd")
    assert scene.version_at("prod") == "1"
    assert repair(config=auto).message.startswith("Nothing to do")
    assert scene.version_at("prod") == "1"
    assert scene.versions() == ["1", "2"]


@pytest.mark.long
def test_new_failures_make_another_version_and_auto_promotion_ends_the_work(scene: Scene) -> None:
    first = repair(config=options("method.compare=fine_tune"))
    later = scene.later.log()
    second = repair(config=options("register.promote=auto"))

    assert (first.kind, second.kind) == ("passed", "passed")
    assert (first.record.form, "clean_routing" in json.dumps(first.values["verdict"])) == (None, False)  # no guard
    evidence, rival = first.record.evidence, first.record.comparison
    assert evidence is not None
    assert evidence.routing is None
    assert rival is not None
    assert (rival.method, rival.form, rival.heldout_total) == ("fine_tune", "one", evidence.heldout_total)
    assert 0 < rival.heldout_repaired != evidence.heldout_repaired
    assert rival.clean.champion_right == evidence.clean.champion_right
    assert rival.clean != evidence.clean
    figures = scene.repairs()[-1].data.metrics
    assert figures["compare/heldout_repair_rate"] == rival.heldout_repaired / rival.heldout_total
    assert "compare" in first.record.stages
    assert scene.versions() == ["1", "2", "3"]
    assert second.version == scene.version_at("challenger") == scene.version_at("prod") == "3"
    assert second.values["promoted"] is True
    assert second.values["model"]["version"] == "1"  # the champion was still in production: both batches count
    digests = [batch["digest"] for batch in second.values["batches"]]
    assert digests == [first.values["batches"][0]["digest"], later]
    assert second.values["validation"]["rows"] == len(scene.logged) + len(scene.later)
    assert scene.client.get_model_version("cls", "3").tags["repairops.batches"] == ",".join(d[:16] for d in digests)

    # Production has version 3 now, which both batches went into.
    third = repair(config=options())
    assert (third.kind, third.exit_code, third.version) == ("nothing_to_repair", 0, "")
    assert "all logged batches are repaired" in third.message
    assert scene.versions() == ["1", "2", "3"]
    assert scene.repairs()[0].data.tags["repairops.outcome"] == "nothing_to_repair"


def test_an_alias_that_another_moved_meanwhile_stays_where_it_is(scene: Scene) -> None:
    champion = scene.client.get_model_version("cls", "1")
    other = scene.client.create_model_version("cls", champion.source, champion.run_id)
    ended, moved = threading.Event(), threading.Event()

    def somebody() -> None:
        while not ended.wait(0.01):
            if list(scene.home.glob("jobs/*/training.safetensors")):
                scene.client.set_registered_model_alias("cls", "prod", other.version)
                moved.set()
                return

    thread = threading.Thread(target=somebody)
    thread.start()
    try:
        outcome = repair(config=options("register.promote=auto"))
    finally:
        ended.set()
        thread.join()

    assert moved.is_set()
    assert (outcome.kind, outcome.exit_code, outcome.version) == ("alias_moved", 5, "3")
    assert scene.version_at("prod") == str(other.version) == "2"
    assert scene.version_at("challenger") == "3"
    assert outcome.values["promoted"] is False
    assert "'prod'" in outcome.message
    assert "is at 2 now" in outcome.message
    run = scene.repairs()[0]
    assert run.data.tags["repairops.outcome"] == "alias_moved"
    assert run.data.tags["repairops.exit_code"] == "5"
    assert scene.client.get_model_version("cls", "3").tags["repairops.verdict"] == "PASS"


@pytest.mark.long
def test_a_refused_promotion_is_no_error_and_is_made_up_for(scene: Scene) -> None:
    """With promote=auto: the version is registered all the same. Here its files are not what its gate judged."""
    first, auto = repair(config=options()), options("register.promote=auto")
    tag, digest = "repairops.weights_sha256", first.values["artifacts"]["weights_sha256"]
    scene.client.set_model_version_tag("cls", "2", tag, "0" * 64)
    for rerun in (False, True):  # what was registered before; and by a job of its own
        refused = repair(config=auto, rerun=rerun)
        assert refused.repeated is not rerun
        assert (refused.kind, refused.exit_code, refused.version) == ("not_promoted", 5, "2")
        assert (scene.version_at("challenger"), scene.version_at("prod")) == ("2", "1")
        assert refused.values["promoted"] is False
        assert "was not moved" in refused.message
        assert "its weights are not what its gate judged" in refused.message
        run = scene.repairs()[0]
        assert run.data.tags["repairops.exit_code"] == "5"
        assert run.data.tags["repairops.outcome"] == ("not_promoted" if rerun else "repeated:not_promoted")
        assert run.info.status == "FINISHED"
        assert scene.outcome(run.info.run_id)["message"] == refused.message
    told = render_terminal(refused.record)
    assert "its weights are not what its gate judged" in told
    assert "run the same command again: it repairs nothing anew" in told

    # Mended, the same command moves the alias; afterwards there is nothing left to do.
    scene.client.set_model_version_tag("cls", "2", tag, digest)
    mended = repair(config=auto)
    assert mended.repeated
    assert (mended.kind, mended.exit_code, mended.values["promoted"]) == ("passed", 0, True)
    assert "The alias 'prod' moved to it now" in mended.message
    assert scene.version_at("prod") == "2"
    assert scene.versions() == ["1", "2"]
    rollback("prod/cls", reason="looks odd")
    again = repair(config=auto)
    assert again.message.startswith("Nothing to do")
    assert (again.kind, again.exit_code, scene.version_at("prod")) == ("passed", 0, "1")


def test_a_training_that_harms_is_not_taken_and_what_repairs_nothing_is_not_registered(scene: Scene) -> None:
    config = options("training.learning_rate=0.5", "training.epochs=1", "guard.mode=off")
    outcome = repair(config=config)

    assert (outcome.kind, outcome.exit_code, outcome.version) == ("failed", 3, "")
    assert scene.versions() == ["1"]
    assert "challenger" not in scene.client.get_registered_model("cls").aliases
    run = scene.repairs()[0]
    assert run.data.tags["repairops.outcome"] == "failed"
    assert run.info.status == "FINISHED"  # the job did its work
    checks = {check["name"]: check for check in outcome.values["verdict"]["checks"]}
    training = outcome.values["training"]
    assert training["history"][0]["validation_right"] < training["validation_images"] / 2
    assert outcome.values["challenger"]["clean_accuracy"] == outcome.values["champion"]["clean_accuracy"]
    assert checks["repair_rate"]["result"] == "FAIL"
    assert checks["repair_rate"]["summary"] in outcome.message
    report = scene.artifact(run.info.run_id, "report.html").read_text(encoding="utf-8")
    assert "the challenger is the champion" in report
    code, _ = call("gate", str(scene.artifact(run.info.run_id, "outcome.json")))
    assert code == 3

    # A verdict stands, whatever it is: the same job again does not try its luck.
    again = repair(config=config)
    assert again.repeated
    assert again.exit_code == 3


def test_a_loss_that_is_not_finite_stops_the_job(scene: Scene) -> None:
    with pytest.raises(LossNotFinite, match=r"learning_rate") as raised:
        repair(config=options("training.learning_rate=1e30"))

    assert raised.value.exit_code == 1
    assert scene.versions() == ["1"]
    run = scene.repairs()[0]
    assert run.info.status == "FAILED"
    assert run.data.tags["repairops.outcome"] == "error"
    assert run.data.tags["repairops.exit_code"] == "1"
    stored = scene.outcome(run.info.run_id)
    assert stored["message"] == str(raised.value)
    assert "verdict" not in stored
    assert {"report.html", "clusters.png", "validation/result.json"} <= scene.artifacts(run.info.run_id)
    (checkpoint,) = scene.home.glob("jobs/*/training.safetensors")
    assert str(checkpoint) in str(raised.value)


@pytest.mark.long
def test_fifty_clean_images_are_inconclusive_and_warned_of_before_training(
    scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = tmp_path / "few.parquet"
    write_parquet(subset(scene.data.clean, 50), few)
    with caplog.at_level(logging.INFO, logger="repairops"):
        outcome = repair(clean_set=few, config=options("training.epochs=1"))

    assert (outcome.kind, outcome.exit_code, outcome.version) == ("inconclusive", 4, "")
    assert scene.versions() == ["1"]
    warning = outcome.values["warning"]
    assert "50 clean images cannot show a loss under 4 points" in warning
    messages = [record.getMessage() for record in caplog.records]
    warned = next(i for i, text in enumerate(messages) if warning in text)
    assert caplog.records[warned].levelno == logging.WARNING
    assert warned < next(i for i, text in enumerate(messages) if text.startswith("fine-tune"))
    checks = {check["name"]: check["result"] for check in outcome.values["verdict"]["checks"]}
    assert checks["clean_non_regression"] == "INCONCLUSIVE"
    assert "FAIL" not in [c["result"] for c in outcome.values["verdict"]["checks"] if c["level"] == "required"]


@pytest.mark.slow
def test_a_rerun_repairs_again_and_registers_no_second_version(scene: Scene) -> None:
    first, second = repair(config=options()), repair(config=options(), rerun=True)
    assert (first.repeated, second.repeated) == (False, False)
    assert (first.version, second.version) == ("2", "2")
    assert scene.versions() == ["1", "2"]
    assert [run.data.tags["repairops.outcome"] for run in scene.repairs()] == ["passed", "passed"]
    assert first.values["evidence"]["clean"] == second.values["evidence"]["clean"]
    assert first.values["evidence"]["heldout_repaired"] == second.values["evidence"]["heldout_repaired"]


@pytest.mark.slow
def test_a_colour_network_with_batch_norm_is_repaired(registry: str, tmp_path: Path) -> None:
    """CIFAR-10 from parquet files, logged by reference; failures under Gaussian noise."""
    folder = Path(os.environ.get("REPAIROPS_CIFAR", ""))
    files = folder / "cifar10-train.parquet", folder / "cifar10-test.parquet"
    if not os.environ.get("REPAIROPS_CIFAR") or not all(file.is_file() for file in files):
        pytest.skip("REPAIROPS_CIFAR names no folder with cifar10-train.parquet and cifar10-test.parquet")
    train_file, clean_file, network, spec, failures = cifar_scene(*files, tmp_path)
    log_model(network, "cifar", spec, train_set=train_file, clean_set=clean_file)
    pixels, labels, predicted = failures
    log_failures("prod/cifar", pixels, labels.tolist(), predicted.tolist(), sources="camera 1")
    config = load_config(
        overrides=["training.epochs=3", "training.device=cpu", "training.horizontal_flip=true",
                   "gate.margin_points=5", "gate.class_margin_points=25", "gate.min_repair_rate=0.15"]
    )  # fmt: skip
    outcome = repair("prod/cifar", config=config)

    assert (outcome.kind, outcome.version) == ("passed", "2")
    evidence = outcome.values["evidence"]
    assert evidence["heldout_repaired"] / evidence["heldout_total"] > 0.15
    assert evidence["parity"]["decisions_differ"] == 0
    assert outcome.values["sets"]["train_set"]["images"] == 5000
    first, second = (mlflow.pytorch.load_model(f"models:/cifar/{v}").state_dict() for v in ("1", "2"))
    assert first.keys() == second.keys()
    assert all(not torch.equal(first[n], second[n]) for n in first if "running_mean" in n)
    onnx_input = mlflow.onnx.load_model("models:/cifar/2").graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in onnx_input[1:]] == [3, 32, 32]
