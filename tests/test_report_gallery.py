"""Pictures and changed answers that the page gets from a repair."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from guard_helpers import images as bright_images
from guard_helpers import pair
from report_helpers import digits
from sklearn.datasets import load_digits
from store_helpers import SPEC

from repairops.config import StyleConfig
from repairops.core.parts import TrainingParts
from repairops.core.styles import Style, fit_style
from repairops.data.records import CleanSet, Clusters, FailureBatch, HeldOutFailures, ImageSet
from repairops.data.sets import from_arrays
from repairops.gate.evidence import RepairCounts
from repairops.model.evaluation import Evaluation, evaluate, evaluation_of, predictions
from repairops.model.network import to_unit
from repairops.model.routing import networks_of
from repairops.outcome.sections import Confusion, WrongAnswer
from repairops.stages.gallery import (
    changed_answers,
    flipped_images,
    guarded_images,
    judged_failures,
    repaired_by_class,
    style_grid,
    style_samples,
)

NAMES = tuple("0123456789")


def images(first: int, last: int) -> ImageSet:
    return from_arrays(digits()[first:last, 0], load_digits().target[first:last], NAMES)


def batch(first: int, last: int) -> FailureBatch:
    found = images(first, last)
    blank = np.full(len(found), "")
    return FailureBatch(found, (found.labels + 1) % 10, np.ones(len(found), np.float32), blank, blank)


def fitted(name: str, failures: FailureBatch, train: ImageSet) -> Style:
    generator = torch.Generator().manual_seed(0)
    return fit_style(name, to_unit(failures.images.pixels), to_unit(train.pixels), StyleConfig(), generator)


def clusters(assignments: list[int]) -> Clusters:
    """Distances grow with the index, so that a cluster's members come in order."""
    n = len(assignments)
    return Clusters(np.array(assignments), np.arange(n, dtype=np.float32), np.full(n, 1 / n))


def training_parts(train: ImageSet, failures: FailureBatch, assignments: list[int]) -> TrainingParts:
    nothing = failures.subset(np.arange(0))
    return TrainingParts(train, np.arange(len(train)), train, False, failures, nothing, clusters(assignments))


def outputs(answers: np.ndarray) -> np.ndarray:
    """Logits of these answers, the later ones more confident."""
    found = np.zeros((len(answers), 10), np.float32)
    found[np.arange(len(answers)), answers] = 3 + np.arange(len(answers))
    return found


def test_samples_are_a_failure_a_reference_and_a_train_image_in_its_style() -> None:
    failures, train = batch(0, 9), images(100, 400)
    parts = training_parts(train, failures, [0, 0, 0, 0, 0, 0, 0, 1, 1])
    found = style_samples(parts, fitted("subband_wct", failures, train), per_cluster=3, seed=0)
    number = {pixels.tobytes(): n for n, pixels in enumerate(failures.images.pixels.numpy())}
    places = [(s.cluster, number[s.failure.tobytes()], number[s.reference.tobytes()]) for s in found]
    assert places == [
        (0, 3, 0),  # the reference is nearest to the centre, the failure from the middle of the cluster outwards
        (0, 4, 1),
        (0, 6, 2),
        (1, 8, 7),
        (1, 8, 8),
    ]
    known = {image.tobytes(): label for image, label in zip(train.pixels.numpy(), train.labels, strict=True)}
    assert [known[s.content.tobytes()] for s in found] == failures.images.labels[[r for _, _, r in places]].tolist()
    pair = found[0]
    assert [role for role, _ in pair.images] == ["failure", "reference", "content", "styled"]
    assert np.array_equal(pair.failure, failures.images.pixels[3].numpy())
    assert np.array_equal(pair.reference, failures.images.pixels[0].numpy())
    assert (pair.label, pair.predicted) == (NAMES[failures.images.labels[3]], NAMES[failures.predicted[3]])
    assert not np.array_equal(pair.styled, pair.content)
    grid = style_grid(found)
    assert grid.dtype == np.uint8
    assert grid.shape[1] > 4 * grid.shape[0]  # two rows of nine pictures, the second one shorter


def test_a_cluster_of_one_is_its_own_reference() -> None:
    failures, train = batch(0, 1), images(100, 200)
    parts = training_parts(train, failures, [0])
    (only,) = style_samples(parts, fitted("subband_wct", failures, train), per_cluster=4, seed=0)
    assert np.array_equal(only.failure, only.reference)
    assert np.array_equal(only.failure, failures.images.pixels[0].numpy())


def evaluation() -> tuple[Evaluation, CleanSet, HeldOutFailures]:
    """The champion takes every 3 of the failures for an 8; the challenger has them right but takes two 5 for a 6."""
    clean, heldout = CleanSet(images(200, 260)), HeldOutFailures(batch(300, 360))
    labels, failed = clean.images.labels, heldout.batch.images.labels
    before, wrong = labels.copy(), np.where(failed == 3, 8, (failed + 1) % 10)
    after, repaired = labels.copy(), np.where(failed == 3, 3, wrong)
    after[np.flatnonzero(labels == 5)[:2]] = 6
    champions = predictions(outputs(wrong), failed)
    found = evaluation_of(outputs(before), champions, [outputs(after), outputs(repaired)], clean, heldout)
    return found, clean, heldout


def test_changed_answers_are_counts_of_the_wrong_ones_that_differ() -> None:
    found, clean, heldout = evaluation()
    threes = int((heldout.batch.images.labels == 3).sum())
    assert changed_answers(found, clean, heldout) == Confusion(
        heldout=(WrongAnswer("3", "8", threes, 0),), clean=(WrongAnswer("5", "6", 0, 2),)
    )
    by_class = repaired_by_class(found, heldout)
    assert by_class["3"] == RepairCounts(threes, threes)
    assert sum(counts.total for counts in by_class.values()) == 60
    assert sum(counts.repaired for counts in by_class.values()) == threes


def test_negative_flips_come_with_both_answers_most_confident_first() -> None:
    found, clean, _ = evaluation()
    flips = flipped_images(found, clean, limit=5)
    places = np.flatnonzero(clean.images.labels == 5)[:2]
    assert [(flip.label, flip.champion, flip.challenger) for flip in flips] == [("5", "5", "6")] * 2
    assert torch.equal(torch.from_numpy(flips[0].image), clean.images.pixels[int(places[1])])
    assert len(flipped_images(found, clean, limit=1)) == 1


def test_judged_failures_come_from_all_clusters_with_both_answers() -> None:
    found, _, heldout = evaluation()
    labels, after = heldout.batch.images.labels, found.challenger_heldout
    threes, others = np.flatnonzero(labels == 3), np.flatnonzero(labels != 3)
    nearest = np.zeros(60, np.int64)
    nearest[others[-2:]] = 1  # a cluster of two, both still wrong
    right, wrong = judged_failures(found, heldout, nearest, limit=6)
    assert {(f.label, f.champion, f.challenger, f.cluster) for f in right} == {("3", "8", "3", 0)}
    assert len(right) == min(6, len(threes))
    assert [f.cluster for f in wrong] == [0, 0, 0, 0, 1, 1]
    for part in (wrong[:4], wrong[4:]):
        assert [f.label for f in part] == sorted(f.label for f in part)
    sure = np.sort(after.confidence[others[:-2]])[-4:]
    assert sorted(f.challenger_confidence for f in wrong[:4]) == pytest.approx(sure.tolist())
    assert all(f.challenger == str((int(f.label) + 1) % 10) == f.champion for f in wrong)


def test_images_that_the_guard_gets_wrong_come_most_confident_first() -> None:
    """Bright clean images are sent away, dark failures are missed; one network has neither."""
    served, names = pair(), SPEC.class_names
    clean = CleanSet(from_arrays(bright_images(0.2, 0.7, 0.9, 0.3), [0, 1, 2, 3], names))
    failures = from_arrays(bright_images(0.8, 0.4, 0.1), [1, 2, 3], names)
    blank = np.full(3, "")
    heldout = HeldOutFailures(FailureBatch(failures, np.zeros(3, np.int64), np.ones(3, np.float32), blank, blank))
    found = evaluate(served, served, clean, heldout)
    away, missed = guarded_images(found, clean, heldout)
    assert [names.index(shown.label) for shown in away] == [2, 1]
    assert [names.index(shown.label) for shown in missed] == [3, 2]
    assert away[0].probability > away[1].probability > 0.5 > missed[1].probability > missed[0].probability
    assert [names.index(shown.answer) for shown in away] == found.challenger_clean.labels[[2, 1]].tolist()
    assert np.array_equal(missed[0].image, failures.pixels[2].numpy())
    assert len(guarded_images(found, clean, heldout, limit=1)[0]) == 1
    one = networks_of(served)[0]
    assert guarded_images(evaluate(served, one, clean, heldout), clean, heldout) == ([], [])
