"""Registering a repair, moving aliases and back, and the runs and locks of jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnxruntime
import pytest
import torch
from mlflow import MlflowClient
from store_helpers import (
    SPEC,
    TinyNet,
    add_version,
    champion_in_registry,
    in_processes,
    judged_version,
    load,
    register,
    unit_images,
)

import repairops
from repairops.config import Config, config_from_dict
from repairops.errors import (
    AliasMoved,
    InvalidOption,
    JobRunning,
    ModelNotFound,
    NotGuarded,
    NothingToRollBack,
    PromotionRefused,
    RolesLost,
)
from repairops.model.network import to_input
from repairops.promotion.history import promotions
from repairops.promotion.move import move_alias
from repairops.stages.job import Job
from repairops.stages.publish import _promote, check_alias
from repairops.store.connection import connect, experiment_id
from repairops.store.datasets import DatasetRef, log_reference
from repairops.store.flavors import inherited_requirements, model_digests
from repairops.store.jobs import (
    JobRun,
    close_interrupted,
    earlier_outcome,
    gates_decided_by,
    job_key,
    job_lock,
    job_run,
    place_of,
    run_name,
    runs_of_job,
    work_folder,
)
from repairops.store.models import ModelRef, aliases_of, resolve_model, target, version_at
from repairops.store.registry import (
    batch_tags,
    check_guarded,
    failure_roles,
    register_repair,
    repaired_batches,
    version_of_job,
)
from repairops.store.runs import file_sha256

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's hints on pickle and signatures


@pytest.fixture
def client(registry: str) -> MlflowClient:
    return connect()


# Registering


def test_a_repair_is_one_version_with_both_flavors(client: MlflowClient, tmp_path: Path) -> None:
    champion = champion_in_registry("cls", tmp_path)
    repaired = TinyNet(seed=5).eval()
    run_id = client.create_run("0").info.run_id
    version = register(client, champion, repaired, tmp_path, run_id)

    assert str(version.version) == "2"
    read = client.get_model_version("cls", "2")
    digests = {name: read.tags.pop(f"repairops.{name}_sha256") for name in ("weights", "onnx")}
    folder = Path(mlflow.artifacts.download_artifacts("models:/cls/2"))
    assert digests == model_digests(folder)
    assert digests["onnx"] == file_sha256(tmp_path / "challenger.onnx")
    assert read.tags == {
        "repairops.verdict": "PASS",
        "repairops.parent_version": "1",
        "repairops.job_key": "a" * 64,
    }
    assert (read.description, read.run_id) == ("# Version 2 repairs field failures", run_id)
    assert aliases_of(client, "cls") == {"prod": "1", "challenger": "2"}

    images = to_input(unit_images(count=7), SPEC)
    with torch.no_grad():
        expected = repaired(images).numpy()
        network = mlflow.pytorch.load_model("models:/cls/2")
        assert type(network) is TinyNet
        np.testing.assert_array_equal(network(images).numpy(), expected)
    by_pyfunc = mlflow.pyfunc.load_model("models:/cls/2").predict(images.numpy())
    np.testing.assert_allclose(by_pyfunc, expected, atol=1e-5)
    session = onnxruntime.InferenceSession(mlflow.onnx.load_model("models:/cls/2").SerializeToString())
    np.testing.assert_allclose(session.run(None, {"input": images.numpy()})[0], expected, atol=1e-5)

    again = load(resolve_model("cls@challenger", client), tmp_path / "again")
    assert again.spec == SPEC  # a repaired version can be repaired
    plain = onnxruntime.InferenceSession(str(again.folder / "onnx" / "model.onnx"))
    for count in (1, 7):
        (logits,) = plain.run(["logits"], {"input": images[:count].numpy()})
        np.testing.assert_allclose(logits, expected[:count], atol=1e-5)


def test_requirements_of_the_champion_are_inherited(client: MlflowClient, tmp_path: Path) -> None:
    champion = champion_in_registry(
        "cls", tmp_path, pip_requirements=["torch", "timm==1.0.9", "onnxruntime-gpu==1.23.0"]
    )
    lines = inherited_requirements(champion.folder)
    assert {"torch", "timm==1.0.9", "onnxruntime-gpu==1.23.0"} <= set(lines)
    assert sum(line.startswith("onnxruntime") for line in lines) == 1
    assert sum(line.startswith("onnx==") for line in lines) == 1


def test_the_same_job_registers_once(client: MlflowClient, tmp_path: Path) -> None:
    champion = champion_in_registry("cls", tmp_path)
    run_id = client.create_run("0").info.run_id
    first = register(client, champion, TinyNet(seed=5).eval(), tmp_path, run_id)
    client.update_model_version("cls", "2", "")  # as if the job had died before its last two requests
    client.delete_registered_model_alias("cls", "challenger")
    again = register(client, champion, TinyNet(seed=6).eval(), tmp_path, client.create_run("0").info.run_id)
    assert str(again.version) == str(first.version) == "2"
    assert client.get_model_version("cls", "2").description == "# Version 2 repairs field failures"
    assert aliases_of(client, "cls") == {"prod": "1", "challenger": "2"}
    assert len(client.search_model_versions("name = 'cls'")) == 2
    other = register(client, champion, TinyNet(seed=6).eval(), tmp_path, run_id, job_key="b" * 64)
    assert str(other.version) == "3"
    found = version_of_job(client, "cls", "b" * 64)
    assert found is not None
    assert str(found.version) == "3"
    assert version_of_job(client, "cls", "c" * 64) is None


def check_leftovers(client: MlflowClient, tmp_path: Path) -> None:
    """Leftovers of an interrupted upload are removed, and a rival's upload stays."""
    champion = champion_in_registry("cls", tmp_path)
    own, ended, rival = (client.create_run("0", tags={"repairops.job_key": "a" * 64}).info.run_id for _ in range(3))
    client.set_terminated(ended, "KILLED")

    def uploaded(run_id: str, key: str = "a") -> str:
        tags = {"repairops.job_key": key * 64}
        model_id: str = client.create_logged_model("0", name="model", source_run_id=run_id, tags=tags).model_id
        return model_id

    left = {uploaded(own), uploaded(ended)}
    other, live = uploaded(own, "b"), uploaded(rival)  # of another job; of a machine that does the same one now
    version = register(client, champion, TinyNet(seed=5).eval(), tmp_path, own)
    models = {m.model_id: m.status for m in client.search_logged_models(["0"], "tags.`repairops.job_key` != ''")}
    assert not left & models.keys()
    assert str(models[other]) == str(models[live]) == "PENDING"
    assert version.source == f"models:/{next(iter(set(models) - {other, live}))}"


def test_leftovers_of_an_interrupted_upload_are_removed_and_a_rival_s_upload_stays(
    client: MlflowClient, tmp_path: Path
) -> None:
    check_leftovers(client, tmp_path)


def register_in_process(uri: str, folder: str, run_id: str, seed: int) -> str:
    mlflow.set_tracking_uri(uri)
    client = connect(uri)
    champion = load(resolve_model("prod/cls", client), Path(folder) / f"champion-{seed}")
    onnx = Path(folder) / f"{seed}.onnx"
    onnx.write_bytes(b"not read before it is served")
    with mlflow.start_run(run_id):  # as a job's run; the model is logged in its experiment
        version = register_repair(
            client,
            champion,
            TinyNet(seed=seed).eval(),
            onnx,
            run_id=run_id,
            job_key="a" * 64,
            tags={},
            describe=str,
            alias="challenger",
            step=1,
        )
    return f"version {version.version}"


def check_races(uri: str, client: MlflowClient, folder: Path, rounds: int) -> None:
    """Two processes register the same job at once, again and again, the version gone in between."""
    champion_in_registry("cls", folder)
    for number in range(rounds):
        (folder / str(number)).mkdir()
        check_same_job_twice(uri, client, folder / str(number))
        client.delete_model_version("cls", client.get_model_version_by_alias("cls", "challenger").version)


def check_same_job_twice(uri: str, client: MlflowClient, folder: Path) -> None:
    """Both come to one version, which has its model."""
    experiment = experiment_id(client, f"races-{folder.name}")
    runs = [client.create_run(experiment, tags={"repairops.job_key": "a" * 64}).info.run_id for _ in range(2)]
    given = [(uri, str(folder), run_id, seed) for seed, run_id in enumerate(runs, 5)]
    first, second = in_processes(register_in_process, given)
    assert first == second
    (version,) = [v for v in client.search_model_versions("name = 'cls'") if "repairops.job_key" in v.tags]
    assert first == f"version {version.version}"
    assert aliases_of(client, "cls")["challenger"] == str(version.version)
    kept = [m.model_id for m in client.search_logged_models([experiment])]
    assert kept == [version.source.removeprefix("models:/")]
    assert model_digests(Path(mlflow.artifacts.download_artifacts(f"models:/cls/{version.version}")))["onnx"]


@pytest.mark.parametrize(
    "rounds", [1, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])], ids=["once", "often"]
)
def test_the_same_job_on_two_machines_at_once_registers_one_version(
    client: MlflowClient, tmp_path: Path, registry: str, rounds: int
) -> None:
    check_races(registry, client, tmp_path, rounds)


class Overtaking(MlflowClient):
    """Another machine registers the same job between this one's look and its own version."""

    def create_model_version(self, name: str, *given: Any, **options: Any) -> Any:
        rival = MlflowClient().create_model_version(name, "s3://rival/model", tags=options["tags"])
        assert rival.version == "2" or rival.version == 2
        return super().create_model_version(name, *given, **options)


def test_of_two_versions_of_a_job_the_first_one_stays(client: MlflowClient, tmp_path: Path) -> None:
    champion = champion_in_registry("cls", tmp_path)
    run_id = client.create_run("0", tags={"repairops.job_key": "a" * 64}).info.run_id
    version = register(Overtaking(), champion, TinyNet(seed=5).eval(), tmp_path, run_id)
    assert version.source == "s3://rival/model"
    assert [str(v.version) for v in client.search_model_versions("name = 'cls'")] == ["2", "1"]
    assert aliases_of(client, "cls") == {"prod": "1", "challenger": "2"}
    assert client.search_logged_models(["0"], "tags.`repairops.job_key` != ''") == []


def test_a_pt2_champion_gets_a_pt2_version(client: MlflowClient, tmp_path: Path) -> None:
    champion = champion_in_registry("cls", tmp_path, "pt2", model_factory="store_helpers:TinyNet")
    repaired = TinyNet(seed=5).eval()
    register(client, champion, repaired, tmp_path, client.create_run("0").info.run_id)
    again = load(resolve_model("models:/cls/2", client), tmp_path / "again")
    assert again.serialization_format == "pt2"
    assert type(again.classifier.network) is TinyNet
    with torch.no_grad():
        images = unit_images()
        torch.testing.assert_close(again.classifier(images), repaired(to_input(images, SPEC)))


# Promotion


def repaired_version(client: MlflowClient, parent: str, verdict: str = "PASS", name: str = "cls") -> str:
    version: str = judged_version(client, name, parent, "challenger", verdict=verdict).version
    return version


def test_an_alias_that_was_moved_by_hand_to_a_repair_is_no_repair_s_to_move(client: MlflowClient) -> None:
    """Production may be found by it: MLflow alone knows no promotion."""
    add_version(client, "cls")
    judged_version(client, "cls", "1", "canary", "live", **{"repairops.alias": "canary"})
    ref = ModelRef("cls", "1", "", "")
    check_alias(client, ref, "canary")
    check_alias(client, ref, "new")
    with pytest.raises(InvalidOption, match="it is at version 2, and no repair put it there"):
        check_alias(client, ref, "live")


def test_a_passed_challenger_is_promoted(client: MlflowClient) -> None:
    add_version(client, "cls", "prod")
    repaired_version(client, parent="1")
    move = repairops.promote("prod/cls", by="ann", reason="looks right")
    assert (move.model, move.alias, move.version_from, move.version_to) == ("cls", "prod", "1", "2")
    assert (move.by, move.reason, move.kind, move.forced) == ("ann", "looks right", "promotion", False)
    assert version_at(client, "cls", "prod") == "2"
    assert promotions(client, "cls") == [move]
    assert move.at > 0


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE", ""])
def test_without_a_passed_gate_only_force_promotes(client: MlflowClient, verdict: str) -> None:
    add_version(client, "cls", "prod")
    tags = {"repairops.verdict": verdict} if verdict else {}
    add_version(client, "cls", tags={**tags, "repairops.parent_version": "1"})
    with pytest.raises(PromotionRefused, match=f"its gate says {verdict}" if verdict else "no gate"):
        repairops.promote("cls", version="2")
    with pytest.raises(PromotionRefused, match="--force wants a reason"):
        repairops.promote("cls", version="2", force=True)
    assert version_at(client, "cls", "prod") == "1"
    move = repairops.promote("cls", version="2", force=True, reason="outage")
    assert move.forced
    assert version_at(client, "cls", "prod") == "2"


def test_a_challenger_of_another_champion_is_refused(client: MlflowClient) -> None:
    add_version(client, "cls", "prod")
    repaired_version(client, parent="1")
    add_version(client, "cls", "prod")
    with pytest.raises(AliasMoved, match=r"was at version 1 and is at 3 now") as caught:
        repairops.promote("prod/cls", version="2")
    assert caught.value.exit_code == 5
    assert version_at(client, "cls", "prod") == "3"
    assert promotions(client, "cls") == []


def test_an_alias_that_is_not_where_it_was_expected(client: MlflowClient) -> None:
    add_version(client, "cls", "prod")
    version = repaired_version(client, parent="1")
    for expected in ("7", ""):
        with pytest.raises(AliasMoved):
            move_alias(client, "cls", "prod", version, expected=expected)
        with pytest.raises(AliasMoved):
            move_alias(client, "cls", "prod", version, expected=expected, force=True)
    assert move_alias(client, "cls", "prod", version, expected="1").version_to == "2"


class Overtaken(MlflowClient):
    """Somebody moves the alias to version 3, by plain MLflow, when the mover has opened its run."""

    def create_run(self, *args: Any, **kwargs: Any) -> Any:
        run = super().create_run(*args, **kwargs)
        self.set_registered_model_alias("cls", "prod", "3")
        return run


def test_an_alias_that_another_moves_after_the_checks_stays_where_it_is(client: MlflowClient) -> None:
    add_version(client, "cls", "prod")
    version = repaired_version(client, parent="1")
    add_version(client, "cls")
    for force in (False, True):
        with pytest.raises(AliasMoved, match=r"was at version 1 and is at 3 now \(moved by outside repairops\)"):
            move_alias(Overtaken(), "cls", "prod", version, force=force)
        assert version_at(client, "cls", "prod") == "3"
        assert promotions(client, "cls") == []
        client.set_registered_model_alias("cls", "prod", "1")
    assert move_alias(client, "cls", "prod", version).version_to == "2"  # the claims that were given up do not hinder


class Hasty(MlflowClient):
    """Somebody moves the alias to version 3 when the record of its moves has been read."""

    def get_model_version(self, name: str, version: str) -> Any:
        self.set_registered_model_alias(name, "prod", "3")
        return super().get_model_version(name, version)


def test_a_rollback_undoes_the_move_that_it_has_read_and_no_other(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_version(client, "cls", "prod")
    repaired_version(client, parent="1")
    add_version(client, "cls")
    repairops.promote("prod/cls")
    monkeypatch.setattr(mlflow, "MlflowClient", Hasty)
    with pytest.raises(AliasMoved, match="was at version 2 and is at 3 now"):
        repairops.rollback("prod/cls")
    assert version_at(client, "cls", "prod") == "3"


def test_an_alias_that_the_same_job_has_moved_elsewhere_is_promoted(client: MlflowClient, tmp_path: Path) -> None:
    """promote=auto on two machines: the second one comes to the first one's version, and finds the alias there."""
    add_version(client, "cls", "prod")
    version = str(repaired_version(client, parent="1"))
    run = JobRun(client, client.create_run("0").info.run_id)
    config = config_from_dict({"register": {"promote": "auto"}, "training": {"device": "cpu"}})
    jobs = [Job(run, "key", tmp_path, ModelRef("cls", "1", "prod", ""), [], config) for _ in range(2)]
    found = [_promote(job, client, version, run.run_id) for job in jobs]
    assert found == [{"outcome": "passed", "promoted": True, "not_moved": ""}] * 2
    assert [move.version_to for move in promotions(client, "cls")] == ["2"]


def test_a_new_alias_takes_a_forced_version(client: MlflowClient) -> None:
    add_version(client, "cls")
    move = repairops.promote("live/cls", version="1", force=True, reason="first release")
    assert (move.alias, move.version_from) == ("live", "")
    with pytest.raises(NothingToRollBack):
        repairops.rollback("live/cls")
    assert version_at(client, "cls", "live") == "1"


def test_promotions_that_make_no_sense(client: MlflowClient) -> None:
    with pytest.raises(ModelNotFound):
        repairops.promote("prod/cls")
    with pytest.raises(ModelNotFound):
        repairops.rollback("prod/cls")
    add_version(client, "cls", "prod")
    with pytest.raises(PromotionRefused, match="there is no alias 'challenger'"):
        repairops.promote("prod/cls")
    with pytest.raises(PromotionRefused, match=r"Version 9 .* does not exist"):
        repairops.promote("prod/cls", version="9")
    with pytest.raises(PromotionRefused, match="there already"):
        repairops.promote("prod/cls", version="1", force=True, reason="again")
    assert promotions(client, "cls") == []


@pytest.mark.parametrize(
    ("model", "moved"),
    [
        ("cls", ("cls", "prod")),
        ("live/cls", ("cls", "live")),
        ("cls@live", ("cls", "live")),
        ("models:/cls@live", ("cls", "live")),
    ],
)
def test_what_a_promotion_moves(model: str, moved: tuple[str, str]) -> None:
    assert target(model) == moved


def test_rollback_undoes_one_promotion_after_another(client: MlflowClient) -> None:
    add_version(client, "cls", "prod")
    with pytest.raises(NothingToRollBack):
        repairops.rollback("prod/cls")
    for parent in ("1", "2"):
        repaired_version(client, parent)
        repairops.promote("prod/cls")
    assert version_at(client, "cls", "prod") == "3"
    back = repairops.rollback("prod/cls", reason="complaints")
    assert (back.version_from, back.version_to, back.kind, back.reason) == ("3", "2", "rollback", "complaints")
    assert repairops.rollback("prod/cls").reason == "roll back from version 2"
    assert version_at(client, "cls", "prod") == "1"
    with pytest.raises(NothingToRollBack):
        repairops.rollback("prod/cls")
    assert [(m.version_from, m.version_to) for m in promotions(client, "cls")] == [
        ("1", "2"), ("2", "3"), ("3", "2"), ("2", "1"),
    ]  # fmt: skip


def test_after_a_rollback_the_next_promotion_can_be_undone(client: MlflowClient) -> None:
    add_version(client, "cls", "prod")
    repaired_version(client, "1")
    repairops.promote("prod/cls")
    repairops.rollback("prod/cls")
    repaired_version(client, "1")
    repairops.promote("prod/cls")
    assert version_at(client, "cls", "prod") == "3"
    assert repairops.rollback("prod/cls").version_to == "1"
    with pytest.raises(NothingToRollBack):
        repairops.rollback("prod/cls")


def test_rollback_keeps_aliases_apart(client: MlflowClient) -> None:
    add_version(client, "cls", "prod", "canary")
    repaired_version(client, "1")
    repairops.promote("canary/cls")
    with pytest.raises(NothingToRollBack):
        repairops.rollback("prod/cls")
    assert repairops.rollback("canary/cls").version_to == "1"


def test_moves_outside_repairops_are_not_undone_by_guess(client: MlflowClient) -> None:
    add_version(client, "cls", "prod")
    repaired_version(client, "1")
    repairops.promote("prod/cls")
    add_version(client, "cls", "prod")  # somebody moves the alias to version 3
    with pytest.raises(NothingToRollBack):
        repairops.rollback("prod/cls")
    assert version_at(client, "cls", "prod") == "3"
    client.set_registered_model_alias("cls", "prod", "2")  # and back to the one that we promoted
    assert repairops.rollback("prod/cls").version_to == "1"


def test_rollback_to_a_deleted_version_is_refused(client: MlflowClient) -> None:
    add_version(client, "cls", "prod")
    repaired_version(client, "1")
    repairops.promote("prod/cls")
    client.delete_model_version("cls", "1")
    with pytest.raises(PromotionRefused, match=r"Version 1 .* does not exist"):
        repairops.rollback("prod/cls")
    assert version_at(client, "cls", "prod") == "2"


# Lineage


def test_repaired_batches_follow_the_parents(client: MlflowClient) -> None:
    digests = [f"{i:064x}"[::-1] for i in range(1, 603)]
    assert max(map(len, batch_tags(digests).values())) <= 5000
    add_version(client, "cls", "prod")
    add_version(client, "cls", tags={"repairops.parent_version": "1", **batch_tags(digests[:2])})
    add_version(client, "cls", tags={"repairops.parent_version": "2", **batch_tags(digests[2:])})
    add_version(client, "cls", tags={"repairops.parent_version": "9", **batch_tags(digests[:1])})
    add_version(client, "cls", tags={"repairops.parent_version": "5", **batch_tags(digests[1:2])})

    def repaired(version: str) -> set[str]:
        return repaired_batches(client, ModelRef("cls", version, "", ""))

    assert repaired("1") == set()
    assert repaired("2") == {digest[:16] for digest in digests[:2]}
    assert repaired("3") == {digest[:16] for digest in digests}
    assert repaired("4") == {digests[0][:16]}  # its parent was deleted
    assert repaired("5") == {digests[1][:16]}  # its own parent, by mistake


def test_a_failure_s_role_is_the_strongest_that_it_had_in_the_line_of_a_guarded_version(
    client: MlflowClient, tmp_path: Path
) -> None:
    def repaired(parent: str, form: str, **roles: str) -> ModelRef:
        run = client.create_run("0").info.run_id
        for role in ("repair", "validation", "heldout"):
            (tmp_path / f"{role}_failures.txt").write_text("".join(f"{i}\n" for i in roles.get(role, "")))
            client.log_artifact(run, str(tmp_path / f"{role}_failures.txt"), "roles")
        tags = {"repairops.parent_version": parent, "repairops.run_id": run, "repairops.form": form}
        version = add_version(client, "cls", tags={**tags, **batch_tags(["0" * 64])})
        return ModelRef("cls", str(version.version), "", run)

    add_version(client, "cls", "prod")
    repaired("1", "one", repair="ab", validation="c", heldout="def")
    guarded = repaired("2", "hard", repair="gd", validation="e", heldout="ahb")
    wanted = dict.fromkeys("abdg", "repair") | dict.fromkeys("ce", "validation") | dict.fromkeys("fh", "heldout")
    assert failure_roles(client, guarded) == wanted
    check_guarded(client, guarded)
    for number in ("1", "2"):
        with pytest.raises(NotGuarded, match=f"version {number} of 'cls' has no guard"):
            check_guarded(client, ModelRef("cls", number, "", ""))
    bare = client.create_run("0").info.run_id
    tags = {"repairops.parent_version": "3", "repairops.run_id": bare, "repairops.form": "hard", **batch_tags(["1"])}
    add_version(client, "cls", tags=tags)
    with pytest.raises(RolesLost, match=f"heldout_failures.txt of run {bare}, which made version 4"):
        failure_roles(client, ModelRef("cls", "4", "", ""))


# Jobs

REF = ModelRef("cls", "3", "prod", "")


def test_a_jobs_key_names_what_decides_its_result() -> None:
    key = job_key(REF, ["b", "a"], ["train", "clean"], Config())
    assert key == job_key(REF, ["a", "b"], ["train", "clean"], Config())
    assert key == job_key(REF, ["a", "b"], ["train", "clean"], config_from_dict({"training": {"device": "cpu"}}))
    others = {
        job_key(ModelRef("cls", "4", "prod", ""), ["a", "b"], ["train", "clean"], Config()),
        job_key(REF, ["a"], ["train", "clean"], Config()),
        job_key(REF, ["a", "b"], ["clean", "train"], Config()),
        job_key(REF, ["a", "b"], ["train", "clean"], Config(seed=1)),
    }
    assert len(others | {key}) == 5


def test_a_jobs_run_has_an_experiment_of_its_own(client: MlflowClient) -> None:
    with job_run(client, REF) as job:
        job.log_metrics(2, {"accuracy": 0.5})
        job.set_tags({"repairops.outcome": "passed"})
        assert job.tag("repairops.outcome") == "passed"
        assert job.tag("nothing") == ""
    run = client.get_run(job.run_id)
    assert run.info.status == "FINISHED"
    assert client.get_experiment(run.info.experiment_id).name == "repairops/repairs/cls"
    assert run.data.metrics == {"accuracy": 0.5}
    assert run.data.tags["repairops.kind"] == "repair"
    assert run.data.tags["repairops.model_version"] == "3"


def test_a_jobs_run_goes_where_mlflow_s_settings_say(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ours")
    monkeypatch.setenv("MLFLOW_RUN_NAME", "nightly")
    with job_run(client, REF) as job:
        job.rename(run_name(REF, "4"))
    info = client.get_run(job.run_id).info
    assert (client.get_experiment(info.experiment_id).name, info.run_name) == ("ours", "nightly")


def test_earlier_gates_of_a_clean_set_are_counted_by_job(client: MlflowClient) -> None:
    """Not another set's or model's, not one without a verdict, and a job that was repeated is one."""

    def judged(key: str, outcome: str = "passed", clean: str = "c" * 64, name: str = "cls") -> str:
        with job_run(client, ModelRef(name, "1", "prod", "")) as job:
            log_reference(client, job.run_id, "training", DatasetRef("/train", "t" * 64))
            log_reference(client, job.run_id, "evaluation", DatasetRef("/clean", clean))
            job.set_tags({"repairops.job_key": key, "repairops.outcome": outcome})
        return job.run_id

    first, second = judged("a"), judged("b", "failed")
    for other in ({"outcome": "repeated:passed"}, {"outcome": "error"}, {"clean": "d" * 64}, {"name": "other"}):
        judged("e", **other)
    judged("a")
    assert gates_decided_by(client, "cls", "c" * 64, "own") == [first, second]
    assert gates_decided_by(client, "cls", "c" * 64, "a") == [second]
    assert gates_decided_by(client, "cls", "e" * 64, "own") == []


@pytest.mark.parametrize(
    ("given", "named"),
    [("respected-sloth-441", "repair cls 3 -> 4"), ("repair cls 3", "repair cls 3 -> 4"), ("nightly", "nightly")],
)
def test_a_name_that_mlflow_made_up_is_replaced(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, given: str, named: str
) -> None:
    """`mlflow run` opens the run; a name that its user gave stays."""
    run_id = client.create_run("0", run_name=given).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    with job_run(client, REF) as job:
        job.rename(run_name(REF))
        assert client.get_run(run_id).info.run_name == (given if given == "nightly" else "repair cls 3")
        job.rename(run_name(REF, "4"))
    assert client.get_run(run_id).info.run_name == named


def test_a_failing_job_ends_its_run_as_failed(client: MlflowClient) -> None:
    with pytest.raises(ZeroDivisionError), job_run(client, REF) as job:
        1 / 0  # noqa: B018
    assert client.get_run(job.run_id).info.status == "FAILED"
    assert mlflow.active_run() is None


def test_the_run_that_mlflow_run_opened_is_adopted(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = client.create_run("0")
    client.log_param(opened.info.run_id, "model", "prod/cls")
    monkeypatch.setenv("MLFLOW_RUN_ID", opened.info.run_id)
    with job_run(client, REF) as job:
        assert job.run_id == opened.info.run_id
    assert client.get_run(job.run_id).info.status == "FINISHED"
    assert client.get_experiment_by_name("repairops/repairs/cls") is None


def test_a_users_open_run_stays_open_beside_the_job(client: MlflowClient) -> None:
    with mlflow.start_run() as outer:
        with job_run(client, REF) as job:
            assert job.run_id != outer.info.run_id
        active = mlflow.active_run()
        assert active is not None
        assert active.info.run_id == outer.info.run_id
    assert client.get_run(job.run_id).info.status == "FINISHED"


def finished_job(client: MlflowClient, tmp_path: Path, outcome: str, key: str = "k" * 64) -> str:
    with job_run(client, REF) as job:
        job.set_tags({"repairops.job_key": key, "repairops.outcome": outcome})
        (tmp_path / "outcome.json").write_text(json.dumps({"schema": 2, "outcome": outcome, "later": 1}))
        job.log_file(tmp_path / "outcome.json")
    return job.run_id


def test_an_earlier_outcome_is_found_by_the_jobs_key(client: MlflowClient, tmp_path: Path) -> None:
    assert earlier_outcome(client, runs_of_job(client, "k" * 64)) is None
    failed = finished_job(client, tmp_path, "failed")
    finished_job(client, tmp_path, "error")
    finished_job(client, tmp_path, "passed", key="o" * 64)
    runs = runs_of_job(client, "k" * 64)
    assert len(runs) == 2
    earlier = earlier_outcome(client, runs)
    assert earlier
    assert earlier.values == {"schema": 2, "outcome": "failed", "later": 1, "earlier_run": failed}  # nothing is lost
    passed = finished_job(client, tmp_path, "passed")
    earlier = earlier_outcome(client, runs_of_job(client, "k" * 64))
    assert earlier
    assert (earlier.kind, earlier.record.earlier_run) == ("passed", passed)


def test_runs_that_died_are_closed_and_another_machine_s_is_not(client: MlflowClient, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    assert place_of(here) == place_of(here) != place_of(there)

    def started(folder: Path, at: int | None = None) -> str:
        tags = {"repairops.job_key": "k" * 64, "repairops.place": place_of(folder)}
        run_id: str = client.create_run("0", start_time=at, tags=tags).info.run_id
        return run_id

    dead, live, forgotten = started(here), started(there), started(there, at=1)
    client.set_terminated(started(here), "FINISHED")
    assert close_interrupted(client, runs_of_job(client, "k" * 64), here) == 2
    status = {run: client.get_run(run).info.status for run in (dead, live, forgotten)}
    assert status == {dead: "KILLED", live: "RUNNING", forgotten: "KILLED"}


def lock_in_process(folder: str) -> str:
    with job_lock("k" * 64, Path(folder)):
        return "got it"


def test_a_job_runs_once_on_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPAIROPS_HOME", str(tmp_path / "home"))
    folder = work_folder("k" * 64)
    assert folder == tmp_path / "home" / "jobs" / ("k" * 16)
    with job_lock("k" * 64, folder):
        (other,) = in_processes(lock_in_process, [(str(folder),)])
        assert other.startswith(f"{JobRunning.__name__}: The same repair (job kkkkkkkkkkkk) is running already")
        assert str(folder / "lock") in other
    assert in_processes(lock_in_process, [(str(folder),)]) == ["got it"]
