"""Failures with wrong labels: found by networks that saw no failure's label, listed, or taken out of every part."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator
from training_helpers import NAMES, SPEC, champion, degrade, digits, failure_batch, image_set

from repairops.config import Config, GuardConfig, TrainingConfig, ValidationConfig
from repairops.core.clustering import cluster_parts
from repairops.core.looks import fit_to_failures
from repairops.core.parts import RepairInputs, TrainingParts, cut_parts
from repairops.core.repair import Watch, repair_network
from repairops.core.styles import Style
from repairops.core.suspects import Renumbered, find_suspects, without_suspects
from repairops.data.records import FailureBatch, FailureSplit, HeldOutFailures
from repairops.data.split import split_failures
from repairops.model.evaluation import predict
from repairops.model.network import Classifier, from_unit, to_unit
from repairops.outcome.given import SuspectLabels

pytestmark = pytest.mark.usefixtures("few_trials")
CPU = torch.device("cpu")


@cache
def batch(wrong_share: float = 0.1) -> tuple[FailureBatch, frozenset[str]]:
    """Failures under noise and low contrast, of which some have another label than the true one: with the ids of these.

    A wrong label is neither the true one nor the champion's answer, as what is logged as a failure.
    """
    _, unseen = digits()
    pixels = torch.cat([from_unit(degrade(to_unit(unseen.pixels), seed)) for seed in (1, 2)])
    truth = np.tile(unseen.labels, 2)
    answers = predict(champion(), pixels, truth)
    wrong = np.flatnonzero(~answers.right)
    labels, predicted = truth[wrong], answers.labels[wrong]
    draw = np.random.default_rng(0)
    chosen = draw.permutation(len(wrong))[: round(wrong_share * len(wrong))]
    for row in chosen.tolist():
        labels[row] = draw.choice([k for k in range(len(NAMES)) if k not in (labels[row], predicted[row])])
    images = image_set(pixels[torch.from_numpy(wrong)], labels)
    return failure_batch(images, predicted), frozenset(images.sample_ids[chosen].tolist())


@cache
def asked(wrong_share: float = 0.1) -> tuple[FailureSplit, TrainingParts, Style]:
    failures, _ = batch(wrong_share)
    train, unseen = digits()
    split = split_failures(
        failures, heldout_fraction=0.3, validation_fraction=0.2, near_duplicate_similarity=1.0, seed=0
    )
    training = TrainingConfig(device="cpu")
    parts = cut_parts(train, unseen.subset(np.arange(300)), split.repair, split.validation, None, training, seed=0)
    parts = dataclasses.replace(parts, clusters=cluster_parts(parts, Config().clustering, seed=0))
    return split, parts, fit_to_failures(parts, champion(), Config().style, CPU, seed=0)


@cache
def found(wrong_share: float = 0.1) -> SuspectLabels:
    return find_suspects(champion(), *asked(wrong_share), CPU, "report", seed=0)


def test_many_wrong_labels_are_listed_and_few_right_ones() -> None:
    failures, wrong = batch()
    listed = [suspect.sample_id for suspect in found().listed]
    hits = len(wrong & set(listed))
    assert hits >= 0.35 * len(wrong)
    assert len(listed) - hits <= 0.04 * len(failures)
    assert (found().asked, found().note) == (len(failures), "")
    assert found().by_chance == pytest.approx(0.02 * len(failures))
    chances = [suspect.label_chance for suspect in found().listed]
    assert chances == sorted(chances)
    assert max(chances) < 0.05
    assert all(suspect.label != suspect.answer for suspect in found().listed)
    assert {suspect.part for suspect in found().listed} == {"repair", "validation", "heldout"}


def test_without_wrong_labels_few_are_listed() -> None:
    failures, _ = batch(0.0)
    assert len(found(0.0).listed) <= 0.04 * len(failures)


def turned(failures: FailureBatch) -> FailureBatch:
    """Each with the label of the next class."""
    labels = (failures.images.labels + 1) % len(NAMES)
    return dataclasses.replace(failures, images=dataclasses.replace(failures.images, labels=labels))


def test_no_label_of_a_failure_has_a_part_in_what_doubts_another() -> None:
    split, parts, style = asked()
    repair = turned(split.repair)
    half = np.arange(len(repair) // 4)  # so that not too many look wrong
    other = dataclasses.replace(split, repair=repair.subset(half))
    again = find_suspects(champion(), other, dataclasses.replace(parts, failures=repair), style, CPU, "report", seed=0)
    of_others = [[each for each in suspects.listed if each.part != "repair"] for suspects in (found(), again)]
    assert of_others[0] == of_others[1]
    assert len(again.listed) > len(found().listed)


def test_where_most_labels_look_wrong_none_is_listed() -> None:
    split, parts, style = asked()
    wrong = FailureSplit(turned(split.repair), turned(split.validation), HeldOutFailures(turned(split.heldout.batch)))
    none = find_suspects(champion(), wrong, parts, style, CPU, "report", seed=0)
    assert none.listed == ()
    assert "more likely they do not know it" in none.note


def test_too_few_known_images_say_so() -> None:
    split, parts, style = asked()
    none = find_suspects(
        champion(), split, dataclasses.replace(parts, choosing=parts.choosing.subset(np.arange(0))), style, CPU,
        "report", seed=0,
    )  # fmt: skip
    assert (none.listed, none.known) == ((), 0)
    assert "too few to tell wrong labels by" in none.note


def test_quarantine_takes_them_out_of_every_part_and_the_look_stays() -> None:
    split, parts, style = asked()
    after, kept, restyles, taken = without_suspects(found(), split, parts, style)
    listed = {suspect.sample_id for suspect in found().listed}
    for before, fewer, name in zip(
        (split.repair, split.validation, split.heldout.batch),
        (after.repair, after.validation, after.heldout.batch),
        ("repair", "validation", "heldout"),
        strict=True,
    ):
        ids = [i for i in before.images.sample_ids.tolist() if i not in listed]
        assert fewer.images.sample_ids.tolist() == ids
        assert taken.quarantined[name] == len(before) - len(fewer) > 0
    assert kept.failures is after.repair
    assert kept.validation is after.validation
    clusters = kept.clusters
    assert len(clusters.assignments) == len(clusters.distances) == len(after.repair)
    sums = np.bincount(clusters.assignments, clusters.probabilities)
    assert sums == pytest.approx(np.ones(parts.clusters.count))
    rows = [split.repair.images.sample_ids.tolist().index(i) for i in after.repair.images.sample_ids.tolist()]
    content, references = to_unit(parts.sample.pixels[:20]), torch.arange(20)
    same = style.apply(content, torch.tensor(rows[:20]), Generator().manual_seed(1))
    assert torch.equal(restyles.apply(content, references, Generator().manual_seed(1)), same)
    assert isinstance(restyles, Renumbered)


def test_a_cluster_of_suspects_keeps_its_failures() -> None:
    split, parts, style = asked()
    alone = next(suspect.sample_id for suspect in found().listed if suspect.part == "repair")
    row = split.repair.images.sample_ids.tolist().index(alone)
    assignments = np.zeros(len(split.repair), np.int64)
    assignments[row] = 1
    clusters = dataclasses.replace(parts.clusters, assignments=assignments)
    after, kept, _, _ = without_suspects(found(), split, dataclasses.replace(parts, clusters=clusters), style)
    assert alone in after.repair.images.sample_ids
    assert kept.clusters.count == 2


@pytest.mark.parametrize(
    "mode", [pytest.param("report", marks=pytest.mark.long), "quarantine", pytest.param("off", marks=pytest.mark.long)]
)
def test_the_repair_looks_as_it_is_told(mode: str, tmp_path: Path) -> None:
    """Reported ones stay where they were; taken out they train, choose and judge no more; off looks at nothing."""
    failures, _ = batch()
    train, unseen = digits()
    seen: list[SuspectLabels] = []

    class Looks(Watch):
        shows_suspects = True

        def on_suspects(self, before: FailureSplit, after: FailureSplit, found: SuspectLabels) -> None:
            seen.append(found)
            assert (before is after) == (mode == "report")

    config = Config(
        seed=0,
        validation=ValidationConfig(suspect_labels=mode),
        training=TrainingConfig(epochs=1, crop_padding=0, device="cpu"),
        guard=GuardConfig(mode="off"),
    )
    given = RepairInputs(train, failures, unseen.subset(np.arange(300)))
    repaired = repair_network(champion(), given, config, work_dir=tmp_path, watch=Looks())
    left = sum(map(len, (repaired.split.repair, repaired.split.validation, repaired.split.heldout.batch)))
    assert len(seen) == (mode != "off")
    taken = sum(seen[0].quarantined.values()) if seen else 0
    assert left == len(failures) - taken
    assert (taken > 0) == (mode == "quarantine")
    assert len(repaired.clusters.assignments) == len(repaired.split.repair)


def test_a_traced_champion_is_asked_too() -> None:
    """As MLflow's pt2 gives it back: it refuses the plain switch of mode."""
    example = torch.zeros(4, 1, 8, 8)
    program = torch.export.export(champion().network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    traced = find_suspects(Classifier(program.module(), SPEC), *asked(), CPU, "report", seed=0)
    assert traced.listed
    assert traced.known == found().known
