"""The choice among styles by the champion's answers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from style_helpers import digits, eight_bits, generator
from torch import Generator, Tensor, nn

from repairops.config import StyleConfig
from repairops.errors import StyleNotFittable
from repairops.style import Witness, fit_style
from repairops.style.auto import choose
from repairops.style.base import Style
from repairops.style.depths import choose_layers, pooled, see
from repairops.style.likeness import Seen, compare, same_classes
from repairops.style.trial import run_trials, chance_of_best


@dataclass(frozen=True)
class Noise:
    sigma: float

    def apply(self, content: Tensor, reference: Tensor, generator: Generator) -> Tensor:
        return (content + self.sigma * torch.randn(content.shape, generator=generator)).clamp(0, 1)


@dataclass(frozen=True)
class Pale:
    factor: float

    def apply(self, content: Tensor, reference: Tensor, generator: Generator) -> Tensor:
        return self.factor * content + 0.5 * (1 - self.factor)


STYLES: dict[str, Style] = {"noise": Noise(0.35), "pale": Pale(0.3), "none": Noise(0.0)}


@pytest.fixture(scope="module")
def labels() -> Tensor:
    from sklearn.datasets import load_digits

    order = torch.randperm(1797, generator=generator(7))  # as style_helpers.digits
    return torch.from_numpy(load_digits().target)[order].long()


@pytest.fixture(scope="module")
def champion(labels: Tensor) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(60):
        loss = F.cross_entropy(network(digits()[:800]), labels[:800])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval().requires_grad_(False)


def failures(champion: nn.Module, labels: Tensor, style: Style) -> tuple[Tensor, Tensor]:
    images = eight_bits(style.apply(digits()[800:], torch.zeros(997, dtype=torch.int64), generator(3)))
    wrong = champion(images).argmax(1) != labels[800:]
    return images[wrong], labels[800:][wrong]


def test_each_cluster_gets_the_style_that_made_it(champion: nn.Module, labels: Tensor) -> None:
    parts = [failures(champion, labels, STYLES[name]) for name in ("pale", "noise")]
    assert min(len(images) for images, _ in parts) > 30
    clusters = torch.cat([torch.full((len(images),), number) for number, (images, _) in enumerate(parts)])
    witness = Witness(champion, clusters, torch.cat([truth for _, truth in parts]), labels[:800])
    references = torch.cat([images for images, _ in parts])
    auto = choose(STYLES, references, digits()[:800], witness, generator())
    assert [list(STYLES)[int(row.argmax())] for row in auto.shares] == ["pale", "noise"]
    assert auto.shares.amax(1).min() > 0.6
    torch.testing.assert_close(auto.shares.sum(1), torch.ones(2))
    told = auto.describe()[0]["styles"]
    assert {row["style"]: row["share"] for row in told} == pytest.approx(
        dict(zip(STYLES, auto.shares[0].tolist(), strict=True))
    )
    by_name = {row["style"]: row for row in told}
    assert by_name["pale"]["distance"] < by_name["noise"]["distance"]
    assert by_name["none"]["error_rate"] < by_name["pale"]["error_rate"]

    content, reference = digits()[:40], torch.zeros(40, dtype=torch.int64)
    styled = auto.apply(content, reference, generator())
    assert styled.shape == content.shape
    assert torch.equal(styled, auto.apply(content, reference, generator()))
    pale = (styled - STYLES["pale"].apply(content, reference, generator())).flatten(1).abs().amax(1) < 1e-6
    assert pale.float().mean() > 0.6


def test_the_nearest_mix_is_that_of_the_moments() -> None:
    def gram(rows: list[list[float]]) -> Tensor:
        differences = torch.tensor(rows, dtype=torch.float64)
        return differences @ differences.T

    halves = nearest_mix(gram([[1.0, 0.0], [-1.0, 0.0], [0.0, 5.0]]))
    torch.testing.assert_close(halves, torch.tensor([0.5, 0.5, 0.0]), atol=1e-3, rtol=0)
    alone = nearest_mix(gram([[0.1, 0.0], [1.0, 0.0], [3.0, 0.0]]))
    torch.testing.assert_close(alone, torch.tensor([1.0, 0.0, 0.0]), atol=0.01, rtol=0)
    assert nearest_mix(torch.zeros(3, 3, dtype=torch.float64)).sum().item() == pytest.approx(1)


def test_chance_is_not_taken_for_distance() -> None:
    """Samples of the failures' own distribution are at distance 0, however few are wrong; others are not."""
    draw = generator()

    def seen(count: int, shift: float) -> Seen:
        logits = torch.zeros(count, 4)
        logits[:, 1] = 1 + torch.rand(count, generator=draw)
        return Seen([torch.randn(count, 50, generator=draw) + shift], logits, torch.zeros(count, dtype=torch.int64))

    figures = compare([seen(300, 0.0), seen(40, 0.0), seen(300, 0.5)], seen(2000, 0.0))
    assert max(figures[0].distance, figures[1].distance) < 0.08
    assert figures[2].distance > 0.2


def test_content_has_the_classes_of_the_failures() -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 2])
    wanted = torch.tensor([2, 2, 0, 1, 9])
    chosen = same_classes(wanted, labels, generator())
    assert labels[chosen[:4]].tolist() == [2, 2, 0, 1]
    assert chosen[0] != chosen[1]


def test_features_are_read_at_several_depths_and_the_network_is_left_as_it_was(champion: nn.Module) -> None:
    layers = choose_layers(champion, digits()[:2])
    assert 2 <= len(layers) <= 4
    assert layers[-1] is champion[-1]
    features, logits = see(champion, digits()[:200], layers)
    assert all(len(f) == 200 for f in features)
    torch.testing.assert_close(logits, champion(digits()[:200]))
    assert not any(module._forward_hooks for module in champion.modules())
    maps = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(pooled(maps)[:, :3], maps.mean((2, 3)))


def test_auto_without_a_champion_says_so() -> None:
    with pytest.raises(StyleNotFittable, match=r"auto.*champion"):
        fit_style("auto", digits()[:10], digits()[10:40], StyleConfig(), generator())
