"""Training on real digits: repairs failures, chooses on validation parts, resumes exactly, touches nothing global."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from training_helpers import (
    SPEC,
    Degradation,
    SmallNet,
    Stopped,
    champion,
    digits,
    failure_batch,
    failures,
    image_set,
    method_of,
    parts_of,
    stop_after_first,
)

from repairops.config import MethodConfig, TrainingConfig
from repairops.core.methods.base import FailureSampler, Method, MethodData
from repairops.core.methods.fine_tuning import BatchNormStatistics, FineTune
from repairops.core.methods.style_guided import StyleGuided
from repairops.core.methods.style_operations import StyleOperations, reference_weights
from repairops.core.parts import split_train_set
from repairops.core.training import TrainingResult, train
from repairops.core.training.checkpoint import (
    Checkpoint,
    checkpoint_path,
    fingerprint_of,
    load_checkpoint,
    save_checkpoint,
)
from repairops.core.training.clock import StepClock
from repairops.core.training.distributed import training_network
from repairops.core.training.epoch import draw_batches, epoch_steps, make_batch_source
from repairops.core.training.loop import frozen_copy
from repairops.core.training.pace import slower
from repairops.core.training.selection import ValidationCounts, is_over, seconds_left, select_epoch
from repairops.core.training.state import AveragedWeights, choose_epoch, count_right
from repairops.data.records import ImageSet
from repairops.errors import DatasetNotFound, DeviceNotAvailable, InvalidOption, LossNotFinite, NotFineTunable
from repairops.model.device import MixedPrecision, resolve_device, seeded, set_mode, use_bfloat16
from repairops.model.network import Classifier, to_unit

CPU = torch.device("cpu")
CONFIG = TrainingConfig(
    least_steps=0, epochs=3, batch_size=50, learning_rate=0.02, crop_padding=0, device="cpu", max_clean_drop=1.0
)


def fine_tune(data: MethodData) -> Method:
    return FineTune(FailureSampler(data, 0.4))


def without_failures(data: MethodData) -> Method:
    return FineTune(FailureSampler(data, 0.0))


def style_guided(data: MethodData) -> Method:
    styles = StyleOperations(Degradation(), reference_weights(data.clusters), data.clusters.count)
    return StyleGuided(styles, FailureSampler(data, 0.4))


def run(
    classifier: Classifier,
    work_dir: Path,
    method: Callable[[MethodData], Method] = fine_tune,
    config: TrainingConfig = CONFIG,
    unseen: ImageSet | None = None,
    **options,
) -> TrainingResult:
    arguments = {"seed": 0, "method_key": method.__name__} | options
    parts = parts_of(config, unseen=unseen, seed=arguments["seed"])
    return train(classifier, method, parts, config, work_dir=work_dir, **arguments)


def same_weights(one: Classifier, other: Classifier) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# Repairing


def test_an_epoch_of_fewer_images_draws_them_anew(tmp_path):
    seen = []

    class Watching:
        def loss(self, classifier, images, labels, generator):
            seen.append(images.clone())
            return nn.functional.cross_entropy(classifier(images), labels), {}

    config = replace(CONFIG, epochs=2, epoch_images=220, max_train_images=600)
    result = run(champion(), tmp_path, lambda data: Watching(), config, method_key="watching")
    epochs = [{image.numpy().tobytes() for image in torch.cat(seen[k : k + 4])} for k in (0, 4)]
    assert [epoch["steps"] for epoch in result.history] == [4, 4]  # whole batches of 50
    assert [len(epoch) for epoch in epochs] == [200, 200]
    assert 20 < len(epochs[0] & epochs[1]) < 120  # of 600: a third, by chance
    assert result.train_images == 600


def test_a_small_train_set_is_gone_through_until_there_are_steps_enough(tmp_path: Path) -> None:
    assert epoch_steps(20_000, TrainingConfig(batch_size=100)) == 200  # 1,000 in five epochs, more than the least
    assert epoch_steps(900, TrainingConfig(batch_size=100)) == 100
    assert epoch_steps(900, TrainingConfig(batch_size=100, epochs=60)) == 9
    assert epoch_steps(900, TrainingConfig(batch_size=100, least_steps=0)) == 9
    config = replace(CONFIG, epochs=2, least_steps=7, max_train_images=120)
    assert [epoch["steps"] for epoch in run(champion(), tmp_path, fine_tune, config).history] == [4, 4]

    batches = draw_batches(230, 7, 50, torch.Generator().manual_seed(0))
    assert [len(batch) for batch in batches] == [50] * 7
    first, second = torch.cat(batches[:4]), torch.cat(batches[4:])
    assert len(first.unique()) == 200  # no image twice before all whole batches have had their turn
    assert len(second.unique()) == 150
    assert not torch.equal(first[:150], second)
    assert [len(batch) for batch in draw_batches(30, 3, 50, torch.Generator())] == [30] * 3


@pytest.mark.parametrize("method", [fine_tune, style_guided])
def test_training_repairs_failures_that_it_never_saw(tmp_path, method):
    classifier, calls = champion(), []
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    result = run(classifier, tmp_path, method, on_epoch=lambda epoch, figures: calls.append((epoch, figures)))
    _, validation = failures()
    repaired = count_right(classifier, validation.images, CPU)
    assert count_right(champion(), validation.images, CPU) == 0
    assert repaired > len(validation) / 3
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002

    best = result.history[result.best_epoch - 1]
    assert best["validation_repaired"] == repaired  # the classifier holds the selected weights
    assert best["validation_repair_rate"] == repaired / len(validation)
    assert not classifier.training
    assert [epoch for epoch, _ in calls] == [0, 1, 2, 3]
    assert calls[0][1] == result.champion
    assert [figures for _, figures in calls[1:]] == result.history
    assert (result.train_images, result.validation_images) == (1080, 120)
    assert result.images_per_second > 0
    rates = [h["learning_rate"] for h in result.history]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(CONFIG.learning_rate / 1000)
    json.dumps(result.history, allow_nan=False)


def test_the_whole_method_from_its_configuration(tmp_path):
    classifier = champion()
    result = run(classifier, tmp_path, method_of(MethodConfig(), parts_of(CONFIG)), method_key="x")
    assert result.history[-1]["validation_repair_rate"] > 0.3
    assert {"loss_train", "loss_failures", "loss_styled"} <= result.history[-1].keys()


def test_another_seed_gives_other_weights_and_the_same_seed_the_same(tmp_path):
    classifiers = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        classifiers.append(champion())
        run(classifiers[-1], tmp_path / name, config=replace(CONFIG, epochs=1), seed=seed)
    assert same_weights(classifiers[0], classifiers[1])
    assert not same_weights(classifiers[0], classifiers[2])


def test_a_method_without_gradients_changes_statistics_alone(tmp_path):
    classifier = champion()
    result = run(classifier, tmp_path, lambda d: BatchNormStatistics(FailureSampler(d, 0.4)), method_key="bn")
    pairs = zip(classifier.parameters(), champion().parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert result.history[-1]["validation_repaired"] > 0


def test_frozen_layers_stay_as_they_are_with_their_statistics(tmp_path):
    classifier = champion()
    for layer in classifier.network.layers[:2]:
        layer.requires_grad_(False)
    before = {k: v.clone() for k, v in classifier.state_dict().items()}
    run(classifier, tmp_path)
    after = classifier.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert not any(name.startswith(("network.layers.0.", "network.layers.1.")) for name in changed)
    assert "network.layers.9.weight" in changed
    assert "network.layers.5.running_mean" in changed


def test_a_traced_network_trains_though_it_refuses_train_mode(tmp_path):
    example = torch.zeros(4, 1, 8, 8)
    dynamic = ({0: torch.export.Dim("batch", min=2)},)
    exported = torch.export.export(champion().network, (example,), dynamic_shapes=dynamic).module()
    with pytest.raises(NotImplementedError):
        exported.train()
    classifier = Classifier(exported, SPEC)
    result = run(classifier, tmp_path)
    assert result.history[-1]["validation_repair_rate"] > 0.3


# Resuming


def learned(figures: dict[str, float]) -> dict[str, float]:
    """An epoch's figures without those of the machine."""
    return {name: value for name, value in figures.items() if not name.endswith(("seconds", "_mb"))}


class Killed(Exception):
    pass


def test_killed_after_an_epoch_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    config = replace(CONFIG, horizontal_flip=True, crop_padding=1)
    whole = champion()
    wanted = run(whole, tmp_path / "whole", style_guided, config)

    def kill(epoch: int, figures: dict[str, float]) -> None:
        if epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        run(champion(), tmp_path / "cut", style_guided, config, on_epoch=kill)
    torch.rand(3)  # another global state
    resumed, calls = champion(), []
    found = run(resumed, tmp_path / "cut", style_guided, config, on_epoch=lambda epoch, _: calls.append(epoch))
    assert same_weights(resumed, whole)
    assert calls == [0, 1, 2, 3]
    assert found.best_epoch == wanted.best_epoch
    for one, other in zip(found.history, wanted.history, strict=True):
        assert learned(one) == learned(other)


def test_a_finished_training_is_not_repeated(tmp_path):
    run(champion(), tmp_path)
    again = champion()

    def refuse(data: MethodData) -> Method:
        raise AssertionError("trained again")

    result = run(again, tmp_path, refuse, method_key="fine_tune")
    assert len(result.history) == 3
    assert not same_weights(again, champion())


@pytest.mark.parametrize("change", [{"seed": 1}, {"method_key": "other"}, {"config": replace(CONFIG, momentum=0.5)}])
def test_other_arguments_start_anew(tmp_path, change):
    one_epoch = replace(CONFIG, epochs=1)
    run(champion(), tmp_path, config=one_epoch)
    change = {"config": one_epoch} | change
    change["config"] = replace(change["config"], epochs=1)
    found, wanted = champion(), champion()
    run(found, tmp_path, **change)
    run(wanted, tmp_path / "fresh", **change)
    assert same_weights(found, wanted)


def test_another_seed_starts_anew_though_all_images_are_the_same(tmp_path):
    """With clean images of their own that choose, no part is cut by the seed: it tells by itself."""
    config, unseen = replace(CONFIG, epochs=1), digits()[1]
    found, wanted = champion(), champion()
    run(champion(), tmp_path, config=config, unseen=unseen)
    run(found, tmp_path, config=config, unseen=unseen, seed=1)
    run(wanted, tmp_path / "fresh", config=config, unseen=unseen, seed=1)
    assert same_weights(found, wanted)


class Spoiling(FineTune):
    """Fine-tuning that unlearns after the first epoch: its weights are the best ones."""

    steps = 0

    def loss(self, classifier, images, labels, generator):
        loss, figures = super().loss(classifier, images, labels, generator)
        type(self).steps += 1
        return (-0.2 * loss if type(self).steps > 21 else loss), figures


def test_the_best_weights_outlive_an_interruption_and_the_worse_epochs_around_it(tmp_path):
    Spoiling.steps, best, config = 0, {}, replace(CONFIG, ema=0.0)

    def kill(epoch: int, figures: dict[str, float]) -> None:
        if epoch == 1:
            best.update(load_checkpoint_tensors(tmp_path))
        if epoch == 2:
            raise Killed

    def spoiling(data: MethodData) -> Method:
        return Spoiling(FailureSampler(data, 0.4))

    with pytest.raises(Killed):
        run(champion(), tmp_path, spoiling, config, on_epoch=kill)
    resumed = champion()
    result = run(resumed, tmp_path, spoiling, config)
    assert (len(result.history), result.best_epoch) == (3, 1)
    assert all(torch.equal(value, best[name]) for name, value in resumed.state_dict().items())
    assert not torch.equal(
        load_checkpoint_tensors(tmp_path)["network.layers.9.weight"], resumed.network.layers[9].weight
    )


def load_checkpoint_tensors(work_dir: Path) -> dict[str, Tensor]:
    """The network's state after the last epoch, by the checkpoint."""
    stored = load_file(checkpoint_path(work_dir))
    return {name.removeprefix("model/"): value for name, value in stored.items() if name.startswith("model/")}


def test_a_damaged_checkpoint_starts_anew(tmp_path):
    one_epoch = replace(CONFIG, epochs=1)
    first, second = champion(), champion()
    run(first, tmp_path, config=one_epoch)
    path = checkpoint_path(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    run(second, tmp_path, config=one_epoch)
    assert same_weights(first, second)


def test_checkpoints_come_back_as_they_were(tmp_path):
    tied = torch.arange(6.0).view(2, 3)
    model = {"a": tied, "b": tied, "steps": torch.tensor(7), "half": torch.ones(2, dtype=torch.bfloat16)}
    history = [{"validation_right": 3.0}, {"loss": 0.1 + 0.2}]
    save_checkpoint(tmp_path, Checkpoint("f", model, model, {"x.y/z": tied}, history))
    found = load_checkpoint(tmp_path, "f")
    assert found.history == history
    assert found.model.keys() == model.keys()
    assert all(torch.equal(found.model[k], model[k]) and found.model[k].dtype == model[k].dtype for k in model)
    assert torch.equal(found.momentum["x.y/z"], tied)
    assert load_checkpoint(tmp_path, "g") is None
    assert load_checkpoint(tmp_path / "nowhere", "f") is None
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint_path(tmp_path).name]  # no partial file stays


def test_fingerprints_tell_every_argument_and_tensor():
    state = {"w": torch.tensor([1.0, 2.0])}
    others = [({"w": torch.tensor([1.0, 2.5])}, 0), ({"v": state["w"]}, 0), ({"w": state["w"].double()}, 0), (state, 1)]
    assert fingerprint_of({"seed": 0}, state) == fingerprint_of({"seed": 0}, {"w": state["w"].clone()})
    assert fingerprint_of({"seed": 0}, state) not in {fingerprint_of({"seed": n}, s) for s, n in others}


# Stopping


class Exploding(FineTune):
    """Cross-entropy that becomes NaN in the second epoch's third step, and so often."""

    calls, times = 0, 1

    def loss(self, classifier, images, labels, generator):
        loss, figures = super().loss(classifier, images, labels, generator)
        type(self).calls += 1
        explodes = type(self).calls >= 21 + 3 and type(self).times > 0
        type(self).times -= explodes
        return (loss * math.nan if explodes else loss), figures


def exploding(data: MethodData) -> Method:
    return Exploding(FailureSampler(data, 0.4))


def test_a_loss_that_is_never_finite_again_stops_and_keeps_the_last_checkpoint(tmp_path):
    Exploding.calls, Exploding.times = 0, 3
    with pytest.raises(LossNotFinite, match=r"nan at step 22, at the learning rate 0\.0002 too.*training\.safetensors"):
        run(champion(), tmp_path, exploding, method_key="explodes")

    def kill(epoch: int, figures: dict[str, float]) -> None:
        assert all(math.isfinite(v) for v in figures.values())
        if epoch == 1:
            raise Killed

    with pytest.raises(Killed):  # the checkpoint of epoch 1 is good to go on from
        run(champion(), tmp_path, fine_tune, method_key="explodes", on_epoch=kill)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_loss_that_is_not_finite_once_goes_on_from_the_last_good_weights(tmp_path, caplog, optimizer):
    """As a training that is interrupted there and goes on at the lower rate, bit for bit."""
    config = replace(CONFIG, optimizer=optimizer, learning_rate=0.02 if optimizer == "sgd" else 1e-3)
    Exploding.calls, Exploding.times = 0, 1
    found, wanted = champion(), champion()
    result = run(found, tmp_path / "once", exploding, config, method_key="x")
    assert (result.pace.lowered, len(result.history)) == (1, 3)
    assert result.pace.learning_rate == pytest.approx(config.learning_rate / 10)
    assert result.history[-1]["learning_rate"] == pytest.approx(config.learning_rate / 10_000)
    assert "The loss was not finite once" in result.note
    assert [r.message for r in caplog.records if "at step 24; it goes on from the last good weights" in r.message]

    with pytest.raises(Stopped):
        run(champion(), tmp_path / "cut", fine_tune, config, on_epoch=stop_after_first, method_key="x")
    path = checkpoint_path(tmp_path / "cut").parent
    stored = load_checkpoint(path, fingerprint_in(path))
    save_checkpoint(path, replace(stored, pace=slower(stored.pace)))
    run(wanted, path, fine_tune, config, method_key="x")
    assert same_weights(found, wanted)


def fingerprint_in(work_dir: Path) -> str:
    with safe_open(checkpoint_path(work_dir), framework="pt") as stored:
        return stored.metadata()["fingerprint"]


def test_a_learning_rate_that_destroys_the_weights_is_an_error_too(tmp_path):
    with pytest.raises(LossNotFinite, match=r"learning_rate"):
        run(champion(), tmp_path, config=replace(CONFIG, learning_rate=1e30))


def test_the_time_limit_ends_training_with_a_measured_epoch_and_a_note(tmp_path):
    classifier = champion()
    result = run(classifier, tmp_path, config=replace(CONFIG, max_minutes=1e-9))
    assert result.history[0]["steps"] == 1
    assert "validation_accuracy" in result.history[0]
    assert "after 1 of 63 steps: max_minutes" in result.note


def test_stopping_rule():
    history = [{"seconds": 0.0}] + [{"seconds": 10.0}] * 4

    def over(epochs: int, patience: int, selected: int, minutes: float = 0) -> bool:
        config = TrainingConfig(least_steps=0, epochs=epochs, patience=patience, max_minutes=minutes)
        return is_over(history, selected, config)

    assert not over(5, 3, selected=2)
    assert over(5, 2, selected=2)  # epochs 3 and 4 were no better
    assert over(4, 0, selected=0)
    assert not over(5, 0, selected=0)  # 0 = no patience rule
    assert over(9, 0, selected=4, minutes=0.5)
    assert seconds_left(history, TrainingConfig(max_minutes=1)) == 20


def test_the_cpu_says_how_long_it_will_take(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "repairops"):
        run(champion(), tmp_path, config=replace(CONFIG, epochs=1))
    assert [r.message for r in caplog.records if "about" in r.message and "minutes for 1 epochs" in r.message]


# Selection


def choose(*counts: tuple[int, int], drop: float = 0.5, clean: int = 1000, failed: int = 100):
    return select_epoch(
        [ValidationCounts(*c) for c in counts], clean_images=clean, failures=failed, max_clean_drop=drop
    )


def test_the_most_repaired_epoch_that_keeps_clean_accuracy_is_chosen():
    selection = choose((900, 0), (895, 20), (884, 60), (896, 30))  # one standard error is 9.7 of 1000
    assert (selection.epoch, selection.note) == (3, "")
    assert choose((900, 0), (895, 20), (887, 60), (896, 30)).epoch == 2
    assert choose((900, 0), (895, 20), (884, 60), (896, 30), drop=2).epoch == 2  # 20 images are allowed


def test_ties_go_to_clean_accuracy_then_to_the_earlier_epoch():
    assert choose((900, 0), (900, 30), (902, 30), (902, 30)).epoch == 2


def test_with_a_falling_rate_the_latest_of_alike_epochs_is_chosen():
    def annealed(*repaired: int) -> int:
        counts = [ValidationCounts(900, r) for r in (0, *repaired)]
        return select_epoch(counts, clean_images=1000, failures=100, max_clean_drop=0.5, annealed=True).epoch

    assert annealed(50, 46, 45) == 3  # one standard error of 50 in 100 is 5
    assert annealed(50, 46, 44) == 2
    assert annealed(50, 44, 43) == 1
    assert annealed(46, 44, 50, 30) == 3
    assert annealed(0, 0) == 0  # as the champion does
    assert annealed(1, 0) == 1  # no repair is alike to none


def test_a_training_chooses_by_the_rule_for_a_falling_rate():
    """The latest of epochs that repair alike: without that rule the first one would be taken."""
    parts = parts_of(CONFIG)
    right, failed = len(parts.choosing), len(parts.validation)
    history = [{"validation_right": right, "validation_repaired": n} for n in (0, failed // 2, failed // 2 - 1)]
    assert choose_epoch(history, parts, CONFIG).epoch == 2
    counts = [ValidationCounts(h["validation_right"], h["validation_repaired"]) for h in history]
    assert select_epoch(counts, clean_images=right, failures=failed, max_clean_drop=1.0).epoch == 1


def test_one_image_of_slack_on_small_sets():
    assert choose((20, 0), (19, 5), clean=20).epoch == 1
    assert choose((20, 0), (20, 1), (18, 5), clean=20).epoch == 1


def test_a_champion_that_knew_the_images_by_heart_is_no_measure():
    selection = choose((1000, 0), (880, 40), (890, 10), (885, 50))
    assert selection.epoch == 3  # within a standard error of the best trained epoch, and most repaired
    assert "at least 110 of 1000" in selection.note
    assert choose((1000, 0), (880, 40), (700, 90)).epoch == 1  # far below the other epoch is a loss


def test_an_epoch_that_raises_the_bar_takes_over_from_one_below_it():
    assert choose((1000, 0), (600, 90), (900, 10)).epoch == 2


def test_the_choice_after_each_epoch_is_the_one_before_or_that_epoch():
    """What lets a training keep one set of best weights; epoch 0, the champion, is always at hand."""
    draw = np.random.default_rng(0)
    for _ in range(300):
        counts = [(900, 0), *zip(draw.integers(870, 905, 8).tolist(), draw.integers(0, 6, 8).tolist(), strict=True)]
        chosen = [choose(*counts[: n + 1]).epoch for n in range(1, len(counts))]
        for epoch, (before, now) in enumerate(zip([0, *chosen], chosen, strict=False), start=1):
            assert now in (0, before, epoch)


def test_epochs_that_repair_nothing_leave_the_champion_and_say_so():
    selection = choose((900, 2), (905, 2), (899, 1))
    assert selection.epoch == 1  # as many repaired, and better on clean images
    selection = choose((900, 2), (899, 2), (899, 1))
    assert selection.epoch == 0
    assert "champion" in selection.note


def test_without_validation_failures_the_last_good_epoch_is_taken():
    selection = choose((900, 0), (899, 0), (898, 0), (800, 0), failed=0)
    assert selection.epoch == 2
    assert "no validation failures" in selection.note


# Parts and devices


def test_the_train_set_splits_disjoint_shuffled_and_capped():
    trained, held = split_train_set(1000, fraction=0.1, max_validation=2000, max_train=0, seed=1)
    assert (len(trained), len(held)) == (900, 100)
    assert sorted([*trained, *held]) == list(range(1000))
    labels = np.repeat(np.arange(10), 100)  # sorted by label
    assert len(set(labels[held])) == 10
    trained, held = split_train_set(1000, fraction=0.5, max_validation=60, max_train=200, seed=1)
    assert (len(trained), len(held)) == (200, 60)
    assert [len(p) for p in split_train_set(3, fraction=0.01, max_validation=9, max_train=0, seed=0)] == [2, 1]
    assert [len(p) for p in split_train_set(3, fraction=0.0, max_validation=9, max_train=0, seed=0)] == [3, 0]
    assert [len(p) for p in split_train_set(1, fraction=0.5, max_validation=9, max_train=0, seed=0)] == [1, 0]


def test_answers_that_are_not_finite_are_wrong():
    class Nan(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 10), math.nan)

    assert count_right(Classifier(Nan(), SPEC), image_set(np.zeros((5, 1, 8, 8), np.uint8), np.zeros(5)), CPU) == 0


def test_no_trainable_parameter_is_an_error(tmp_path):
    classifier = champion().requires_grad_(False)
    with pytest.raises(NotFineTunable, match="requires a gradient"):
        run(classifier, tmp_path)


def test_an_empty_train_set_is_an_error(tmp_path):
    empty = parts_of(CONFIG, train_set=digits()[0].subset(np.array([], dtype=np.int64)))
    with pytest.raises(DatasetNotFound, match="no images"):
        train(champion(), fine_tune, empty, CONFIG, seed=0, work_dir=tmp_path, method_key="")


def test_one_image_in_a_batch_is_refused_where_batch_norm_refuses_it(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    with pytest.raises(InvalidOption, match=r"training\.batch_size is 1; it must be more: a BatchNorm layer"):
        run(Classifier(network, SPEC), tmp_path, without_failures, replace(CONFIG, batch_size=1))


def test_batches_fetched_ahead_are_the_same_in_the_same_order(tmp_path):
    train_set = digits()[0]
    part = np.random.default_rng(0).permutation(len(train_set))[:900]
    batches = torch.split(torch.randperm(900, generator=torch.Generator().manual_seed(0)), 50)
    plain, ahead = (make_batch_source(train_set, part, CPU, workers) for workers in (0, 3))
    assert make_batch_source(train_set, part, CPU).workers == 0  # in memory, where they are needed
    found = list(zip(plain.stream(batches), ahead.stream(batches), strict=True))
    assert len(found) == 18
    for one, other in found:
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    stopped = ahead.stream(batches)
    next(stopped)
    stopped.close()  # as the time limit does

    classifiers = champion(), champion()
    for classifier, workers in zip(classifiers, (0, 3), strict=True):
        run(classifier, tmp_path / str(workers), config=replace(CONFIG, epochs=1, workers=workers))
    assert same_weights(*classifiers)


def test_an_averaged_training_resumes_exactly_and_selects_the_average(tmp_path):
    config = replace(CONFIG, ema=0.9)
    whole = champion()
    result = run(whole, tmp_path / "whole", config=config)

    def kill(epoch: int, figures: dict[str, float]) -> None:
        if epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        run(champion(), tmp_path / "cut", config=config, on_epoch=kill)
    resumed = champion()
    run(resumed, tmp_path / "cut", config=config)
    assert same_weights(whole, resumed)
    stored = load_file(checkpoint_path(tmp_path / "whole"))
    assert not torch.equal(stored["average/network.layers.9.weight"], stored["model/network.layers.9.weight"])
    assert torch.equal(stored["best/network.layers.9.weight"], whole.network.layers[9].weight)
    if result.best_epoch == config.epochs:
        assert torch.equal(stored["average/network.layers.9.weight"], whole.network.layers[9].weight)


def test_the_moving_average_is_the_written_out_one():
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 0.0)
    average = AveragedWeights(module, decay=0.3)
    expected, decays = 0.0, [2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15]
    for step in range(5):
        nn.init.constant_(module.weight, float(step + 1))
        average.update()
        decay = min(0.3, decays[step])
        expected = decay * expected + (1 - decay) * (step + 1)
    assert average.shadow["weight"].item() == pytest.approx(expected)
    with average.in_place():
        assert module.weight.item() == pytest.approx(expected)
    assert module.weight.item() == 5.0


def test_a_step_s_time_is_shared_out_among_its_parts(tmp_path):
    result = run(champion(), tmp_path, style_guided, replace(CONFIG, epochs=1))
    assert result.step_shares.keys() == {"augmentation", "forward", "backward", "update"}
    assert sum(result.step_shares.values()) == pytest.approx(1)
    assert all(share > 0 for share in result.step_shares.values())
    epoch = result.history[0]
    timed = sum(epoch[f"{phase}_seconds"] for phase in result.step_shares)
    assert 0 < timed <= epoch["train_seconds"]
    assert result.peak_memory_mb["memory"] > 50
    assert {"gpu_memory"} & result.peak_memory_mb.keys() == set()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_gets_images_in_plain_order_whatever_made_them(channels):
    seen = []

    class Strides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.stride())
            return x.flatten(1)[:, :10]

    spec = replace(SPEC, channels=channels, mean=(0.0,), std=(1.0,))
    clock = StepClock(CPU)
    network = training_network(Classifier(Strides(), spec), clock, amp=False, compiled=False)
    images = torch.rand(2, 8, 8, channels).permute(0, 3, 1, 2)  # a grey axis with its strides too
    assert images.stride() == (64 * channels, 1, 8 * channels, channels)
    network(images)
    assert seen == [(64 * channels, 64, 8, 1)]


def test_on_a_gpu_one_step_in_ten_is_timed():
    clock = StepClock(CPU)
    clock.begin_step(0)
    assert clock.timed
    clock.device = torch.device("cuda")  # begin_step alone touches no GPU
    timed = []
    for step in range(30):
        clock.begin_step(step)
        timed.append(clock.timed)
    assert sum(timed) == 3


def test_a_frozen_copy_is_the_champion_whatever_becomes_of_it():
    classifier = champion()
    tensors = {name: value.clone() for name, value in classifier.state_dict().items()}
    with torch.no_grad():
        classifier.network.layers[9].weight.zero_()
    copied = frozen_copy(classifier, tensors)
    assert same_weights(copied, champion())
    assert not any(p.requires_grad for p in copied.parameters())
    assert not copied.training


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on the CPU needs a C++ compiler")
def test_a_compiled_network_trains_the_classifier_s_own_weights(tmp_path):
    classifier = champion()
    result = run(classifier, tmp_path, config=replace(CONFIG, compile=True))
    assert result.history[-1]["validation_repair_rate"] > 0.3
    assert not same_weights(classifier, champion())
    assert type(classifier.network) is SmallNet


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_repairs_in_mixed_precision(tmp_path):
    classifier = champion()
    result = run(classifier, tmp_path, style_guided, replace(CONFIG, device="cuda"))
    assert result.history[-1]["validation_repair_rate"] > 0.3
    assert result.peak_memory_mb["gpu_memory"] > 0
    assert next(classifier.parameters()).device.type == "cpu"


def test_devices_that_do_not_exist_are_refused():
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type in ("cpu", "cuda")
    for name in ("tpu9", "mps", "cuda:99"):
        with pytest.raises(DeviceNotAvailable, match=name):
            resolve_device(name)
    assert use_bfloat16("on", CPU)
    assert not use_bfloat16("auto", CPU)
    assert not use_bfloat16("off", CPU)


def test_mixed_precision_shares_the_network_and_returns_float32(tmp_path):
    classifier = champion()
    mixed = MixedPrecision(classifier.network, SPEC).eval()
    images = to_unit(digits()[1].pixels[:50])
    with torch.no_grad():
        full, half = classifier(images), mixed(images)
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    assert (full.argmax(1) == half.argmax(1)).float().mean() > 0.95
    result = run(classifier, tmp_path, config=replace(CONFIG, amp="on"))
    assert result.history[-1]["validation_repair_rate"] > 0.3
    assert {p.dtype for p in classifier.parameters()} == {torch.float32}


def test_seeded_gives_the_same_draws_and_leaves_the_global_state():
    before = torch.get_rng_state()
    draws = []
    for _ in range(2):
        with seeded(11, CPU):
            draws.append(torch.rand(4))
    assert torch.equal(*draws)
    assert torch.equal(torch.get_rng_state(), before)


def test_train_mode_leaves_frozen_batch_norm_in_eval_mode():
    with torch.random.fork_rng():
        network = SmallNet()
    network.layers[1].requires_grad_(False)
    set_mode(network, training=True)
    assert not network.layers[1].training
    assert network.layers[5].training
    assert network.layers[8].training
    set_mode(network, training=False)
    assert not any(m.training for m in network.modules())


def test_a_batch_of_failures_without_validation_part_trains_and_says_so(tmp_path):
    repair, _ = failures()
    nothing = failure_batch(repair.images.subset(np.array([], dtype=np.int64)), np.array([], dtype=np.int64))
    config = replace(CONFIG, epochs=1)
    parts = parts_of(config, failed=(repair, nothing))
    result = train(champion(), fine_tune, parts, config, seed=0, work_dir=tmp_path, method_key="")
    assert "validation_repair_rate" not in result.history[0]
    assert "no validation failures" in result.note
