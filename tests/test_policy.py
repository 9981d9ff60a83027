"""A team's policy file: it alone decides on the gate, and its digest is known."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from repairops.config import Config, load_config
from repairops.errors import InvalidOption, UnknownOption, UsageError


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "gate.yaml"
    file.write_text("# agreed on 3 May\nmargin_points: 0.3\nlatency: required\nnegative_flips: off\n")
    return file


def test_a_policy_sets_the_gate_and_names_itself(policy: Path) -> None:
    digest = hashlib.sha256(policy.read_bytes()).hexdigest()
    config = load_config(overrides=[f"gate.policy={policy}", "training.epochs=2"])
    wanted = {"margin_points": 0.3, "latency": "required", "negative_flips": "off"}
    assert config.gate == replace(Config().gate, **wanted, policy=str(policy), policy_sha256=digest)
    assert config.training.epochs == 2
    assert load_config(overrides=[f"gate.policy={policy}", f"gate.policy_sha256={digest}"]).gate == config.gate


def test_what_a_policy_says_is_in_a_jobs_key_and_where_it_lies_is_not(policy: Path, tmp_path: Path) -> None:
    inside = load_config(overrides=["gate.margin_points=0.3", "gate.latency=required", "gate.negative_flips=off"])
    copy = tmp_path / "copy.yaml"
    copy.write_text(policy.read_text())
    configs = [load_config(overrides=[f"gate.policy={file}"]) for file in (policy, copy)]
    assert {config.digest() for config in configs} == {inside.digest()}
    policy.write_text("margin_points: 0.4\n")
    assert load_config(overrides=[f"gate.policy={policy}"]).digest() != inside.digest()


def test_nothing_beside_a_policy_softens_it(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"decides on the gate, and gate\.margin_points is set beside it"):
        load_config(overrides=[f"gate.policy={policy}", "gate.margin_points=9"])
    file = tmp_path / "repair.yaml"
    file.write_text("gate:\n  onnx_parity: off\n")
    with pytest.raises(UsageError, match=r"gate\.onnx_parity is set beside it"):
        load_config(file, [f"gate.policy={policy}"])


def test_another_file_than_the_agreed_one_is_refused(policy: Path) -> None:
    with pytest.raises(UsageError, match=r"as gate\.policy_sha256 says"):
        load_config(overrides=[f"gate.policy={policy}", f"gate.policy_sha256={'0' * 64}"])


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("margin: 0.3\n", UnknownOption, r"gate\.margin"),
        ("margin_points: much\n", InvalidOption, r"gate\.margin_points"),
        ("margin_points: -1\n", InvalidOption, r"gate\.margin_points is -1\.0; it must be from 0 to 100"),
        ("confidence: 95\n", InvalidOption, r"gate\.confidence is 95\.0; it must be from 0\.5 to 0\.9999"),
        ("latency: sometimes\n", InvalidOption, "required, advisory, off"),
        ("policy: other.yaml\n", UsageError, "holds policy"),
        ("- margin_points\n", UsageError, "must hold"),
        ("margin_points: [", UsageError, "not valid YAML"),
    ],
)
def test_a_policy_is_validated(policy: Path, text: str, error: type[Exception], message: str) -> None:
    policy.write_text(text)
    with pytest.raises(error, match=message):
        load_config(overrides=[f"gate.policy={policy}"])


def test_a_policy_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_config(overrides=[f"gate.policy={tmp_path / 'gate.yaml'}"])
