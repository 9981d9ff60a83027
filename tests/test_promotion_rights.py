"""Promotion on a real MLflow server with basic authentication: who may, who was first, what is refused and kept."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PASSWORD, mlflow_at
from mlflow import MlflowClient
from store_helpers import add_version, in_processes, judged_version

import repairops
from repairops.cli.doctor import _registry
from repairops.config import load_config
from repairops.errors import AliasBeingMoved, AliasMoved, PromotionRefused, RegistryRefused
from repairops.outcome import Outcome
from repairops.promotion.history import OUTSIDE, Promotion, close_move, open_move, promotions
from repairops.promotion.move import move_alias, rival_of
from repairops.stages.job import Job
from repairops.stages.publish import promote_earlier
from repairops.store.connection import connect, experiment_id
from repairops.store.jobs import JobRun
from repairops.store.models import ModelRef, version_at
from repairops.store.runs import all_runs

pytestmark = pytest.mark.filterwarnings("ignore")
MAY, MAY_TOO, MAY_NOT = "ann", "carl", "bob"
names = (f"guarded-{os.getpid()}-{number}" for number in itertools.count())


def sign_in(user: str) -> None:
    os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"] = user, PASSWORD


@pytest.fixture
def client(guarded_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowClient]:
    """The admin's client; `sign_in` changes the user of everything that follows."""
    from mlflow.server.auth.client import AuthServiceClient

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    with mlflow_at(guarded_server, tmp_path / "home", monkeypatch):
        users = AuthServiceClient(guarded_server)
        for user in (MAY, MAY_TOO, MAY_NOT):
            try:
                users.get_user(user)
            except Exception:
                users.create_user(user, PASSWORD)
        yield connect()


@pytest.fixture
def model(client: MlflowClient, guarded_server: str) -> str:
    """A registered model with a champion under prod and its judged challenger; MAY and MAY_TOO may edit it."""
    from mlflow.server.auth.client import AuthServiceClient

    name = next(names)
    add_version(client, name, "prod")
    judged_version(client, name, "1", "challenger")
    users = AuthServiceClient(guarded_server)
    record = experiment_id(client, f"repairops/promotions/{name}")
    for user in (MAY, MAY_TOO):
        users.grant_user_permission(user, "registered_model", name, "EDIT")
        users.grant_user_permission(user, "experiment", record, "EDIT")
    return name


def test_one_who_may_promotes_and_one_who_may_not_is_told_so(client: MlflowClient, model: str) -> None:
    sign_in(MAY_NOT)
    with pytest.raises(RegistryRefused, match="refused to"):
        repairops.promote(model, by="bob", reason="I like it")
    with pytest.raises(RegistryRefused, match="refused to"):
        repairops.promote(model, version="2", force=True, by="bob", reason="I like it")
    assert version_at(client, model, "prod") == "1"
    assert [move.by for move in repairops.history(model)] == [OUTSIDE]  # and reading is allowed
    sign_in(MAY)
    move = repairops.promote(model, reason="read the report")
    assert (move.by, move.version_to, move.verdict) == ("ann", "2", "PASS")
    sign_in(MAY_NOT)
    with pytest.raises(RegistryRefused, match="refused to"):
        repairops.rollback(model)
    assert version_at(client, model, "prod") == "2"
    sign_in(MAY)
    assert repairops.rollback(model).version_to == "1"


def test_one_who_may_record_but_not_move_leaves_no_move_behind(
    client: MlflowClient, model: str, guarded_server: str
) -> None:
    from mlflow.server.auth.client import AuthServiceClient

    record = experiment_id(client, f"repairops/promotions/{model}")
    AuthServiceClient(guarded_server).grant_user_permission(MAY_NOT, "experiment", record, "EDIT")
    sign_in(MAY_NOT)
    with pytest.raises(RegistryRefused, match="refused to move the alias"):
        repairops.promote(model, by="bob")
    assert promotions(client, model) == []
    sign_in(MAY)
    assert repairops.promote(model).version_to == "2"  # the refused claim does not stand in the way


def test_a_wrong_password_is_refused(client: MlflowClient, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not the password")
    with pytest.raises(RegistryRefused):
        repairops.promote(model)


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE", ""])
def test_no_passed_gate(client: MlflowClient, model: str, verdict: str) -> None:
    judged_version(client, model, "1", "challenger", verdict=verdict)
    sign_in(MAY)
    with pytest.raises(PromotionRefused, match=f"its gate says {verdict}" if verdict else "no gate"):
        repairops.promote(model)
    with pytest.raises(PromotionRefused, match="--force wants a reason"):
        repairops.promote(model, force=True)
    assert version_at(client, model, "prod") == "1"
    move = repairops.promote(model, force=True, reason="outage")
    assert (move.forced, move.verdict, move.reason) == (True, verdict, "outage")


def test_gate_of_another_parent(client: MlflowClient, model: str) -> None:
    add_version(client, model, "prod")
    sign_in(MAY)
    with pytest.raises(AliasMoved, match=r"was at version 1 and is at 3 now \(moved by outside repairops\)"):
        repairops.promote(model)
    assert repairops.promote(model, force=True, reason="checked by hand").forced


def test_a_job_without_the_right_leaves_the_alias_and_says_so(
    client: MlflowClient, model: str, guarded_server: str, tmp_path: Path
) -> None:
    """promote=auto; with the right, the same job moves it."""
    run = JobRun(client, client.create_run(experiment_id(client, f"repairs/{model}")).info.run_id)
    config = load_config(overrides=["register.promote=auto", "training.device=cpu"])
    job = Job(run, "key", tmp_path, ModelRef(model, "1", "prod", ""), [], config)
    earlier = Outcome({"registered": {"name": model, "version": "2"}, "earlier_run": run.run_id})
    sign_in(MAY_NOT)
    found = promote_earlier(job, client, earlier)
    assert found["outcome"] == "not_promoted"
    assert "refused to" in found["not_moved"]
    assert "needs the right" in found["not_moved"]
    assert version_at(client, model, "prod") == "1"
    sign_in(MAY)
    assert promote_earlier(job, client, earlier) == {"outcome": "passed", "promoted": True, "not_moved": ""}
    assert version_at(client, model, "prod") == "2"


def test_alias_moved_since(client: MlflowClient, model: str) -> None:
    sign_in(MAY)
    repairops.promote(model, by="ann")
    sign_in(MAY_TOO)
    with pytest.raises(AliasMoved, match=r"was at version 1 and is at 2 now \(moved by ann\)"):
        move_alias(client, model, "prod", "1", expected="1")
    assert version_at(client, model, "prod") == "2"


@pytest.mark.parametrize(("file", "part"), [("data/model.pth", "weights are"), ("onnx/model.onnx", "ONNX file is")])
def test_files_that_the_gate_did_not_judge(
    client: MlflowClient, model: str, tmp_path: Path, file: str, part: str
) -> None:
    version = client.get_model_version(model, "2")
    (tmp_path / "other").write_text("another file")
    (tmp_path / "other").rename(tmp_path / Path(file).name)
    client.log_artifact(version.run_id, str(tmp_path / Path(file).name), f"model/{Path(file).parent}")
    sign_in(MAY)
    with pytest.raises(PromotionRefused, match=f"its {part} not what its gate judged"):
        repairops.promote(model)
    assert version_at(client, model, "prod") == "1"
    assert repairops.promote(model, force=True, reason="signed off").forced


def test_files_without_a_digest_or_that_are_gone(client: MlflowClient, model: str) -> None:
    client.set_model_version_tag(model, "2", "repairops.onnx_sha256", "")
    sign_in(MAY)
    with pytest.raises(PromotionRefused, match="which files its gate judged"):
        repairops.promote(model)


# Asked before anything is trained


def test_a_repair_that_could_not_be_registered_stops_before_it_trains(
    client: MlflowClient, model: str, tmp_path: Path
) -> None:
    """The version has no files behind it, so nothing is pulled either."""
    repairops.log_failures(model, [b"1", b"2"], ["a", "b"])
    sign_in(MAY_NOT)
    (tmp_path / "set").mkdir()
    sets = {"train_set": tmp_path / "set", "clean_set": tmp_path / "set"}
    with pytest.raises(RegistryRefused, match=f"refused to let you edit the model '{model}'"):
        repairops.repair(f"prod/{model}", **sets, config=load_config(overrides=["training.device=cpu"]))
    (run,) = all_runs(client, f"repairops/repairs/{model}", "tags.`repairops.outcome` = 'error'")
    assert run.info.status == "FAILED"
    assert "ask for it" in run.data.tags["mlflow.note.content"]


def test_the_doctor_says_which_models_one_may_repair(
    client: MlflowClient, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repairops.cli.doctor.ASKED", 100)
    for user, may in ((MAY_NOT, False), (MAY, True)):
        sign_in(user)
        (line,) = [line for line in _registry(None) if line.what == "models"]
        assert model not in line.mend if may else line.state == "warn"
    assert client.get_registered_model(model).tags == {}


# At once


def promote_as(uri: str, user: str, name: str, version: str) -> str:
    os.environ["MLFLOW_TRACKING_URI"] = uri
    sign_in(user)
    move = repairops.promote(name, version=version, by=user, tracking_uri=uri)
    return f"moved to {move.version_to}"


def check_promotion_race(client: MlflowClient, uri: str, model: str, rounds: int) -> None:
    """Two processes promote two challengers of the same champion at once, again and again: one of them wins."""
    for round_ in range(rounds):
        champion = str(version_at(client, model, "prod"))
        rivals = {user: str(judged_version(client, model, champion).version) for user in (MAY, MAY_TOO)}
        answers = in_processes(promote_as, [(uri, user, model, version) for user, version in rivals.items()])
        won = [user for user, answer in zip(rivals, answers, strict=True) if answer.startswith("moved")]
        assert len(won) == 1, answers
        lost = next(answer for answer in answers if not answer.startswith("moved"))
        assert lost.startswith(("AliasMoved", "AliasBeingMoved")), lost
        assert won[0] in lost
        assert version_at(client, model, "prod") == rivals[won[0]]
        assert [move.by for move in promotions(client, model)][round_:] == won


def test_of_two_promotions_at_once_one_wins(client: MlflowClient, model: str, guarded_server: str) -> None:
    check_promotion_race(client, guarded_server, model, rounds=3)


def test_who_took_the_lower_number_goes_first(client: MlflowClient, model: str) -> None:
    """Every order of two movers' requests that lets them overlap, step by step."""
    first, second = (open_move(client, Promotion(model, "prod", "1", "2", by, "")) for by in (MAY, MAY_TOO))
    assert (
        rival_of(client, first, "prod", patience=0) is not None
    )  # the second one has not taken its number: it may be lower
    rival = rival_of(client, second, "prod")
    assert rival is not None
    assert rival.info.run_id == first.info.run_id
    close_move(client, second.info.run_id, made=False)
    assert rival_of(client, first, "prod") is None
    sign_in(MAY_TOO)
    with pytest.raises(AliasBeingMoved, match="ann is moving the alias 'prod'"):
        repairops.promote(model)
    close_move(client, first.info.run_id, made=False)
    assert repairops.promote(model).version_to == "2"


# What is kept


def test_history_after_ten_mixed_moves(client: MlflowClient, model: str) -> None:
    judged_version(client, model, "2")
    sign_in(MAY)
    repairops.promote(model, by="ann", reason="first")
    repairops.promote(model, version="3", by="ann", reason="second")
    repairops.rollback(model, by="carl", reason="complaints")
    sign_in("admin")
    client.set_registered_model_alias(model, "prod", "1")  # in MLflow's UI
    sign_in(MAY)
    repairops.promote(model, version="3", by="ann", force=True, reason="hotfix")
    sign_in("admin")
    client.delete_registered_model_alias(model, "prod")
    sign_in(MAY)
    repairops.promote(model, version="2", by="carl", force=True, reason="back again")
    repairops.promote(model, version="3", by="ann", reason="third")
    repairops.rollback(model, by="ann")
    client.set_registered_model_alias(model, "prod", "3")
    found = repairops.history(model)
    runs = {version: client.get_model_version(model, version).tags["repairops.run_id"] for version in ("2", "3")}
    assert [(m.version_from, m.version_to, m.by, m.kind, m.forced) for m in found] == [
        ("", "1", OUTSIDE, "outside", False),
        ("1", "2", "ann", "promotion", False),
        ("2", "3", "ann", "promotion", False),
        ("3", "2", "carl", "rollback", True),
        ("2", "1", OUTSIDE, "outside", False),
        ("1", "3", "ann", "promotion", True),
        ("3", "", OUTSIDE, "outside", False),
        ("", "2", "carl", "promotion", True),
        ("2", "3", "ann", "promotion", False),
        ("3", "2", "ann", "rollback", True),
        ("2", "3", OUTSIDE, "outside", False),
    ]
    for move in found:
        assert move.evidence_run == ("" if move.kind == "outside" else runs[move.version_to])
        assert (move.at > 0) == (move.kind != "outside")
    times = [move.at for move in found if move.at]
    assert times == sorted(times)
