"""method.name=auto: what a trial may cost, which candidate is taken, and the whole job with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pipeline_helpers import (
    OPTIONS,
    Scene,
    scene_fixture,  # noqa: F401
    template_fixture,  # noqa: F401
)

from repairops.config import MethodConfig, TrainingConfig, load_config
from repairops.core.training import TrainingResult
from repairops.core.trials import CANDIDATES, Candidate, choose_by_trial, pick, trial_training
from repairops.outcome.sections import TrialFigures
from repairops.pipeline import repair

METHOD = MethodConfig(name="auto", trial_share=0.25)


def trial(repaired: float, right: float = 900.0) -> TrialFigures:
    return TrialFigures("style_guided", 0.03, 1, 1000, 1.0, repaired, 100, right, 1000)


def test_the_first_candidate_stays_where_no_other_is_clearly_better():
    assert pick([trial(40), trial(44)]) == 0  # a standard error of 44 of 100 is 5
    assert pick([trial(40), trial(46), trial(44)]) == 1
    assert pick([trial(40), trial(10)]) == 0
    assert pick([trial(10), trial(46, 890), trial(46, 895)]) == 2  # of equals the one that keeps more
    assert pick([trial(0), trial(0)]) == 0


def test_all_trials_together_take_their_share_of_the_images():
    training = TrainingConfig(least_steps=0, epochs=5, batch_size=100, max_minutes=8.0)
    short = trial_training(METHOD, training, train_images=50_000, candidates=4)
    assert (short.epochs, short.epoch_images) == (1, 15_625)  # 4 x 15,625 = a quarter of 250,000
    assert short.max_minutes == pytest.approx(0.5)
    long = trial_training(METHOD, replace(training, epochs=64), train_images=50_000, candidates=4)
    assert (long.epochs, long.epoch_images) == (4, 0)
    tiny = trial_training(METHOD, replace(training, epochs=1), train_images=3000, candidates=4)
    assert (tiny.epochs, tiny.epoch_images) == (1, 1000)  # ten batches, or a trial says nothing
    assert trial_training(METHOD, replace(training, max_train_images=800), 50_000, 4).epoch_images == 800


def test_the_chosen_candidate_trains_at_its_own_rate_for_the_time_that_is_left():
    seen: list[tuple[int, str, float]] = []

    def run(number: int, method: MethodConfig, training: TrainingConfig) -> TrainingResult:
        seen.append((number, method.name, training.learning_rate))
        best = {"validation_repaired": 20.0 + 40 * number, "validation_right": 900.0}
        return TrainingResult(1, {}, [best], "", 2.0, 1.0, "CPU", 1000, 1000, 100, {}, {}, False, False, 1)

    candidates = (Candidate("style_guided"), Candidate("fine_tune", learning_rate=0.5))
    training = TrainingConfig(learning_rate=0.04, max_minutes=8)
    method, longer, trials = choose_by_trial(METHOD, training, 5000, run, candidates)
    assert seen == [(0, "style_guided", 0.04), (1, "fine_tune", 0.02)]
    assert (method.name, longer.learning_rate, longer.max_minutes) == ("fine_tune", 0.02, 6.0)
    assert [t.chosen for t in trials] == [False, True]
    assert trials[1].validation_repaired == 60


@pytest.mark.slow
def test_a_job_with_auto_says_what_it_tried(scene: Scene) -> None:
    outcome = repair(
        config=load_config(
            overrides=[*OPTIONS, "method.name=auto", "split.min_clean_images=800", "gate.min_repair_rate=0.1"]
        )
    )
    trials = outcome.values["training"]["trials"]
    assert [t["method"] for t in trials] == [c.method for c in CANDIDATES]
    assert sum(t["chosen"] for t in trials) == 1
    chosen = next(t for t in trials if t["chosen"])
    assert outcome.values["method"]["chosen"] == chosen["method"]
    assert outcome.values["training"]["history"][0]["learning_rate"] <= chosen["learning_rate"]
    assert all(t["validation_failures"] == outcome.values["training"]["validation_failures"] for t in trials)
    assert {t["validation_images"] for t in trials} == {outcome.values["clean_validation"]["images"]}
    assert outcome.values["clean_validation"]["source"] == "clean set"
    assert outcome.kind == "passed"
