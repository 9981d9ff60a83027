"""Fitted style networks in MLflow: fitted by the command, found by digest, used by a job."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from pipeline_helpers import (
    Scene,
    call,
    options,
    scene_fixture,  # noqa: F401
    template_fixture,  # noqa: F401
)
from safetensors.torch import load_file

from repairops.errors import StyleNetworkNotFound, StyleWeightsDamaged
from repairops.pipeline import repair
from repairops.store.styles import fetch_style, logged_styles


@pytest.mark.slow
def test_a_network_is_fitted_kept_found_and_used(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("style", "fit", "prod/cls", "--steps", "2", "--batch-size", "4", "--device", "cpu")
    code, text = call(*command, "--min-psnr", "60")
    assert (code, text) == (1, "")  # a poor one is refused, and nothing is kept
    assert logged_styles(scene.client) == []

    code, text = call(*command, "--min-psnr", "-100", "--json")
    assert code == 0
    answer = json.loads(text)
    (logged,) = logged_styles(scene.client)
    assert (logged.digest, logged.run_id, logged.encoder) == (answer["digest"], answer["run_id"], "trained")
    assert math.isfinite(logged.psnr)
    file = fetch_style(scene.client, logged.digest[:12])
    assert hashlib.sha256(file.read_bytes()).hexdigest() == logged.digest
    assert "decoder.conv1_1.bias" in load_file(file)

    weights = f"style.weights=fitted:{logged.digest[:16]}"
    outcome = repair(config=options("style.name=wct2", "style.levels=1", weights, "training.epochs=1"))
    assert outcome.values["method"]["style"] == "wct2"
    assert outcome.values["config"]["style"]["weights"] == str(file)

    file.write_bytes(b"changed")
    with pytest.raises(StyleWeightsDamaged, match="sha256"):
        fetch_style(scene.client, logged.digest[:12])
    with pytest.raises(StyleNetworkNotFound, match=logged.digest[:8]):
        fetch_style(scene.client, "feedfeed")


def test_vgg_weights_come_from_a_file(scene: Scene, tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "vgg.pth")
    code, text = call("style", "fit", "prod/cls", "--vgg", str(tmp_path / "vgg.pth"), "--steps", "1")
    assert (code, text) == (1, "")
