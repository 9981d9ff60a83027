"""The choice among styles by the champion's answers."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from style_helpers import digits, eight_bits, generator
from torch import Generator, Tensor, nn

from repairops.config import StyleConfig
from repairops.core import styles
from repairops.core.styles import CANDIDATES, Witness, fit_style
from repairops.core.styles.auto import Auto, chance_of_best, choose, run_trials, without_small
from repairops.core.styles.base import Style
from repairops.errors import StyleNotFittable

pytestmark = pytest.mark.usefixtures("few_trials")


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
    told = auto.mixes[0]
    assert {part.style: part.share for part in told} == pytest.approx(
        dict(zip(STYLES, auto.shares[0].tolist(), strict=True))
    )
    by_name = {part.style: part for part in told}
    assert by_name["pale"].repaired > by_name["none"].repaired + 0.3

    content, reference = digits()[:40], torch.zeros(40, dtype=torch.int64)
    styled = auto.apply(content, reference, generator())
    assert styled.shape == content.shape
    assert torch.equal(styled, auto.apply(content, reference, generator()))
    pale = (styled - STYLES["pale"].apply(content, reference, generator())).flatten(1).abs().amax(1) < 1e-6
    assert pale.float().mean() > 0.6


def answers(shares: list[list[float]], sizes: list[int], trials: int = 3) -> tuple[Tensor, Tensor]:
    """Right answers (S, trials, R) by chance, right with shares[style][cluster]; clusters (R,)."""
    clusters = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    chances = torch.tensor(shares)[:, clusters]
    draws = torch.rand(len(shares), trials, len(clusters), generator=generator(5))
    return draws < chances.unsqueeze(1), clusters


def test_a_clear_winner_has_all_and_equals_share() -> None:
    right, clusters = answers([[0.3, 0.3], [0.5, 0.5], [0.2, 0.2]], [300, 200])
    best, repaired = chance_of_best(right, clusters, generator())
    assert best[:, 1].min() > 0.99
    torch.testing.assert_close(best.sum(1), torch.ones(2))
    torch.testing.assert_close(repaired[0], right[..., :300].float().mean((1, 2)))

    alike = right[:1].expand(4, -1, -1)  # four styles with the very same answers
    best, _ = chance_of_best(alike[:, :1], clusters, generator())
    assert (best - 0.25).abs().max() < 0.06


def test_a_cluster_departs_from_all_failures_only_where_its_own_evidence_is_clear() -> None:
    opposite, clusters = answers([[0.6, 0.1], [0.1, 0.4]], [250, 150])
    best, _ = chance_of_best(opposite, clusters, generator())
    assert best.argmax(1).tolist() == [0, 1]
    assert best.amax(1).min() > 0.95

    right, clusters = answers([[0.45] * 5, [0.3] * 5], [150, 150, 150, 150, 6])
    right[0, :, -6:] = torch.tensor([1, 1, 0, 0, 0, 0]).bool()
    right[1, :, -6:] = torch.tensor([0, 1, 1, 1, 0, 0]).bool()  # the other style looks better in the smallest cluster
    best, repaired = chance_of_best(right, clusters, generator())
    assert repaired[4].tolist() == pytest.approx([1 / 3, 1 / 2])
    assert best[:, 0].min() > 0.95


def test_few_failures_and_an_empty_cluster_give_a_mix_all_the_same() -> None:
    right = torch.tensor([[[True, False]], [[False, False]]])
    best, repaired = chance_of_best(right, torch.tensor([0, 2]), generator())
    assert best.shape == repaired.shape == (3, 2)
    assert best.isfinite().all()
    assert repaired[1].tolist() == [0, 0]
    one, _ = chance_of_best(right[..., :1], torch.tensor([0]), generator())
    assert one.tolist() == [[1, 0]]


def test_small_shares_go_to_the_others() -> None:
    shares = without_small(torch.tensor([[0.5, 0.45, 0.05], [0.0, 0.1, 0.9]]))
    torch.testing.assert_close(shares, torch.tensor([[10 / 19, 9 / 19, 0.0], [0.0, 0.1, 0.9]]))
    torch.testing.assert_close(without_small(torch.full((20,), 0.05)), torch.full((20,), 0.05))


def test_trials_repair_failures_and_leave_the_champion_and_all_else_alone(champion: nn.Module, labels: Tensor) -> None:
    images, truth = failures(champion, labels, STYLES["pale"])
    before = {name: value.clone() for name, value in champion.state_dict().items()}
    state = torch.get_rng_state()
    weights = torch.ones(len(images), dtype=torch.float64)
    clean = (digits()[:800], labels[:800])

    def run(network: nn.Module, *styles: Style) -> Tensor:
        return run_trials(network, styles, clean, weights, (images, truth), generator())

    right = run(champion, STYLES["pale"], STYLES["none"])
    assert right.shape == (2, 3, len(images))
    assert right[0].float().mean() > right[1].float().mean() + 0.3
    assert torch.equal(right, run(champion, STYLES["pale"], STYLES["none"]))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in champion.state_dict().items())
    assert not champion.training
    assert not any(p.requires_grad for p in champion.parameters())

    broken = copy.deepcopy(champion)
    broken[0].weight.fill_(1e30)  # the first step makes it NaN
    assert not run(broken, STYLES["none"]).any()


@pytest.mark.long
def test_only_the_named_candidates_are_tried(
    champion: nn.Module, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A style that is registered is no candidate by that; wct2 is one where its weights are named."""

    def refuse(*_: object) -> Style:
        raise AssertionError("it was fitted")

    monkeypatch.setitem(styles.STYLES, "another", refuse)
    monkeypatch.setitem(styles.STYLES, "wct2", lambda *_: Pale(0.9))
    images, truth = failures(champion, labels, STYLES["pale"])
    witness = Witness(champion, torch.zeros(len(images), dtype=torch.int64), truth, labels[:300])
    for weights, names in (("", [name for name in CANDIDATES if name != "wct2"]), ("w", list(CANDIDATES))):
        auto = fit_style("auto", images, digits()[:300], StyleConfig(weights=weights), generator(), witness)
        assert isinstance(auto, Auto)
        assert list(auto.styles) == names
        assert [row.style for row in auto.mixes[0]] == names


def test_auto_without_a_champion_says_so() -> None:
    with pytest.raises(StyleNotFittable, match=r"auto.*champion"):
        fit_style("auto", digits()[:10], digits()[10:40], StyleConfig(), generator())
