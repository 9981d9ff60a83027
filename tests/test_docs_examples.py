"""Examples of the documentation that are no Python of ours: shell, cron, workflow, manifest, DAG, configuration."""

from __future__ import annotations

import importlib.resources
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from docs_helpers import DOCS, PAGES, ROOT, blocks, check_command, crontab, shell_lines

from repairops.config import load_config

SCHEDULING = DOCS / "operation" / "scheduling.md"
WHERE = [str(page.relative_to(ROOT)) for page in PAGES]


def workflow_and_cron_job() -> tuple[dict[str, Any], dict[str, Any]]:
    workflow, cron_job = (yaml.safe_load(text) for text in blocks(SCHEDULING, "yaml"))
    return workflow, cron_job


@pytest.mark.parametrize("where", WHERE)
def test_shell_blocks_are_shell_and_their_commands_exist(where: str) -> None:
    for block in blocks(ROOT / where, "bash"):
        parsed = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
        assert (parsed.returncode, parsed.stderr) == (0, ""), block
    for line in shell_lines(ROOT / where):
        check_command(line)


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = [re.findall(r"\bmake ([a-z][a-z -]*)", "\n".join(blocks(page, "bash"))) for page in PAGES]
    used = {target for found in named for targets_ in found for target in targets_.split()}
    assert {"install", "test", "demo"} <= used <= targets


def test_the_crontab_can_be_installed() -> None:
    croniter = pytest.importorskip("croniter").croniter
    settings, entries = crontab(SCHEDULING)
    assert "/srv/repairops/.venv/bin" in settings["PATH"].split(":")
    assert settings.keys() == {"PATH", "MLFLOW_TRACKING_URI"}
    ((times, command),) = entries
    assert croniter.is_valid(times)
    assert not re.search(r"\\$|(?<!\\)%", command)  # cron continues no line, and takes % for an end of line
    assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0
    check_command(command.partition("&& ")[2])


def test_the_workflow_follows_its_schema() -> None:
    pytest.importorskip("check_jsonschema")
    import jsonschema

    kept = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "github-workflows.json"
    schema = json.loads(kept.read_text(encoding="utf-8"))
    workflow, _ = workflow_and_cron_job()
    jsonschema.validate({str(key).replace("True", "on"): value for key, value in workflow.items()}, schema)
    for step in workflow["jobs"]["repair"]["steps"][1:]:
        check_command(step["run"])


def test_the_cron_job_has_the_fields_that_kubernetes_wants() -> None:
    """By hand: the one package with Kubernetes's schemas has 22 MB."""
    _, cron_job = workflow_and_cron_job()
    assert (cron_job["apiVersion"], cron_job["kind"]) == ("batch/v1", "CronJob")
    assert re.fullmatch(r"[a-z0-9-]{1,52}", cron_job["metadata"]["name"])
    spec = cron_job["spec"]
    assert spec.keys() == {"schedule", "concurrencyPolicy", "jobTemplate"}
    assert spec["concurrencyPolicy"] in ("Allow", "Forbid", "Replace")
    assert pytest.importorskip("croniter").croniter.is_valid(spec["schedule"])
    job = spec["jobTemplate"]["spec"]
    assert job.keys() == {"backoffLimit", "podFailurePolicy", "template"}
    pod = job["template"]["spec"]
    assert pod.keys() == {"restartPolicy", "containers", "volumes"}
    assert pod["restartPolicy"] == "Never"  # a podFailurePolicy wants it
    (container,) = pod["containers"]
    assert container.keys() == {"name", "image", "workingDir", "command", "env", "volumeMounts", "resources"}
    ((rule,),) = job["podFailurePolicy"].values()
    assert rule["action"] in ("FailJob", "Ignore", "Count", "FailIndex")
    codes = rule["onExitCodes"]
    assert (codes["containerName"], codes["operator"]) == (container["name"], "In")
    assert codes["values"] == sorted({*codes["values"]} - {0})  # ascending, without 0, as its validation says
    assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"] for volume in pod["volumes"]]
    assert all(entry.keys() == {"name", "value"} and isinstance(entry["value"], str) for entry in container["env"])
    assert all(isinstance(word, str) for word in container["command"])
    check_command(" ".join(container["command"]))


def test_the_dag_is_one() -> None:
    """Loaded by Airflow's own classes where it is installed."""
    (code,) = blocks(SCHEDULING, "python")
    compiled = compile(code, str(SCHEDULING), "exec")
    (command,) = re.findall(r'bash_command="([^"]+)"', code)
    check_command(command)
    try:
        import airflow.sdk  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError:
        return
    names: dict[str, Any] = {}
    exec(compiled, names)
    assert [task.task_id for task in names["dag"].tasks] == ["repair"]


@pytest.mark.parametrize(("page", "options"), [("reference/configuration.md", False), ("how-it-works/gate.md", True)])
def test_configuration_files_are_taken(page: str, options: bool, tmp_path: Path) -> None:
    (text,) = blocks(DOCS / page, "yaml")
    file = tmp_path / "file.yaml"
    file.write_text(text, encoding="utf-8")
    config = load_config(overrides=[f"gate.policy={file}"]) if options else load_config(file)
    wanted = yaml.safe_load(text)
    if options:
        wanted = {"gate": wanted}
    for stage, values in wanted.items():
        for name, value in values.items():
            found = getattr(getattr(config, stage), name)
            assert (list(found) if isinstance(value, list) else found) == value
