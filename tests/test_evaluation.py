import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from repairops.data.records import CleanSet, FailureBatch, HeldOutFailures, ImageSet, InputSpec, Predictions
from repairops.errors import ChampionAtChance, ChampionNotFinite, NotAClassifier
from repairops.gate.evidence import PairedCounts, RepairCounts, expected_calibration_error
from repairops.model.evaluation import (
    Known,
    check_not_at_chance,
    evaluate,
    logits,
    paired_counts,
    predict,
    predictions,
    reliability,
    repaired_by,
)
from repairops.model.network import Classifier

NAMES = ("a", "b", "c")
SPEC = InputSpec(1, 2, 2, NAMES, mean=(0.5,), std=(0.5,))


class Readout(nn.Module):
    """Logit k is the k-th pixel (after normalisation) times a weight."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.dropout = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.dropout(x.flatten(1)[:, :3] * self.weight)


def image_set(winners, labels):
    """One image for each winner: that pixel is bright. Winner -1 is a black image."""
    pixels = torch.zeros(len(winners), 1, 2, 2, dtype=torch.uint8)
    for image, winner in zip(pixels, winners, strict=True):
        if winner >= 0:
            image.view(-1)[winner] = 255
    ids = np.array([f"{i}" for i in range(len(winners))])
    return ImageSet(pixels, np.array(labels, dtype=np.int64), NAMES, ids)


def failure_batch(images):
    n = len(images)
    empty = np.array([""] * n)
    return FailureBatch(images, np.zeros(n, np.int64), np.ones(n, np.float32), empty, empty)


def test_logits_are_those_of_the_normalised_image_whatever_the_batch_size():
    images = image_set([0, 1, 2, 1, 0], [0] * 5)
    classifier = Classifier(Readout(3.0), SPEC).train()
    expected = np.where(np.eye(3)[[0, 1, 2, 1, 0]] == 1, 3.0, -3.0)
    for batch_size in (1, 2, 5, 100):
        out = logits(classifier, images.pixels, batch_size=batch_size)
        assert out.dtype == np.float32
        assert out == pytest.approx(expected)
    assert logits(classifier, images.pixels[:0]).shape == (0, 3)


@pytest.mark.parametrize("rows", [slice(1), slice(0), [0, 0, 1, 2]])
def test_another_number_of_rows_than_of_images_is_refused(rows):
    class Odd(Readout):
        def forward(self, x):
            return super().forward(x)[rows]

    with pytest.raises(NotAClassifier, match=r"rows of logits for [23] images"):
        logits(Classifier(Odd(), SPEC), image_set([0, 1, 2, 1, 0], [0] * 5).pixels, batch_size=3)


def test_modes_and_weights_are_as_before():
    classifier = Classifier(Readout(), SPEC).train()
    classifier.network.norm.eval()
    before = [part.training for part in classifier.modules()]
    state = {k: v.clone() for k, v in classifier.state_dict().items()}
    images = image_set([0, 1], [0, 1])
    predict(classifier, images.pixels, images.labels)
    assert [part.training for part in classifier.modules()] == before
    assert all((classifier.state_dict()[k] == v).all() for k, v in state.items())
    classifier(torch.rand(2, 1, 2, 2)).sum().backward()  # and it can still be trained
    assert classifier.network.weight.grad is not None


def test_modes_are_restored_after_an_error():
    classifier = Classifier(Readout(), SPEC).train()
    with pytest.raises(NotAClassifier):
        logits(classifier, torch.zeros(2, 1, 1, 1, dtype=torch.uint8))
    assert classifier.training


def test_a_traced_network_is_evaluated_too():
    example = (torch.zeros(2, 1, 2, 2),)
    shapes = ({0: torch.export.Dim("batch")},)
    traced = torch.export.export(Readout(2.0).eval(), example, dynamic_shapes=shapes).module()
    images = image_set([0, 1, 2], [0, 1, 1])
    with pytest.raises(NotImplementedError):
        traced.eval()
    found = predict(Classifier(traced, SPEC), images.pixels, images.labels, batch_size=2)
    assert found.right.tolist() == [True, True, False]


def test_evaluation_runs_in_float32_inside_an_autocast_region():
    class Product(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3] @ torch.full((3, 3), 1 / 3)

    images = image_set([0, 1], [0, 1])
    plain = logits(Classifier(Product(), SPEC), images.pixels)
    with torch.autocast("cpu", torch.bfloat16):
        assert (logits(Classifier(Product(), SPEC), images.pixels) == plain).all()


def test_predictions_from_logits():
    found = predictions(np.array([[2.0, 0, 0], [0, 0, 1e30], [1, 5, 1]], np.float32), np.array([0, 2, 0]))
    assert found.labels.tolist() == [0, 2, 1]
    assert found.right.tolist() == [True, True, False]
    assert found.confidence == pytest.approx([math.e**2 / (math.e**2 + 2), 1, 1 / (1 + 2 * math.exp(-4))])
    assert found.accuracy == pytest.approx(2 / 3)


def test_outputs_that_are_not_finite_are_never_right():
    outputs = np.array([[np.nan, 0, 0], [np.inf, 0, 0], [-np.inf, 0, 1]], np.float32)
    found = predictions(outputs, np.array([0, 0, 2]))
    assert not found.right.any()
    assert np.isnan(found.confidence).all()


def test_paired_counts_know_their_direction():
    champion = np.array([1, 1, 1, 0, 0, 0, 0], bool)
    challenger = np.array([1, 1, 0, 1, 0, 0, 0], bool)
    assert paired_counts(champion, challenger) == PairedCounts(2, 1, 1, 3)
    assert paired_counts(champion, np.ones(7, bool)) == PairedCounts(3, 0, 4, 0)
    assert paired_counts(champion[:0], challenger[:0]) == PairedCounts(0, 0, 0, 0)


def test_evaluate_counts_clean_by_class_and_heldout():
    # The champion reads the bright pixel; the challenger, with a negative weight, the first dark one.
    clean = CleanSet(image_set([0, 0, 1, 1, -1], [0, 0, 0, 1, 0]))
    heldout = HeldOutFailures(failure_batch(image_set([0, 1, 1], [1, 0, 2])))
    champion, challenger = Classifier(Readout(1.0), SPEC), Classifier(Readout(-1.0), SPEC)
    found = evaluate(champion, challenger, clean, heldout)
    assert found.champion_clean.labels.tolist() == [0, 0, 1, 1, 0]
    assert found.challenger_clean.labels.tolist() == [1, 1, 0, 0, 0]
    assert found.clean == PairedCounts(1, 3, 1, 0)
    assert found.clean_by_class == {
        "a": PairedCounts(1, 2, 1, 0), "b": PairedCounts(0, 1, 0, 0), "c": PairedCounts(0, 0, 0, 0),
    }  # fmt: skip
    assert found.champion_heldout.right.tolist() == [False, False, False]
    assert (found.heldout_repaired, found.heldout_total) == (2, 3)
    assert found.champion_finite
    assert found.challenger_finite


def test_what_the_champion_has_answered_is_not_asked_again():
    """Its answers to failures are those of validation, unless a network in it gave them, as in a consolidation."""
    clean, images = CleanSet(image_set([0, 1, 2], [0, 1, 1])), image_set([0, 1, 2, 1], [1, 1, 1, 0])
    heldout = HeldOutFailures(failure_batch(images))
    champion, challenger = Classifier(Readout(), SPEC), Classifier(Readout(2.0), SPEC)
    known = Known(logits(champion, clean.images.pixels), failures=True)
    asked = []
    champion.network.register_forward_pre_hook(lambda module, given: asked.append(len(given[0])))
    found = evaluate(champion, challenger, clean, heldout, known=known)
    assert asked == []
    assert found.champion_clean.right.tolist() == [True, True, False]
    assert found.champion_heldout.labels.tolist() == heldout.batch.predicted.tolist()
    assert found.champion_heldout.confidence is heldout.batch.confidence
    assert found.champion_finite
    again = evaluate(champion, challenger, clean, heldout, known=replace(known, failures=False))
    assert asked == [4]
    assert again.champion_heldout.labels.tolist() == [0, 1, 2, 1]
    assert again.champion_heldout.right.tolist() == [False, True, False, False]


def test_evaluate_reports_outputs_that_are_not_finite():
    clean = CleanSet(image_set([0, 1], [0, 1]))
    heldout = HeldOutFailures(failure_batch(image_set([], [])))
    found = evaluate(Classifier(Readout(), SPEC), Classifier(Readout(math.nan), SPEC), clean, heldout)
    assert (found.champion_finite, found.challenger_finite) == (True, False)
    assert found.clean == PairedCounts(0, 2, 0, 0)


# Chance


def answers(labels, given):
    return Predictions(np.array(given), np.ones(len(given), np.float32), np.array(given) == np.array(labels))


def test_random_answers_and_a_wrong_class_order_are_at_chance():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 1000)
    with pytest.raises(ChampionAtChance, match="of 1000 clean images right"):
        check_not_at_chance(answers(labels, rng.integers(0, 10, 1000)), labels, 10)
    with pytest.raises(ChampionAtChance):
        check_not_at_chance(answers(labels, (labels + 3) % 10), labels, 10)


def test_always_the_majority_is_at_chance_and_skill_on_a_skewed_set_is_not():
    labels = np.array([0] * 950 + [1] * 50)
    with pytest.raises(ChampionAtChance):
        check_not_at_chance(answers(labels, np.zeros(1000, int)), labels, 2)
    skilled = labels.copy()
    skilled[:40], skilled[-10:] = 1, 0
    check_not_at_chance(answers(labels, skilled), labels, 2)


def test_a_champion_that_answers_nan_alone_is_said_to():
    labels = np.array([0, 1, 0, 1])
    with pytest.raises(ChampionNotFinite, match="each of 4 clean images"):
        check_not_at_chance(predictions(np.full((4, 2), np.nan, np.float32), labels), labels, 2)
    some = np.array([[np.nan, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    check_not_at_chance(predictions(some, labels), labels, 2)  # its gate is inconclusive


def test_poor_but_real_skill_is_not_at_chance():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 1000)
    poor = np.where(rng.random(1000) < 0.08, labels, rng.integers(0, 10, 1000))  # about 17% right
    check_not_at_chance(answers(labels, poor), labels, 10)


@pytest.mark.parametrize("labels", [[], [0], [0, 1], [2, 2, 2, 2]])
def test_small_sets_all_right_are_not_at_chance(labels):
    labels = np.array(labels, dtype=np.int64)
    check_not_at_chance(answers(labels, labels), labels, 3)


def test_repaired_by_given_and_by_found_parts():
    right = np.array([True, False, True, True])
    clusters = repaired_by(right, np.array([0, 0, 2, 2]), ["0", "1", "2"])
    assert clusters == {"0": RepairCounts(1, 2), "1": RepairCounts(0, 0), "2": RepairCounts(2, 2)}
    sources = repaired_by(right, np.array(["b", "", "a", "a"]))
    assert list(sources.items()) == [("a", RepairCounts(2, 2)), ("b", RepairCounts(1, 1))]
    assert repaired_by(right[:0], np.empty(0, np.int64), ["0"]) == {"0": RepairCounts(0, 0)}


def test_reliability_bins_hold_every_finite_answer_once():
    confidence = np.array([0.05, 0.09, 0.95, 1.0, np.nan, 0.0], np.float32)
    right = np.array([True, False, True, True, False, False])
    bins = reliability(Predictions(np.zeros(6, np.int64), confidence, right), bins=10)
    assert [(b.n, b.right) for b in bins] == [(3, 1), *[(0, 0)] * 8, (2, 2)]
    assert bins[-1].confidence == pytest.approx(0.975)
    assert (bins[0].low, bins[-1].high) == (0.0, 1.0)
    error = expected_calibration_error(bins)
    assert error == pytest.approx((abs(1 - 0.14) + abs(2 - 1.95)) / 5)
    assert math.isnan(expected_calibration_error(reliability(Predictions(*(np.empty(0),) * 3))))


def test_confidence_that_equals_accuracy_has_no_calibration_error():
    draw = np.random.default_rng(0)
    confidence = draw.uniform(0.1, 1.0, 200_000)
    honest = Predictions(np.zeros(200_000, np.int64), confidence.astype(np.float32), draw.random(200_000) < confidence)
    assert expected_calibration_error(reliability(honest)) < 0.01
    boastful = Predictions(honest.labels, np.minimum(honest.confidence + 0.2, 1.0), honest.right)
    assert expected_calibration_error(reliability(boastful)) > 0.1
