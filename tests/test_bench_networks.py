"""The subject networks have the paper's parameter counts; champions are trained, kept and found again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from repairops.bench.champions import (
    ChampionConfig,
    champion_arguments,
    digest_of,
    input_spec,
    load_champion,
    save_champion,
    train_champion,
)
from repairops.bench.data import load_digits
from repairops.bench.networks import NETWORKS, build_network
from repairops.bench.presets import PRESETS
from repairops.data.records import InputSpec
from repairops.errors import InvalidOption
from repairops.model.evaluation import predict

CIFAR = InputSpec(3, 32, 32, tuple("abcdefghij"))
CPU = torch.device("cpu")
SHORT = ChampionConfig(epochs=2, batch_size=64, horizontal_flip=False, bfloat16=False)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("allconvnet", 1_409_674),
        ("densenet", 1_059_298),
        ("wideresnet", 2_243_546),
        ("lstm", 397_706),
        ("renet", 67_153_930),
    ],
)
def test_paper_s_networks_have_its_parameter_counts(name: str, parameters: int) -> None:
    network = build_network(name, CIFAR, seed=0)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == parameters == NETWORKS[name].parameters
    assert name in PRESETS["paper"].networks


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("renet", "densenet", "wideresnet")])
def test_networks_take_images_and_pass_a_gradient_to_all_that_is_trained(name: str) -> None:
    network = build_network(name, CIFAR, seed=0)
    trained = [p for p in network.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == NETWORKS[name].parameters
    logits = network(torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (3, 10)
    logits.sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in trained)


def test_initial_weights_come_from_the_seed_and_leave_global_state_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (build_network("resnet_tiny", CIFAR, seed=s).state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    name = "classifier.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


def test_unknown_network_is_refused() -> None:
    with pytest.raises(InvalidOption, match="resnet_small"):
        build_network("vgg", CIFAR, 0)


def test_champion_learns_and_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    data = load_digits()
    arguments = champion_arguments("resnet_tiny", data.train, SHORT, 0)
    assert load_champion(tmp_path, arguments) is None
    champion = train_champion("resnet_tiny", data.train, SHORT, seed=0, device=CPU)
    clean = data.clean.images
    answers = predict(champion, clean.pixels, clean.labels)
    assert answers.accuracy > 0.4
    path = save_champion(tmp_path, champion, arguments)
    assert path.stem == digest_of(arguments)
    found = load_champion(tmp_path, arguments)
    assert found is not None
    assert found.spec == champion.spec
    assert predict(found, clean.pixels, clean.labels).right.tolist() == answers.right.tolist()
    again = train_champion("resnet_tiny", data.train, SHORT, seed=0, device=CPU)
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), champion.state_dict().values(), strict=True)
    )


def test_other_arguments_are_another_champion() -> None:
    data = load_digits()
    first = champion_arguments("resnet_tiny", data.train, SHORT, 0)
    others = [
        champion_arguments("resnet_small", data.train, SHORT, 0),
        champion_arguments("resnet_tiny", data.clean.images, SHORT, 0),
        champion_arguments("resnet_tiny", data.train, dataclasses.replace(SHORT, epochs=3), 0),
        champion_arguments("resnet_tiny", data.train, SHORT, 1),
    ]
    assert len({digest_of(arguments) for arguments in (first, *others)}) == 5


def test_input_specification_normalises_the_train_set() -> None:
    train = load_digits().train
    spec = input_spec(train)
    scaled = (train.pixels.float() / 255 - spec.mean[0]) / spec.std[0]
    assert float(scaled.mean()) == pytest.approx(0, abs=0.01)
    assert float(scaled.std()) == pytest.approx(1, abs=0.01)
    assert (spec.channels, spec.height, spec.width, spec.classes) == (1, 8, 8, 10)
