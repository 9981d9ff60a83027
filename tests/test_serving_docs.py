"""The page on serving: its Python runs, its commands are MLflow's, and a real server answers as the evaluation did."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import stop_server, wait_until_healthy
from cryptography.fernet import Fernet
from docs_helpers import DOCS, blocks, shell_lines, words
from mlflow.models.cli import commands as models_commands
from mlflow.webhooks.delivery import _generate_hmac_signature
from pipeline_helpers import (
    Scene,
    environment,
    options,
    scene_fixture,  # noqa: F401
    template_fixture,  # noqa: F401
)
from store_helpers import CLASSES, SPEC, TinyNet, digit_set, digits, register

from repairops.config import ModelConfig
from repairops.data.decoding import encode_png
from repairops.pipeline import repair
from repairops.promotion.log_model import log_model
from repairops.store.champion import fetch_champion
from repairops.store.connection import connect

PAGE = DOCS / "operation" / "serving.md"


@pytest.fixture
def served(registry: str, tmp_path: Path) -> str:
    """A registry whose alias prod is at a repaired version of cls; digit.png lies in the working directory."""
    client = connect()
    ref = log_model(TinyNet().eval(), "cls", SPEC, train_set=digit_set())
    champion = fetch_champion(ref, ModelConfig(), tmp_path / "champion")
    run_id = client.create_run("0").info.run_id
    version = register(client, champion, TinyNet(seed=1), tmp_path, run_id)
    client.set_registered_model_alias("cls", "prod", version.version)
    Path("digit.png").write_bytes(encode_png(digit_set().pixels[0]))
    return registry


def test_the_page_s_python_runs(
    served: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", Fernet.generate_key().decode())
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true")  # else it looks the page's example host up
    names: dict[str, Any] = {
        "png_bytes": Path("digit.png").read_bytes(),
        "array": digits(1)[0],
        "secret": "between us",
    }
    for code in blocks(PAGE, "python"):
        exec(compile(code, str(PAGE), "exec"), names)
    answers = names["answers"]
    assert answers["label"].nunique() == 1  # three forms of one image
    assert answers["label"][0] in CLASSES
    assert str(names["logits"].argmax()) in capsys.readouterr().out
    (webhook,) = connect().list_webhooks()
    assert [str(event) for event in webhook.events] == ["model_version_alias.created"]

    receive, body = names["version_to_deploy"], {"data": {"name": "cls", "alias": "prod", "version": "2"}}
    assert receive(signed(body), json.dumps(body), "between us") == "2"
    assert receive(signed(body), json.dumps(body), "between us", alias="challenger") == ""
    for headers, sent in ((signed(body, 600), body), (signed(body), {"data": body["data"] | {"version": "3"}})):
        with pytest.raises(PermissionError):
            receive(headers, json.dumps(sent), "between us")


def signed(body: dict[str, Any], age: int = 0) -> dict[str, str]:
    """The headers by which MLflow's server sends a body, some seconds ago."""
    sent = str(int(time.time()) - age)
    signature = _generate_hmac_signature("between us", "delivery", sent, json.dumps(body))
    return {"X-MLflow-Delivery-Id": "delivery", "X-MLflow-Timestamp": sent, "X-MLflow-Signature": signature}


def test_the_page_s_commands_are_mlflow_s() -> None:
    lines = [words(line) for line in shell_lines(PAGE) if line.startswith("mlflow models ")]
    assert {line[2] for line in lines} == {"serve", "build-docker"}
    for line in lines:
        known = {flag for option in models_commands.commands[line[2]].params for flag in option.opts}
        assert {word for word in line[3:] if word.startswith("-")} <= known, line


@contextmanager
def serving(line: str, scene: Scene) -> Iterator[str]:
    """The page's command on a free port; the address that it answers at."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", *words(line)]
    command[command.index("--port") + 1] = str(port)
    log, address = scene.folder / "server.log", f"http://127.0.0.1:{port}"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment(scene), stdout=file, stderr=file, process_group=0)
    try:
        wait_until_healthy(address, process, log)
        yield address
    finally:
        stop_server(process.pid)


def asked(address: str, images: list[str]) -> list[dict[str, Any]]:
    """What the server answers; each image is a text."""
    body = json.dumps({"dataframe_records": [{"image": image} for image in images]}).encode()
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        found: list[dict[str, Any]] = json.load(answer)["predictions"]
    return found


@pytest.mark.slow
def test_a_server_of_mlflow_s_answers_as_the_evaluation_did(scene: Scene) -> None:
    outcome = repair(config=options())
    scene.client.set_registered_model_alias("cls", "prod", outcome.version)
    clean = scene.data.clean
    texts = [base64.b64encode(encode_png(image)).decode() for image in clean.pixels]
    line = next(line for line in shell_lines(PAGE) if line.startswith("mlflow models serve"))
    with serving(line, scene) as address:
        found = asked(address, texts)
        with pytest.raises(urllib.error.HTTPError, match="400"):
            asked(address, ["file:/etc/passwd"])
    right = sum(row["label"] == clean.class_names[label] for row, label in zip(found, clean.labels, strict=True))
    evidence = outcome.record.evidence
    assert evidence is not None
    assert right == evidence.clean.challenger_right > 0.9 * len(clean)
