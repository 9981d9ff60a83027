"""`repairops review` and `history`: what a reviewer reads, as text and JSON, and why a promotion would be refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from docs_helpers import DOCS, shell_lines, words
from evidence_helpers import page_evidence
from mlflow import MlflowClient
from store_helpers import add_version, judged_version

import repairops
from repairops.cli import main
from repairops.config import Config
from repairops.errors import NoReview, PromotionRefused
from repairops.gate import decide
from repairops.outcome import write_outcome
from repairops.outcome.plain import to_plain
from repairops.outcome.record import SCHEMA
from repairops.promotion.history import OUTSIDE, Promotion, open_move, promotions, with_outside
from repairops.promotion.review import fetch_report, review
from repairops.store.connection import connect

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def client(registry: str) -> MlflowClient:
    return connect()


@pytest.fixture
def challenger(client: MlflowClient, tmp_path: Path) -> str:
    """A champion under prod, and version 2 whose run keeps a real outcome and a page; the run's id."""
    add_version(client, "cls", "prod")
    version = judged_version(client, "cls", "1", "challenger")
    run_id = str(version.tags["repairops.run_id"])
    outcome = {
        "schema": SCHEMA,
        "outcome": "passed",
        "message": "231 of 300 repaired.",
        "evidence": to_plain(page_evidence()),
        "policy": asdict(Config().gate),
        "verdict": to_plain(decide(page_evidence(), Config().gate)),
    }
    write_outcome(outcome, tmp_path / "outcome.json")
    (tmp_path / "report.html").write_text("<html>the page</html>")
    for name in ("outcome.json", "report.html"):
        client.log_artifact(run_id, str(tmp_path / name))
    return run_id


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_a_review_shows_verdict_checks_links_and_the_next_command(challenger: str) -> None:
    result = call("review", "prod/cls")
    assert result.exit_code == 0
    assert "cls: challenger version 2 against version 1 under 'prod'" in result.stdout
    assert "231 of 300 repaired." in result.stdout
    assert "Verdict: PASS; recorded: PASS" in result.stdout
    assert "clean_non_regression" in result.stdout
    assert challenger in result.stdout  # where its artifacts lie
    assert "repairops promote prod/cls --version 2 --by NAME --reason TEXT" in result.stdout


def test_the_tutorial_s_last_commands_run_as_they_stand(challenger: str) -> None:
    kinds = ("gate", "review", "promote", "rollback", "history")
    lines = [line for line in shell_lines(DOCS / "tutorial.md") if line.split()[1] in kinds]
    assert [line.split()[1] for line in lines] == list(kinds)
    for line in lines:
        result = call(*words(line)[1:])
        assert result.exit_code == 0, (line, result.output)
    assert [(move.kind, move.version_to) for move in repairops.history("cls")][-2:] == [
        ("promotion", "2"),
        ("rollback", "1"),
    ]


def test_a_review_as_json_is_the_whole_evidence(challenger: str) -> None:
    found = json.loads(call("review", "cls", "--json").stdout)
    assert (found["champion"], found["challenger"], found["recomputed"], found["hindrance"]) == ("1", "2", "PASS", "")
    assert found["outcome"]["evidence"]["heldout_total"] == 300
    assert {check["name"] for check in found["checks"]} >= {"repair_rate", "latency"}


def test_a_review_says_why_a_promotion_would_be_refused(client: MlflowClient, challenger: str) -> None:
    add_version(client, "cls", "prod")
    result = call("review", "cls")
    assert result.exit_code == 0
    assert "Not to be promoted now: The alias 'prod' of 'cls' was at version 1 and is at 3 now" in result.stdout
    assert "repairops promote" not in result.stdout
    client.set_registered_model_alias("cls", "prod", "2")
    assert review("cls").hindrance == "the alias 'prod' is there already"
    client.set_model_version_tag("cls", "2", "repairops.verdict", "FAIL")
    client.set_registered_model_alias("cls", "prod", "1")
    assert "its gate says FAIL" in review("cls").hindrance


def test_a_review_computes_the_verdict_anew(client: MlflowClient, challenger: str, tmp_path: Path) -> None:
    values = json.loads((tmp_path / "outcome.json").read_text())
    values["evidence"]["heldout_repaired"] = 3
    (tmp_path / "outcome.json").write_text(json.dumps(values))
    client.log_artifact(challenger, str(tmp_path / "outcome.json"))
    found = review("cls")
    assert (found.recorded, found.recomputed) == ("PASS", "FAIL")


@pytest.mark.parametrize("reference", ["runs:/{run}", "runs:/{run}/outcome.json", "cls@challenger", "models:/cls/2"])
def test_the_gate_is_asked_again_by_run_or_version(challenger: str, reference: str) -> None:
    result = call("gate", reference.format(run=challenger), "--json")
    assert (result.exit_code, json.loads(result.stdout)["result"]) == (0, "PASS")


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("runs:/", "there is no run ''"),
        (f"runs:/{'0' * 32}", "or it holds no outcome.json"),
        ("prod/cls", "no repair registered version 1 of 'cls'"),
        ("cls@nobody", "No model version answers to 'cls@nobody'"),
    ],
)
def test_what_is_no_run_or_version_of_a_repair_has_no_gate(challenger: str, reference: str, why: str) -> None:
    result = call("gate", reference)
    assert result.exit_code == 1
    assert why in result.stderr
    assert result.stderr.count("\n") == 1


def test_what_cannot_be_reviewed(client: MlflowClient, challenger: str) -> None:
    with pytest.raises(NoReview, match="no repair registered it"):
        review("cls", version="1")
    with pytest.raises(PromotionRefused, match="does not exist"):
        review("cls", version="9")
    judged_version(client, "cls", "1")
    with pytest.raises(NoReview, match=r"holds no outcome\.json"):
        review("cls", version="3")
    client.delete_registered_model_alias("cls", "challenger")
    result = call("review", "cls")
    assert result.exit_code == 1
    assert "there is no alias 'challenger'" in result.stderr


def test_the_page_is_fetched_for_the_browser(client: MlflowClient, challenger: str, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    assert fetch_report(review("cls"), folder).read_text() == "<html>the page</html>"


def test_history_as_text_and_json(client: MlflowClient, challenger: str) -> None:
    repairops.promote("cls", by="ann", reason="read it")
    repairops.rollback("cls", by="carl", reason="complaints")
    client.set_registered_model_alias("cls", "prod", "2")
    lines = call("history", "prod/cls").stdout.splitlines()
    assert lines[0].split() == ["when", "from", "to", "by", "how", "evidence", "reason"]
    assert len(lines) == 5
    assert "outside repairops" in lines[1]
    assert f"gate PASS, run {challenger}" in lines[2]
    assert "rollback" in lines[3]
    assert "complaints" in lines[3]
    assert "outside repairops" in lines[4]
    found = json.loads(call("history", "cls", "--json").stdout)
    assert [(move["version_from"], move["version_to"]) for move in found] == [
        ("", "1"),
        ("1", "2"),
        ("2", "1"),
        ("1", "2"),
    ]
    assert found[1]["evidence_run"] == challenger


def test_aliases_have_histories_of_their_own() -> None:
    moves = [Promotion("cls", "prod", "", "1", "a", ""), Promotion("cls", "canary", "", "2", "a", "")]
    assert [m.version_to for m in with_outside(moves, "cls", "prod", "1")] == ["1"]
    assert with_outside([], "cls", "prod", "") == []
    assert [(m.version_to, m.by) for m in with_outside([], "cls", "prod", "7")] == [("7", OUTSIDE)]


def test_a_removed_alias_is_a_move_too() -> None:
    (made, removed) = with_outside([Promotion("cls", "prod", "", "1", "a", "")], "cls", "prod", "")
    assert (made.kind, removed.version_from, removed.version_to, removed.kind) == ("promotion", "1", "", "outside")


def test_a_mover_that_died_blocks_nobody_and_is_kept_where_it_moved(client: MlflowClient, challenger: str) -> None:
    """Its run is open for longer than a move takes."""
    dead = open_move(client, Promotion("cls", "prod", "1", "2", "ann", "died after it"))
    age(client, dead.info.run_id)
    client.set_registered_model_alias("cls", "prod", "2")
    other = str(judged_version(client, "cls", "2").version)
    assert repairops.promote("cls", version=other, by="carl").version_from == "2"
    assert [(move.by, move.version_to) for move in promotions(client, "cls")] == [("ann", "2"), ("carl", other)]
    dead = open_move(client, Promotion("cls", "prod", other, "1", "ann", "died before it"))
    age(client, dead.info.run_id)
    repairops.rollback("cls")
    assert [move.by for move in promotions(client, "cls")][:2] == ["ann", "carl"]
    assert client.get_run(dead.info.run_id).info.status == "KILLED"


def test_a_mover_that_was_stopped_for_too_long_gives_up(
    client: MlflowClient, challenger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repairops.promotion.move.LEASE_SECONDS", -1)
    with pytest.raises(PromotionRefused, match="more than two minutes"):
        repairops.promote("cls")
    assert client.get_model_version_by_alias("cls", "prod").version == 1
    assert promotions(client, "cls") == []


def age(client: MlflowClient, run_id: str) -> None:
    """Makes a run ten minutes older, in its database."""
    import sqlite3
    from contextlib import closing

    path = client.tracking_uri.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE runs SET start_time = start_time - 600000 WHERE run_uuid = ?", (run_id,))
        database.commit()


def test_a_team_that_still_uses_stages(client: MlflowClient, challenger: str) -> None:
    client.transition_model_version_stage("cls", "1", "Production")
    assert call("promote", "cls", "--stage", "Production", "--by", "ann", "--reason", "ok").exit_code == 0
    stages = {v: client.get_model_version("cls", v).current_stage for v in ("1", "2")}
    assert stages == {"1": "Archived", "2": "Production"}


def test_the_name_that_mlflow_knows_is_the_one_that_promotes(
    client: MlflowClient, challenger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann@example.org")
    assert repairops.promote("cls").by == "ann@example.org"
