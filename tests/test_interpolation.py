"""Weights between champion and fine-tuned network: exact ends, a line between, and the point that the rule takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import CONFIG, CPU, fine_tune, run
from training_helpers import champion, digits, parts_of

from repairops.core.training import TrainingResult
from repairops.core.training.interpolation import (
    between,
    bound_losses,
    choose_point,
    choose_remembered,
    interpolate,
    smooth_losses,
    trade_off,
)
from repairops.core.training.state import count_right, right_answers
from repairops.model.network import Classifier
from repairops.outcome.sections import Point


def test_both_ends_are_exact_and_the_middle_is_the_mean_of_weights_and_running_statistics() -> None:
    generator = torch.Generator().manual_seed(0)
    start = {name: value.clone() for name, value in champion().state_dict().items()}
    end = {
        name: value + torch.randn(value.shape, generator=generator) if value.is_floating_point() else value + 7
        for name, value in start.items()
    }
    first, middle, last = (interpolate(start, end, weight) for weight in (0.0, 0.5, 1.0))
    for name, value in end.items():
        assert middle[name].dtype == value.dtype
        assert torch.equal(last[name], value)
        if value.is_floating_point():
            assert torch.equal(first[name], start[name])
            torch.testing.assert_close(middle[name], (start[name] + value) / 2)
        else:
            assert torch.equal(middle[name], value)  # batches that were counted
    assert any("running_var" in name for name in end)
    assert last["network.layers.0.weight"].data_ptr() != end["network.layers.0.weight"].data_ptr()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], TrainingResult]:
    """The state and the result of one short training."""
    classifier = champion()
    result = run(classifier, tmp_path_factory.mktemp("training"), fine_tune)
    return classifier.state_dict(), result


def tuned(state: dict[str, torch.Tensor]) -> Classifier:
    classifier = champion()
    classifier.load_state_dict(state)
    return classifier


def test_the_line_is_measured_on_validation_parts_and_the_chosen_point_stays(trained) -> None:
    state, result = trained
    fine_tuned, parts = tuned(state), parts_of(CONFIG)
    points = trade_off(champion(), fine_tuned, parts, result, CONFIG)
    assert [point.weight for point in points] == pytest.approx([step / 10 for step in range(11)])
    assert points[0].validation_accuracy == result.champion["validation_accuracy"]
    assert points[0].validation_repair_rate == 0  # failures are the champion's
    best = result.history[result.best_epoch - 1]
    assert points[-1].validation_accuracy == best["validation_accuracy"]
    assert points[-1].validation_repair_rate == best["validation_repair_rate"]
    (chosen,) = [point for point in points if point.chosen]
    assert chosen.validation_repair_rate >= points[-1].validation_repair_rate
    classifier, validation, part = between(champion(), fine_tuned, points), parts.validation, parts.choosing
    assert count_right(classifier, validation.images, CPU) == chosen.validation_repair_rate * len(validation)
    assert count_right(classifier, part, CPU) == chosen.validation_accuracy * len(part)
    assert not classifier.training
    assert all(torch.equal(value, state[name]) for name, value in fine_tuned.state_dict().items())  # it stays


def test_nothing_to_choose_leaves_the_weights_as_they_are(trained) -> None:
    state, result = trained
    parts, none = parts_of(CONFIG), np.arange(0)
    cases = [
        (dataclasses.replace(CONFIG, interpolation=0), result, parts),
        (CONFIG, dataclasses.replace(result, best_epoch=0), parts),
        (CONFIG, result, dataclasses.replace(parts, validation=parts.validation.subset(none))),
        (CONFIG, result, dataclasses.replace(parts, choosing=parts.choosing.subset(none))),
    ]
    for config, found, given in cases:
        classifier = tuned(state)
        points = trade_off(champion(), classifier, given, found, config)
        assert points == []
        classifier = between(champion(), classifier, points)
        assert all(torch.equal(value, state[name]) for name, value in classifier.state_dict().items())


def result_with(best_clean: int, result: TrainingResult) -> TrainingResult:
    history = [{"validation_right": best_clean}]
    return dataclasses.replace(result, history=history, best_epoch=1, validation_images=1000, validation_failures=100)


def choose(points: list[tuple[int, int]], confidence: float) -> int:
    """On 1,000 images, of which each point gets the first ones right."""
    weights = [1 - index / (len(points) - 1) for index in range(len(points))]
    clean = np.array([np.arange(1000) < right for right, _ in points])
    return choose_point(weights, clean, [repaired for _, repaired in points], 0.5, confidence)


@pytest.mark.parametrize(
    ("points", "chosen"),
    [
        # (clean images, failures) right, from the fine-tuned network to the champion
        ([(900, 60), (940, 60), (970, 30), (990, 0)], 0),  # no gain counts above the best epoch: the earlier one
        ([(900, 60), (900, 64), (990, 0)], 1),  # more repaired
        ([(900, 60), (880, 70), (990, 0)], 0),  # more repaired, but clean accuracy is not kept
        ([(890, 60), (899, 60), (990, 0)], 1),  # as many repaired, and better on clean images
        ([(900, 60), (980, 59), (990, 0)], 0),  # what the champion remembers does not raise the bar
    ],
)
def test_the_rule_of_the_epochs_picks_the_point(trained, points: list[tuple[int, int]], chosen: int) -> None:
    clean, repaired = zip(*points, strict=True)
    assert choose_remembered(clean, repaired, result_with(900, trained[1]), 0.5) == chosen


def test_what_has_forgotten_a_quarter_of_the_remembered_images_is_not_chosen(trained) -> None:
    """Memory explains 100 of 1,000 images; a point nearer to the champion is taken, or the champion."""
    repaired, result = [90, 85, 40, 0], result_with(990, trained[1])  # an epoch's best does not count above this
    assert choose_remembered([740, 860, 990, 990], repaired, result, 0.5) == 2
    result = result_with(740, trained[1])
    assert choose_remembered([740, 760, 800, 990], repaired, result, 0.5) == 3
    assert choose_remembered([895, 900, 985, 990], repaired, result_with(895, trained[1]), 0.5) == 0


@pytest.mark.parametrize(
    ("points", "chosen"),
    [
        # 1,000 images, of which 5 may be lost; the loss grows with the square of the weight
        ([(880, 60), (895, 50), (898, 30), (900, 0)], 2),  # 20 at the end: 8.9 and 2.2 on the way
        ([(890, 60), (895, 50), (899, 30), (900, 0)], 1),  # 10 at the end: 4.4 and 1.1
        ([(890, 60), (886, 50), (899, 30), (900, 0)], 2),  # a point that lies far below pulls the curve down
        ([(880, 60), (900, 50), (903, 30), (900, 0)], 2),  # that a point seems to lose nothing does not allow it
        ([(895, 60), (900, 60), (899, 60), (900, 0)], 2),  # as many repaired, and least lost
        ([(905, 60), (903, 61), (902, 30), (900, 0)], 1),  # nothing is lost: most repaired
        ([(700, 60), (800, 50), (870, 30), (900, 0)], 3),  # no point keeps clean accuracy: the champion
        (
            [(897, 90), (700, 40), (880, 14), (900, 0)],
            0,
        ),  # a barrier on the way: the end keeps clean accuracy, no other
        ([(894, 90), (700, 40), (880, 14), (900, 0)], 3),  # 6 are more than 5
    ],
)
def test_on_unseen_images_the_smoothed_loss_against_the_champion_is_held(points, chosen: int) -> None:
    assert choose(points, confidence=0.5) == chosen


@pytest.mark.parametrize(
    ("points", "chosen"),
    [
        ([(880, 60), (895, 50), (898, 30), (900, 0)], 2),  # 20 at the end: 2.2 on the way, and 2.5 for chance
        ([(870, 60), (890, 50), (896, 30), (900, 0)], 3),  # 30: 3.5, and 3
        ([(899, 60), (900, 50), (900, 30), (900, 0)], 0),  # few answers change, so nearly nothing may be lost
        ([(897, 90), (700, 40), (880, 14), (900, 0)], 3),  # that 3 are lost does not say that 5 are not
    ],
)
def test_a_point_is_chosen_by_what_it_may_lose(points, chosen: int) -> None:
    assert choose(points, confidence=0.95) == chosen


def test_fewer_images_allow_a_smaller_step() -> None:
    """The same shares won and lost: on 500 images less of the way is borne out than on 8,000."""
    weights, steps = [step / 10 for step in range(10, -1, -1)], []
    for images in (500, 8000):
        champion, clean = np.arange(images) < 0.9 * images, []
        for weight in weights:
            right = champion.copy()
            right[: round(0.03 * weight * images)] = False
            right[images - round(0.03 * weight * images) :] = True
            clean.append(right)
        steps.append(weights[choose_point(weights, np.array(clean), list(range(10, -1, -1)), 0.5, 0.95)])
    assert 0 < steps[0] < steps[1]


def test_the_curve_is_closer_to_the_true_losses_than_single_points_are() -> None:
    """Losses of 2 points in the end, counted on 2,000 images of which 6% change their answer at the end."""
    weights = [step / 10 for step in range(10, -1, -1)]
    true = np.array([0.02 * weight**2 for weight in weights])
    random, errors = np.random.default_rng(0), {"points": [], "curve": []}
    for _ in range(200):
        changes = random.random(2000)  # an image changes its answer from its own weight on, most of them for the worse
        sign = np.where(random.random(2000) < 2 / 3, 1, -1)
        seen = [float((sign * (changes < 0.06 * weight**2)).sum()) / 2000 for weight in weights]
        errors["points"].append(np.square(seen - true).mean())
        errors["curve"].append(np.square(np.array(smooth_losses(weights, seen)) - true).mean())
        assert smooth_losses(weights, seen)[-1] == 0
    assert np.mean(errors["curve"]) < np.mean(errors["points"])
    assert smooth_losses([1.0, 0.5, 0.0], [-0.02, -0.01, 0.0]) == [0, 0, 0]  # gains lose nothing


def test_unseen_images_take_the_place_of_the_train_set_s_validation_part(tmp_path: Path) -> None:
    train_set, unseen = digits()
    classifier = champion()
    result = run(classifier, tmp_path, fine_tune, unseen=unseen)
    assert (result.train_images, result.validation_images) == (len(train_set), len(unseen))
    assert result.validation_unseen
    assert result.champion["validation_right"] == count_right(champion(), unseen, CPU)
    points, tuned_whole = trade_off(champion(), classifier, parts_of(CONFIG, unseen=unseen), result, CONFIG), classifier
    classifier = between(champion(), classifier, points)
    (taken,) = [point for point in points if point.chosen]
    weights = [point.weight for point in points][::-1]
    clean = [right_answers(between(champion(), tuned_whole, [Point(w, 0, 0, True)]), unseen, CPU) for w in weights]
    bounds = bound_losses(weights, np.array(clean), 0.95)[::-1]
    allowed = [p for p, share in zip(points, bounds, strict=True) if share <= CONFIG.max_clean_drop / 100 + 1e-9]
    assert taken in allowed
    assert taken.validation_repair_rate == max(point.validation_repair_rate for point in allowed)
    assert count_right(classifier, unseen, CPU) == taken.validation_accuracy * len(unseen)


def test_without_a_line_unseen_images_hold_the_epochs_to_the_champion(tmp_path: Path) -> None:
    """A ruinous learning rate: every epoch loses clean accuracy, and none is taken."""
    config = dataclasses.replace(CONFIG, interpolation=0, learning_rate=2.0, epochs=2)
    unseen = digits()[1]
    result = run(champion(), tmp_path, fine_tune, config=config, unseen=unseen)
    lost = [result.champion["validation_right"] - epoch["validation_right"] for epoch in result.history]
    assert min(lost) > len(unseen) * config.max_clean_drop / 100
    assert result.best_epoch == 0


def test_the_same_call_gives_the_same_point(trained, tmp_path: Path) -> None:
    state, result = trained
    found = []
    for _ in range(2):
        classifier = tuned(state)
        points = trade_off(champion(), classifier, parts_of(CONFIG), result, CONFIG)
        found.append((points, between(champion(), classifier, points).state_dict()))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(value, found[1][1][name]) for name, value in found[0][1].items())
