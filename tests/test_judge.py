"""The evidence that a job weighs: each figure is of the network and of the images that it is called by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_helpers import SPEC, TinyNet, digit_set

from repairops.config import ImagesConfig, derive_seed, load_config
from repairops.core.clustering import cluster_failures
from repairops.core.repair import Repaired
from repairops.core.training import TrainingResult
from repairops.data.records import CleanSet, FailureBatch, FailureSplit, HeldOutFailures
from repairops.data.sets import load_image_set, write_parquet
from repairops.gate.evidence import Calibration, Evidence, ParityCounts
from repairops.model.corrupted import corrupted_counts
from repairops.model.evaluation import evaluate, paired_counts, predict, reliability
from repairops.model.network import Classifier
from repairops.model.onnx import export_onnx
from repairops.outcome.sections import Form
from repairops.stages.job import Job
from repairops.stages.judge import _beside_champion, weigh
from repairops.store.champion import Champion
from repairops.store.connection import connect
from repairops.store.jobs import JobRun
from repairops.store.models import ModelRef

REF = ModelRef("cls", "1", "prod", "")
TRAINING = TrainingResult(0, {}, [], "", 0.0, 0.0, "cpu", 0, 0, 0, {}, {}, False, False, 1)
pytestmark = pytest.mark.filterwarnings("ignore")


def failures(count: int, start: int) -> FailureBatch:
    """Digits as failures from two cameras."""
    names = np.array([f"camera {1 + i % 2}" for i in range(count)])
    blank = np.full(count, "")
    return FailureBatch(digit_set(count, start), np.zeros(count, np.int64), np.ones(count, np.float32), blank, names)


def test_each_figure_is_of_the_network_that_it_names(registry: str, tmp_path: Path) -> None:
    client = connect()
    options = ["training.device=cpu", "gate.corruptions=advisory", "gate.clean_slices=site"]
    run = JobRun(client, client.create_run("0").info.run_id)
    job = Job(run, "key", tmp_path, REF, [], load_config(overrides=options))
    write_parquet(digit_set(40), tmp_path / "clean.parquet")
    table = pq.read_table(tmp_path / "clean.parquet").append_column("site", pa.array(["north", "south"] * 20))
    pq.write_table(table, tmp_path / "clean.parquet")
    clean = CleanSet(load_image_set(tmp_path / "clean.parquet", SPEC, ImagesConfig()))
    champion, challenger = (Classifier(TinyNet(seed=seed).eval(), SPEC) for seed in (0, 5))
    split = FailureSplit(failures(12, 50), failures(4, 70), HeldOutFailures(failures(9, 80)))
    clusters = cluster_failures(split.repair, clusters=2, per_class=False, restarts=1, seed=0)
    # What a network answers without a finite number is told apart too.
    found = replace(evaluate(champion, challenger, clean, split.heldout), challenger_finite=False)

    stored = Champion(REF, champion, tmp_path, "pickle", {})
    repaired = Repaired(
        challenger, challenger, challenger, Form(), split, clusters, None, job.config.method, TRAINING, [], []
    )
    evidence = weigh(job, stored, repaired, clean, None, found, None)

    how = {"limit": job.config.gate.corruption_images, "seed": derive_seed(job.config.seed, "gate")}
    assert evidence.corruptions == corrupted_counts(champion, challenger, clean.images, **how)
    assert any(counts.champion_only or counts.challenger_only for counts in evidence.corruptions.values())
    images = clean.images
    before, after = (predict(each, images.pixels, images.labels) for each in (champion, challenger))
    assert evidence.calibration == Calibration(reliability(before), reliability(after))
    assert reliability(before) != reliability(after)
    assert (evidence.champion_finite, evidence.challenger_finite) == (True, False)
    assert [(part.of, part.column, part.value) for part in evidence.slices] == [
        ("failures", "source", "camera 1"),
        ("failures", "source", "camera 2"),
        ("clean", "site", "north"),
        ("clean", "site", "south"),
    ]
    heldout = split.heldout.batch.images
    right = int(predict(challenger, heldout.pixels, heldout.labels).right.sum())
    assert (evidence.heldout_repaired, evidence.heldout_total) == (right, 9)
    assert sum(counts.total for counts in evidence.heldout_by_cluster.values()) == 9


def test_the_onnx_accuracies_are_the_champions_and_the_challengers(registry: str, tmp_path: Path) -> None:
    client = connect()
    run = JobRun(client, client.create_run("0").info.run_id)
    options = ["training.device=cpu", "gate.latency=off"]
    job = Job(run, "key", tmp_path, REF, [], load_config(overrides=options))
    images = digit_set(37)
    champion, challenger = (Classifier(TinyNet(seed=seed).eval(), SPEC) for seed in (0, 5))
    before, after = (predict(each, images.pixels, images.labels).right for each in (champion, challenger))
    counts = paired_counts(before, after)
    assert counts.champion_right != counts.challenger_right
    export_onnx(challenger.network, SPEC, tmp_path / "challenger.onnx")
    stored = Champion(REF, champion, tmp_path, "pickle", {})
    nothing = Evidence(counts, {}, 0, 0, ParityCounts())
    found = _beside_champion(job, stored, CleanSet(images), nothing, after, (images.pixels, images.pixels[:0]))
    assert found.onnx_accuracy is not None
    assert found.onnx_accuracy.counts == counts
    sizes = [(tmp_path / f"{who}.onnx").stat().st_size for who in ("challenger", "champion")]
    assert job.record.artifacts is not None
    assert [job.record.artifacts.onnx_bytes, job.record.artifacts.champion_onnx_bytes] == sizes
