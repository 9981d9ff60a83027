"""A repaired version is repaired again: failures of the first look are replayed, choose and judge, each in its part."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from pipeline_helpers import (
    NAMES,
    Scene,
    options,
    scene_fixture,  # noqa: F401
    template_fixture,  # noqa: F401
)
from training_helpers import Stopped

from repairops import log_failures, repair
from repairops.config import ModelConfig
from repairops.core.parts import RepairInputs
from repairops.core.repair import Repaired
from repairops.data.records import FailureBatch
from repairops.errors import Unforeseen
from repairops.model.evaluation import predict
from repairops.model.network import Classifier
from repairops.outcome import Outcome
from repairops.outcome.given import EarlierFailures
from repairops.report import render_page, render_terminal
from repairops.report.pictures import Pictures
from repairops.stages import repair as stage
from repairops.stages.earlier import find_earlier
from repairops.store.batches import logged_batches
from repairops.store.champion import Champion, fetch_champion
from repairops.store.datasets import find_sets
from repairops.store.jobs import job_key
from repairops.store.models import resolve_model

PARTS = ("repair", "validation", "heldout")
STOPPED = list[RepairInputs]()


def log_dark_scans(scene: Scene) -> Champion:
    """Logs what version 2 gets wrong of the field's scans in the dark, each named as in the first batch; returns it."""
    served = fetch_champion(resolve_model("models:/cls/2", scene.client), ModelConfig(), scene.folder / "served")
    field = scene.data.field
    dark = (field.pixels * 0.3).round().to(torch.uint8)
    wrong = np.flatnonzero(~predict(served.classifier, dark, field.labels).right)
    groups = [f"scan {scan}" for scan in wrong]
    log_failures("prod/cls", dark[torch.from_numpy(wrong)], [NAMES[k] for k in field.labels[wrong]], groups=groups)
    return served


def files(scene: Scene, outcome: Outcome) -> dict[str, set[str]]:
    """The failures of each part, as a job's run names them, by sample id."""
    run = outcome.record.tracking.run_id
    return {part: set(scene.artifact(run, f"roles/{part}_failures.txt").read_text().split()) for part in PARTS}


def stopped(champion: Classifier, given: RepairInputs, *arguments: object, **named: object) -> Repaired:
    """In the place of a repair: what it would be given is enough."""
    STOPPED.append(given)
    raise Stopped


def ids(batch: FailureBatch) -> set[str]:
    return set(batch.images.sample_ids.tolist())


def test_a_second_repair_keeps_the_first(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = repair(config=options())
    assert first.record.earlier is first.record.evidence.earlier is None
    scene.client.set_registered_model_alias("cls", "prod", first.version)
    served = log_dark_scans(scene)
    made = list[tuple[RepairInputs, Repaired]]()
    repair_network = stage.repair_network

    def kept(champion, given, *arguments, **named):
        made.append((given, repair_network(champion, given, *arguments, **named)))
        return made[-1][1]

    monkeypatch.setattr(stage, "repair_network", kept)
    caplog.set_level(logging.INFO, "repairops")
    second = repair(config=options())
    record, evidence = second.record, second.record.evidence
    assert record.model.version == "2"
    assert len(record.batches) == 1

    # Each earlier failure has the part that it had, and no scan stands in two parts, whichever batch it is of.
    (given, repaired), before, now = made[0], files(scene, first), files(scene, second)
    earlier = given.earlier
    assert earlier is not None
    old = (earlier.repair, earlier.validation, earlier.heldout.batch)
    new = (given.split.repair, given.split.validation, given.split.heldout.batch)
    assert all(len(part) > 0 and ids(part) <= before[name] for part, name in zip(old, PARTS, strict=True))
    assert [ids(part) for part in new] == [now[name] for name in PARTS]
    scans = [{*one.groups.tolist(), *other.groups.tolist()} for one, other in zip(old, new, strict=True)]
    assert sum(map(len, scans)) == len(set.union(*scans))
    shared = {*old[2].groups.tolist()} & {*new[2].groups.tolist()}
    assert shared  # both batches show some of the same scans
    sizes = record.earlier.repair, record.earlier.validation, record.earlier.heldout
    assert sizes == tuple(map(len, old))

    # They train (see `test_repair`), choose and judge; the repair rate is that of the new batch alone.
    chose = len(new[1]) + min(len(new[1]), len(old[1]))
    assert record.training.validation_failures == chose
    images = old[2].images
    for network, right in (
        (served.classifier, evidence.earlier.champion_right), (repaired.network, evidence.earlier.challenger_right)
    ):  # fmt: skip
        assert predict(network, images.pixels, images.labels).right.sum() == right
    assert evidence.earlier.n == len(images)
    assert evidence.earlier.champion_right > 0
    assert evidence.heldout_total == len(new[2])
    assert "earlier_repairs" in [check.name for check in record.verdict.checks]
    told = f"{evidence.earlier.champion_right} were right, {evidence.earlier.challenger_right} are now"
    assert f"of {len(images)} failures that earlier repairs held out {told}" in caplog.text
    assert "Held out by earlier repairs, right" in render_terminal(record)
    assert "which judge what is kept" in render_page(record, Pictures())
    digests = {entry.dataset.digest for entry in scene.repairs()[0].inputs.dataset_inputs}
    batches = logged_batches(scene.client, "cls")
    assert {batch.digest[:36] for batch in batches} <= digests

    # The job is named by them too. Without their roles it goes on without them; with the option off, without a word.
    found = find_earlier(scene.client, served.ref, batches[:1])
    assert found.roles.keys() == set.union(*before.values())
    sets = [each.digest for each in find_sets(scene.client, served.ref.run_id, None, None, None).values()]
    key = served.ref, [batches[1].digest], sets, options()
    assert record.job_key == job_key(*key, [batches[0].digest]) != job_key(*key)
    monkeypatch.setattr(stage, "repair_network", stopped)
    folder = scene.client.get_run(first.record.tracking.run_id).info.artifact_uri.removeprefix("file://")
    shutil.rmtree(f"{folder}/roles")
    notes = []
    for config in (options("seed=1"), options("seed=1", "method.replay_share=0")):
        with pytest.raises(Unforeseen, match="Stopped"):
            repair(config=config)
        assert (STOPPED[-1].split, STOPPED[-1].earlier) == (None, None)
        notes.append(scene.outcome(scene.repairs()[0].info.run_id).get("earlier", {}).get("note"))
    assert "have no part in this one" in notes[0]
    assert f"_failures.txt of run {first.record.tracking.run_id}, which made version 2, is not there" in notes[0]
    assert f"Warning: {notes[0]}" in caplog.text
    assert notes[0] in render_page(replace(record, earlier=EarlierFailures(note=notes[0])), Pictures())
    assert notes[1] is None
