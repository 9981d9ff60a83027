"""A guarded repair from the command to the registry, and what a second repair makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from pipeline_helpers import (
    NAMES,
    OPTIONS,
    Scene,
    call,
    scene_fixture,  # noqa: F401
    shell_options,
    template_fixture,  # noqa: F401
)
from training_helpers import Stopped

from repairops import consolidate, log_failures, repair
from repairops.config import ModelConfig, load_config
from repairops.core import repair as core
from repairops.errors import NotGuarded, Unforeseen
from repairops.gate.evidence import Evidence
from repairops.model.evaluation import logits, predict
from repairops.model.guarded import Guarded
from repairops.model.network import to_input, to_unit
from repairops.model.onnx import run_onnx
from repairops.model.routing import networks_of
from repairops.outcome import Outcome
from repairops.store.champion import fetch_champion
from repairops.store.models import resolve_model

WIDE = ("gate.repair_margin_points=60", "gate.min_repair_rate=0.1", "gate.margin_points=10")  # three short epochs
ON = load_config(overrides=[*OPTIONS, "guard.mode=on", "guard.max_routed=0.2"])
pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_guarded_repair_is_registered_and_judged(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(NotGuarded, match="version 1 of 'cls' has no guard: it is one network"):
        consolidate(config=ON)
    assert not scene.repairs()
    first = repair(config=ON)
    record = first.record
    assert record.outcome == "passed"
    assert record.form is not None
    assert record.form.name in ("hard", "mixed")
    assert record.evidence is not None
    assert record.evidence.routing is not None
    assert_routing(record.evidence)
    version = scene.client.get_model_version("cls", first.version)
    assert version.tags["repairops.form"] == record.form.name
    served = fetch_champion(resolve_model("cls@challenger", scene.client), ModelConfig(), tmp_path / "served")
    network, (champion, repaired) = served.classifier.network, networks_of(served.classifier)
    assert isinstance(network, Guarded)
    original = fetch_champion(resolve_model("prod/cls", scene.client), ModelConfig(), tmp_path / "original")
    assert same_weights(champion.network, original.classifier.network)
    assert not same_weights(repaired.network, champion.network)
    assert (served.folder / "code" / "repairops_guarded.py").is_file()
    pixels = scene.data.clean.pixels[:50]
    assert run_onnx(served.folder / "onnx" / "model.onnx", served.spec, pixels) == pytest.approx(
        logits(served.classifier, pixels), abs=1e-4
    )
    plain = mlflow.pytorch.load_model("models:/cls@challenger")
    with torch.no_grad():
        found = plain(to_input(to_unit(pixels), served.spec)).numpy()
    assert found == pytest.approx(logits(served.classifier, pixels), abs=1e-5)


@pytest.mark.long
def test_a_guarded_version_is_repaired_again_and_becomes_one_network(scene: Scene, tmp_path: Path) -> None:
    first = repair(config=ON)
    served = fetch_champion(resolve_model("cls@challenger", scene.client), ModelConfig(), tmp_path / "served")
    original = fetch_champion(resolve_model("prod/cls", scene.client), ModelConfig(), tmp_path / "original")
    _, repaired = networks_of(served.classifier)

    # The version in production is repaired again: the same champion, another repaired network, two networks in all.
    scene.client.set_registered_model_alias("cls", "prod", first.version)
    field = scene.data.field
    dark = (field.pixels * 0.3).round().to(torch.uint8)
    wrong = np.flatnonzero(~predict(served.classifier, dark, field.labels).right)
    log_failures("prod/cls", dark[torch.from_numpy(wrong)], [NAMES[label] for label in field.labels[wrong]])
    second = repair(config=ON)
    assert second.record.outcome == "passed", second.message
    ref = resolve_model(f"models:/cls/{second.version}", scene.client)
    again = fetch_champion(ref, ModelConfig(), tmp_path / "again")
    old, new = networks_of(again.classifier)
    assert same_weights(old.network, original.classifier.network)
    assert not isinstance(new.network, Guarded)
    assert not same_weights(new.network, repaired.network)

    # The pair becomes one network, on the failures of both repairs: what they held out judges, and nothing else.
    code, text = call("consolidate", ref.uri, "--json", *shell_options([*OPTIONS, *WIDE]))
    outcome = Outcome(json.loads(text))
    record = outcome.record
    assert (code, record.outcome) == (0, "passed"), record.message
    assert len(record.batches) == 2
    assert record.split is not None
    for part in ("repair", "validation", "heldout"):
        roles = [ids(scene, each, part) for each in (outcome, first, second)]
        assert roles[0] == roles[1] | roles[2]
        assert getattr(record.split, part) == len(roles[0])
    assert record.evidence is not None
    assert record.evidence.heldout is not None
    judged = [each.record.evidence.heldout_repaired for each in (second,) if each.record.evidence]
    assert record.evidence.heldout.champion_right >= judged[0]  # the guarded version's own repairs
    assert record.evidence.heldout.challenger_right == record.evidence.heldout_repaired
    assert record.evidence.routing is None
    assert "repairs_kept" in [check.name for check in record.verdict.checks]
    assert scene.client.get_model_version("cls", outcome.version).tags["repairops.form"] == "one"
    pixels = scene.data.clean.pixels[:50]
    single = mlflow.pytorch.load_model(f"models:/cls/{outcome.version}")
    assert type(single) is type(original.classifier.network)
    assert single.state_dict().keys() == original.classifier.network.state_dict().keys()
    with torch.no_grad():
        found = single(to_input(to_unit(pixels), served.spec)).numpy()
    last = fetch_champion(
        resolve_model(f"models:/cls/{outcome.version}", scene.client), ModelConfig(), tmp_path / "one"
    )
    assert not (last.folder / "code" / "repairops_guarded.py").exists()
    assert run_onnx(last.folder / "onnx" / "model.onnx", served.spec, pixels) == pytest.approx(found, abs=1e-4)


def ids(scene: Scene, outcome: Outcome, part: str) -> set[str]:
    """The failures that had a role in a job, by sample id."""
    file = scene.artifact(outcome.record.tracking.run_id, f"roles/{part}_failures.txt")
    return set(file.read_text(encoding="utf-8").split())


def assert_routing(evidence: Evidence) -> None:
    """Counts that belong together; negative flips come from routed images alone."""
    routing = evidence.routing
    assert routing is not None
    assert routing.clean.total == evidence.clean.n == sum(routing.clean_histogram)
    assert routing.heldout.total == evidence.heldout_total == sum(routing.heldout_histogram)
    assert evidence.clean.champion_only + evidence.clean.challenger_only <= routing.clean.routed
    assert evidence.heldout_repaired <= routing.heldout.routed
    for parts, whole in (
        (routing.clean_by_class, routing.clean),
        (routing.heldout_by_class, routing.heldout),
        (routing.heldout_by_cluster, routing.heldout),
    ):
        assert sum(part.routed for part in parts.values()) == whole.routed
        assert sum(part.total for part in parts.values()) == whole.total


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(v, states[1][k]) for k, v in states[0].items())


@pytest.mark.long
def test_a_job_killed_at_its_guard_finds_the_same_one_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    find_form, forms = core.find_form, []

    def killed(*arguments):
        forms.append(find_form(*arguments))
        raise Stopped

    monkeypatch.setattr(core, "find_form", killed)
    for _ in range(2):
        with pytest.raises(Unforeseen):
            repair(config=ON)
    (before, form), (after, same) = forms
    assert same == form
    assert form.name in ("hard", "mixed")
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items())
