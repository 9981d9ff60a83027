"""The command line: help, exit codes, stdout against stderr, JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from conftest import mlflow_at
from docs_helpers import commands
from evidence_helpers import page_evidence
from report_helpers import judged
from sklearn.datasets import load_digits
from store_helpers import add_version

import repairops
from mlflow_project.__main__ import parse
from repairops.cli import COMMANDS, main
from repairops.config import Config, option_names
from repairops.core.methods import METHODS
from repairops.errors import OutcomeUnreadable
from repairops.outcome import write_outcome
from repairops.outcome.plain import to_plain
from repairops.outcome.record import SCHEMA
from repairops.store.connection import connect

ALL = [pytest.param(path, command, id=" ".join(path)) for path, command in commands()]


def process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, as a shell starts it."""
    environment = {**os.environ, "REPAIROPS_HOME": str(cwd / "home"), "MLFLOW_TRACKING_URI": f"sqlite:///{cwd}/no.db"}
    command = [sys.executable, "-m", "repairops", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real gate's outcome.json; `more_lost` 0 passes."""
    return write(tmp_path_factory.mktemp("outcome") / "outcome.json", more_lost=0)


def write(path: Path, more_lost: int, **others: object) -> Path:
    policy = Config().to_dict()["gate"]
    values = {"schema": SCHEMA, "outcome": "passed", "policy": policy, **judged(more_lost), **others}
    write_outcome(values, path)
    return path


@pytest.mark.parametrize(("path", "command"), ALL)
def test_every_command_and_option_has_help(path: tuple[str, ...], command: click.Command) -> None:
    assert command.help, path
    assert command.help.strip().splitlines()[0].endswith((".", ":", ";")) or "," in command.help
    for option in command.params:
        if isinstance(option, click.Option) and option.name != "help":
            assert option.help, f"{' '.join(path)} {option.opts}"
    result = CliRunner().invoke(main, [*path, "--help"])
    assert result.exit_code == 0
    assert command.help.strip().split()[0] in result.output


def test_every_command_speaks_json() -> None:
    for path, command in commands():
        if not isinstance(command, click.Group):
            assert any("--json" in option.opts for option in command.params), path


def test_help_has_a_line_for_each_command() -> None:
    """The lines are written by hand, since help imports no command: they start as the command's own help."""
    output = CliRunner().invoke(main, ["--help"]).output
    for name, (_, line) in COMMANDS.items():
        assert line.split(".")[0] in " ".join(output.split())
        command = main.get_command(click.Context(main), name)
        assert command is not None
        assert command.help is not None
        assert command.help.split()[0] == line.split()[0], name


def test_help_imports_neither_torch_nor_mlflow(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from repairops.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'mlflow', 'numpy', 'pandas', 'sklearn', 'onnx', 'great_expectations'} & sys.modules.keys()\n"
        "sys.exit(','.join(heavy) or 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Commands:" in result.stdout


def test_version_is_the_package_s(tmp_path: Path) -> None:
    result = process("--version", cwd=tmp_path)
    assert (result.returncode, result.stdout.split()[-1]) == (0, repairops.__version__)


def test_a_known_error_is_one_line_on_stderr_and_code_1(tmp_path: Path) -> None:
    (tmp_path / "outcome.json").write_text("{}")
    result = process("gate", "outcome.json", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: outcome.json is not an outcome of repairops")


def test_traceback_shows_where_it_came_from(tmp_path: Path) -> None:
    (tmp_path / "outcome.json").write_text("{}")
    result = process("--traceback", "gate", "outcome.json", cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert f"{OutcomeUnreadable.__module__}.{OutcomeUnreadable.__name__}: outcome.json" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["repare"], "No such command 'repare'. Did you mean repair?"),
        (["xyz"], "No such command 'xyz'.\n"),
        (["repair", "--method", "style_guide"], "it must be one that exists, such as style_guided"),
        (["repair", "--modell", "prod/cls"], "--modell"),
        (["repair", "--seed", "x"], "'x' is not a valid integer"),
        (["repair", "--promote", "later"], "'later' is not one of"),
        (["gate", "nowhere.json"], "'nowhere.json' does not exist"),
        (["failures", "log", "prod/cls"], "Missing argument 'PATH'"),
        (["repair", "--set", "training.epochs=many"], "Option training.epochs is 'many'; it must be a whole number."),
        (["repair", "--set", "training.epochs"], "has no '='"),
        (["repair", "--config", "nowhere.yaml"], "nowhere.yaml cannot be read"),
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("training.epoch", "Did you mean training.epochs?"),
        ("epochs", "Did you mean training.epochs?"),
        ("trainings.epochs", "Did you mean training.epochs?"),
        ("xyz.abc", f"The stages are {', '.join(dict.fromkeys(n.split('.')[0] for n in option_names() if '.' in n))}."),
    ],
)
def test_an_unknown_option_names_the_nearest_or_the_stages(option: str, says: str) -> None:
    result = CliRunner().invoke(main, ["repair", "--set", f"{option}=3"])
    assert (result.exit_code, result.stderr) == (2, f"Error: Unknown option {option!r}. {says}\n")


def test_what_only_reads_makes_no_registry_and_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with mlflow_at(f"sqlite:///{tmp_path}/no.db", tmp_path / "home", monkeypatch):
        for command in (["failures", "list", "cls"], ["history", "cls"], ["promote", "cls"], ["repair"]):
            result = CliRunner().invoke(main, command)
            assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1), command
            assert f"There is no registry at sqlite:///{tmp_path}/no.db" in result.stderr
        found = {line["what"]: line for line in json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)}
    assert found["registry"]["state"] == "warn"
    assert list(tmp_path.glob("*.db")) == []


@pytest.mark.parametrize("uri", ["foo://x", "sqlite:///text.db", "https://[bad", "postgresql+nothing://x/y"])
def test_an_address_that_is_no_registry_s_is_one_line(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.db").write_text("not a database")
    with mlflow_at("sqlite:///no.db", tmp_path / "home", monkeypatch):
        result = CliRunner().invoke(main, ["--tracking-uri", uri, "history", "cls"])
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1), result.stderr
    assert result.stderr.startswith(f"Error: The registry {uri} cannot be opened: ")


def test_a_version_beyond_all_numbers_is_not_found(registry: str) -> None:
    add_version(connect(), "cls", "prod")
    result = CliRunner().invoke(main, ["repair", "--model", f"models:/cls/{'9' * 24}"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: No model version answers to 'models:/cls/999")
    assert "it does not exist" in CliRunner().invoke(main, ["promote", "cls", "--version", "9" * 24]).stderr
    assert "neither 'latest'" in CliRunner().invoke(main, ["history", "latest/cls"]).stderr


def test_names_of_labels_and_sources_are_shown_and_do_not_act(registry: str) -> None:
    add_version(connect(), "cls", "prod")
    batch = repairops.log_failures("cls", [b"1", b"2"], ["a\x1b[2J\nb", "c"], sources="\u202ecamera")
    shown = CliRunner().invoke(main, ["failures", "show", "cls", batch.run_id]).stdout
    assert shown.splitlines()[3] == "labels     a\\x1b[2J\\nb: 1, c: 1"
    assert "\\u202ecamera: 2" in shown


def test_a_project_s_parameter_is_never_an_option(tmp_path: Path) -> None:
    """`mlflow run . -e promote -P model=--help` asks for a model of that name."""
    words = parse("promote", ["--model", "--help", "--version", "", "--by", "--force", "--reason", ""])
    assert words == ["promote", "--by=--force", "--", "--help"]
    assert parse("main", ["--model", "--help"]) == ["repair", "--model=--help"]
    assert parse("main", ["--model", "a/b", "--train-set", "unset", "--seed", ""]) == ["repair", "--model=a/b"]
    with mlflow_at(f"sqlite:///{tmp_path}/no.db", tmp_path / "home", pytest.MonkeyPatch()):
        assert CliRunner().invoke(main, words).exit_code == 1


@pytest.mark.parametrize(
    ("more_lost", "recorded", "code"), [(0, None, 0), (20, None, 3), (0, "FAIL", 1)], ids=["pass", "fail", "other"]
)
def test_gate_exits_like_its_verdict(tmp_path: Path, more_lost: int, recorded: str | None, code: int) -> None:
    others = {"verdict": {"result": recorded, "checks": []}} if recorded else {}
    path = write(tmp_path / "outcome.json", more_lost, **others)
    result = CliRunner().invoke(main, ["gate", str(path), "--json"])
    assert result.exit_code == code
    verdict = json.loads(result.stdout)
    assert verdict["result"] == ("FAIL" if more_lost else "PASS")
    assert verdict["recorded"] == (recorded or verdict["result"])
    assert {check["name"] for check in verdict["checks"]} >= {"clean_non_regression", "repair_rate", "onnx_parity"}


def test_gate_is_inconclusive_with_code_4(tmp_path: Path) -> None:
    found = to_plain(page_evidence())
    found["clean"] = {"both_right": 180, "champion_only": 2, "challenger_only": 2, "both_wrong": 16}
    path = write(tmp_path / "outcome.json", 0, evidence=found, verdict={"result": "INCONCLUSIVE", "checks": []})
    result = CliRunner().invoke(main, ["gate", str(path)])
    assert result.exit_code == 4
    assert "Verdict: INCONCLUSIVE; recorded: INCONCLUSIVE" in result.stdout


def test_gate_as_text_has_a_row_for_each_check(outcome: Path) -> None:
    lines = CliRunner().invoke(main, ["gate", str(outcome)]).stdout.splitlines()
    assert lines[0].split() == ["check", "level", "result", "why"]
    assert lines[1].split()[:3] == ["clean_non_regression", "required", "PASS"]
    assert lines[-1] == "Verdict: PASS; recorded: PASS"


def test_methods_as_json_and_text() -> None:
    rows = json.loads(CliRunner().invoke(main, ["methods", "--json"]).stdout)
    assert [row["method"] for row in rows] == list(METHODS)
    assert all(row.keys() == {"method", "what", "source", "differs"} and all(row.values()) for row in rows)
    assert "style_guided" in CliRunner().invoke(main, ["methods"]).stdout


def test_quiet_leaves_results_and_warnings(tmp_path: Path, outcome: Path) -> None:
    """The results stay on stdout, warnings on stderr; progress goes."""
    code = (
        "import logging, sys\nfrom repairops.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "log = logging.getLogger('repairops')\nlog.info('progress')\nlog.warning('Warning: careful')\n"
    )
    for flags, kept in (([], ["progress", "Warning: careful"]), (["--quiet"], ["Warning: careful"])):
        command = [sys.executable, "-c", code, *flags, "gate", "--help"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert result.stdout.startswith("Usage: ")
        assert result.stderr.splitlines() == kept
    quiet = CliRunner().invoke(main, ["--quiet", "gate", str(outcome)])
    assert quiet.stdout.endswith("Verdict: PASS; recorded: PASS\n")
    assert quiet.stderr == ""


def test_failures_and_doctor_as_json(registry: str, tmp_path: Path) -> None:
    """Against a real registry: log, list and show tell the same story, an empty one is empty, not an error."""
    import mlflow

    client = mlflow.MlflowClient()
    client.create_registered_model("cls")
    runner = CliRunner()
    assert json.loads(runner.invoke(main, ["failures", "list", "cls", "--json"]).stdout) == []

    from PIL import Image

    digits = load_digits()
    lines = ["file,label,source,group"]
    for i in range(4):
        Image.fromarray((digits.images[i] * 15).astype("uint8")).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{digits.target[i]},{'' if i else 'camera 9'},scene {i // 2}")
    (tmp_path / "failures.csv").write_text("\n".join(lines))
    log = ["failures", "log", "cls", str(tmp_path), "--source", "camera 7", "--json"]
    first, again = (json.loads(runner.invoke(main, log).stdout) for _ in range(2))
    assert (first["rows"], first["model"], first["created"]) == (4, "cls", True)
    assert (again["run_id"], again["created"]) == (first["run_id"], False)

    (listed,) = json.loads(runner.invoke(main, ["failures", "list", "cls", "--json"]).stdout)
    assert listed["digest"] == first["digest"]
    shown = json.loads(runner.invoke(main, ["failures", "show", "cls", first["digest"][:8], "--json"]).stdout)
    assert shown["labels"] == {"0": 1, "1": 1, "2": 1, "3": 1}
    assert (shown["rows"], shown["sources"], shown["groups"]) == (4, {"camera 7": 3, "camera 9": 1}, 2)
    assert "camera 7: 3, camera 9: 1" in runner.invoke(main, ["failures", "show", "cls", first["run_id"]]).stdout
    wrong = runner.invoke(main, ["failures", "show", "cls", "00000000"])
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert f"{first['digest'][:8]} (4 rows)" in wrong.stderr

    result = runner.invoke(main, ["--tracking-uri", registry, "doctor", "--json"])
    findings = {finding["what"]: finding for finding in json.loads(result.stdout)}
    assert findings["registry"]["value"] == f"{registry}, 1 registered models"
    assert findings["rights"]["state"] == "ok"
    assert result.exit_code == int(any(finding["state"] == "error" for finding in findings.values()))
    assert all(finding["mend"] for finding in findings.values() if finding["state"] == "error")
