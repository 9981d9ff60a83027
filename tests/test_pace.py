"""How fast a network is trained: which optimizer, and a learning rate that its weights bear."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_any_model import Tokens, as_graph
from test_training import CONFIG, Killed, fine_tune, learned, run, same_weights
from torch import Tensor, nn
from training_helpers import SPEC, SmallNet, champion, digits, learn, parts_of

from repairops.config import TrainingConfig
from repairops.core.training import train
from repairops.core.training.pace import CLIPPED, FITTING, RATES, choose_optimizer, fit_pace, make_optimizer
from repairops.data.records import InputSpec
from repairops.model.network import Classifier

FOUND = replace(CONFIG, learning_rate=0.0)


class Layered(nn.Module):
    """Convolutions with LayerNorm, and no attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.head = nn.Conv2d(1, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.patches(images).flatten(2).transpose(1, 2)).mean(1))


def test_transformers_are_trained_by_adamw_and_others_by_sgd_as_classes_and_as_graphs() -> None:
    """The graph of an attention that is spelled out too, as Hugging Face's eager one."""
    spec = InputSpec(1, 8, 8, tuple("0123456789"))
    kinds = {Tokens(1, 8, 10): "adamw", Layered(): "sgd", SmallNet(): "sgd"}
    for network, kind in kinds.items():
        network.eval()
        assert choose_optimizer(network, "auto") == kind
        assert choose_optimizer(as_graph(network, spec), "auto") == kind
        assert choose_optimizer(as_graph(network, spec, decomposed=True), "auto") == kind
        assert [choose_optimizer(network, wanted) for wanted in ("sgd", "adamw")] == ["sgd", "adamw"]


def fitted(scale: float, kind: str = "sgd") -> tuple[float, float]:
    """The learning rate and what it is clipped at, for weights of norm 8 and gradients of norm `scale`."""
    network = nn.Linear(64, 1, bias=False)
    nn.init.ones_(network.weight)
    optimizer = make_optimizer(network, TrainingConfig(optimizer=kind))  # type: ignore[arg-type]
    pace = fit_pace(optimizer, [[torch.full((1, 64), scale / 8)]] * 3, momentum=0.9)
    return pace.learning_rate, pace.clip


def test_a_rate_whose_steps_fit_is_the_default_itself_and_another_the_nearest_that_fits() -> None:
    """By SGD a step changes weights of norm 8 by 0.2 times the gradient's norm, relative to them by a fortieth."""
    assert fitted(1.0) == (RATES["sgd"], pytest.approx(CLIPPED))
    assert fitted(32.0)[0] == pytest.approx(RATES["sgd"] * FITTING[1] / (32 / 40))
    assert fitted(0.016)[0] == pytest.approx(RATES["sgd"] * FITTING[0] / (0.016 / 40))
    assert fitted(float("nan")) == fitted(0.0) == (RATES["sgd"], 0.0)  # nothing is known
    assert fitted(1.0, "adamw")[0] == fitted(32.0, "adamw")[0]  # a step does not depend on the gradient's size
    assert fitted(1.0, "adamw")[0] == pytest.approx(RATES["adamw"] * FITTING[0] / 5e-4)  # each weight is 1


def test_where_the_default_fits_the_weights_are_those_of_the_rate_that_was_given(tmp_path: Path) -> None:
    given, found = champion(), champion()
    run(given, tmp_path / "given", config=replace(CONFIG, epochs=1))
    result = run(found, tmp_path / "found", config=replace(FOUND, epochs=1))
    assert (result.optimizer, result.pace.learning_rate) == ("sgd", 0.02)
    assert FITTING[0] < result.pace.change < FITTING[1]
    assert same_weights(given, found)


def test_a_network_whose_weights_do_not_bear_the_default_rate_is_trained_at_another(tmp_path: Path) -> None:
    """Pixels in 0..255 without a norm: a step of 0.02 would throw the weights away."""
    spec = replace(SPEC, value_range=(0.0, 255.0), mean=(0.0,), std=(1.0,))
    losses = {}
    for name, config in (("given", CONFIG), ("found", FOUND)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            classifier = Classifier(
                nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)), spec
            )
            learn(classifier, digits()[0], epochs=2, batch_size=64)
        result = train(
            classifier, fine_tune, parts_of(config), config, seed=0, work_dir=tmp_path / name, method_key="x"
        )
        losses[name] = result.history[-1]["loss"]
    assert result.pace.change > FITTING[1]
    assert result.pace.learning_rate < 0.02 * FITTING[1] / result.pace.change * 1.01
    assert losses["found"] < 0.5 * losses["given"]


def test_a_training_by_adamw_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    config = replace(FOUND, epochs=2, optimizer="adamw")
    whole, resumed = champion(), champion()
    wanted = run(whole, tmp_path / "whole", config=config)

    def kill(epoch: int, figures: dict[str, float]) -> None:
        if epoch == 1:
            raise Killed

    with pytest.raises(Killed):
        run(champion(), tmp_path / "cut", config=config, on_epoch=kill)
    found = run(resumed, tmp_path / "cut", config=config)
    assert same_weights(whole, resumed)
    assert not same_weights(whole, champion())
    assert found.pace == wanted.pace
    assert found.optimizer == "adamw"
    assert [learned(epoch) for epoch in found.history] == [learned(epoch) for epoch in wanted.history]
    assert len(digits()[0]) // 50 > 20  # so that it warms up over more than one step
