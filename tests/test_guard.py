"""Fitting a guard and choosing the form: by the look and not the content, and by what the gate will ask."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Generator, Tensor
from training_helpers import Degradation, Identity, champion, degrade, digits, failures, one_cluster, parts_of

from repairops.config import Config, GuardConfig, TrainingConfig
from repairops.core.forms import Answers, choose_form, find_form, keeps_clean, weigh_forms
from repairops.core.guard import calibrate, fit_guard, separation, statistics_of
from repairops.core.parts import TrainingParts
from repairops.gate import decide
from repairops.gate.evidence import Evidence, ParityCounts
from repairops.model.evaluation import paired_counts
from repairops.model.guarded import Guard
from repairops.model.network import to_unit
from repairops.outcome.sections import FormFigures

CPU = torch.device("cpu")


@functools.cache
def parts() -> TrainingParts:
    return parts_of(TrainingConfig(device="cpu"), unseen=digits()[1].subset(np.arange(300)))


def fitted(seed: int = 0, earlier: Guard | None = None) -> Guard:
    return fit_guard(parts(), Degradation(), earlier, CPU, Generator().manual_seed(seed))


@functools.cache
def guard() -> Guard:
    return fitted()


def degraded(pixels: Tensor, seed: int = 9) -> Tensor:
    return (degrade(to_unit(pixels), seed) * 255).round().to(torch.uint8)


def odds(network: Guard, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        return network(to_unit(pixels))


def test_it_tells_images_that_it_never_saw_by_their_look() -> None:
    clean = digits()[1].pixels[300:]
    assert separation(odds(guard(), clean), odds(guard(), degraded(clean))) > 0.99


def test_it_reads_the_look_and_not_the_class() -> None:
    """Failures of two classes alone: restyled images of every class are routed, clean ones of none."""
    given, unseen = parts(), digits()[1]
    rows = np.flatnonzero(np.isin(given.failures.images.labels, (8, 9)))
    few = dataclasses.replace(given, failures=given.failures.subset(rows), clusters=one_cluster(len(rows)))
    network = fit_guard(few, Degradation(), None, CPU, Generator().manual_seed(0))
    for pixels, least, most in ((unseen.pixels, 0.0, 0.1), (degraded(unseen.pixels), 0.9, 1.0)):
        routed = odds(network, pixels) > 0
        shares = [float(routed[torch.from_numpy(unseen.labels == k)].float().mean()) for k in range(10)]
        assert all(least <= share <= most for share in shares), shares


def test_the_same_seed_gives_the_same_guard_and_another_one_another() -> None:
    again, other = fitted().state_dict(), fitted(1).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in guard().state_dict().items())
    assert not torch.equal(other["hidden.weight"], again["hidden.weight"])


def test_it_is_fitted_to_nothing_that_chooses() -> None:
    before = fitted().state_dict()
    given = parts()
    other = dataclasses.replace(
        given, choosing=given.choosing.subset(np.arange(3)), validation=given.validation.subset(np.arange(2))
    )
    found = fit_guard(other, Degradation(), None, CPU, Generator().manual_seed(0)).state_dict()
    assert all(torch.equal(value, before[name]) for name, value in found.items())


class Brighter:
    """A style that shifts brightness by this much."""

    def __init__(self, shift: float) -> None:
        self.shift = shift

    def apply(self, content: Tensor, reference: Tensor, generator: Generator) -> Tensor:
        return (0.6 * content + 0.2 + self.shift).clamp(0, 1)

    def pixels(self, clean: Tensor) -> Tensor:
        return (self.apply(to_unit(clean), torch.empty(0), Generator()) * 255).round().to(torch.uint8)


def test_the_guard_of_a_second_repair_knows_the_first_look_too() -> None:
    """The first batch is dark, the second bright."""
    clean, looks, given, networks = digits()[1].pixels[300:], (Brighter(-0.2), Brighter(0.2)), parts(), list[Guard]()
    for style in looks:
        pixels = style.pixels(digits()[1].pixels[: len(given.failures)])
        batch = dataclasses.replace(given.failures, images=dataclasses.replace(given.failures.images, pixels=pixels))
        earlier = networks[-1] if networks else None
        for known in (None, earlier):
            generator = Generator().manual_seed(0)
            networks.append(fit_guard(dataclasses.replace(given, failures=batch), style, known, CPU, generator))
    _, first, forgot, knows = networks
    dark, bright = (style.pixels(clean) for style in looks)

    def routed(network: Guard, pixels: Tensor) -> float:
        return float((odds(network, pixels) > 0).float().mean())

    assert routed(first, dark) > 0.9
    assert routed(forgot, dark) < 0.5
    assert routed(knows, clean) < 0.1
    assert min(routed(knows, dark), routed(knows, bright)) > 0.9
    assert 2 * 128 < len(knows.looks) <= 3 * 128


def test_calibrated_odds_are_chances() -> None:
    network, clean = fitted(), digits()[1].pixels[300:]
    mixed = torch.lerp(to_unit(clean), to_unit(degraded(clean)), 0.3)
    looks = [statistics_of(clean), statistics_of((mixed * 255).round().to(torch.uint8))]
    calibrate(network, *looks)
    with torch.no_grad():
        found = torch.cat([network.odds_of(part) for part in looks]).sigmoid()
    truth = torch.arange(2).repeat_interleave(len(clean)).float()
    assert float(found.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(((found - truth) ** 2).mean()) <= 0.25


def test_separation_is_the_area_under_the_roc_curve() -> None:
    draw = np.random.default_rng(0)
    clean, failed = draw.integers(0, 20, 57).astype(float), draw.integers(5, 25, 23).astype(float)
    wanted = roc_auc_score(np.repeat([0, 1], [57, 23]), np.concatenate([clean, failed]))
    assert separation(torch.from_numpy(clean), torch.from_numpy(failed)) == pytest.approx(wanted, abs=1e-12)


def test_kept_is_what_the_gate_would_pass_on_these_images() -> None:
    policy = Config().gate
    before = np.ones(2000, bool)
    for lost in range(12):
        after = np.arange(2000) >= lost
        evidence = Evidence(paired_counts(before, after), {}, 0, 0, ParityCounts())
        found = {check.name: check.result for check in decide(evidence, policy).checks}
        kept = keeps_clean(before, after, policy.margin_points, policy.confidence, guarded=False)
        assert kept == (found["clean_non_regression"] == "PASS"), lost
    served, luck = np.arange(1250) >= 200, np.arange(1250) >= 200
    luck[:50], luck[1200:] = True, False  # 50 won, 50 lost
    assert not keeps_clean(served, luck, policy.margin_points, policy.confidence, guarded=False)
    luck[50:70] = True
    assert not keeps_clean(served, luck, policy.margin_points, policy.confidence, guarded=False)
    few = np.ones(50, bool)
    assert keeps_clean(few, few, 0.5, 0.95, guarded=True)
    assert not keeps_clean(few, few, 0.5, 0.95, guarded=False)
    assert not keeps_clean(few, np.arange(50) > 0, 0.5, 0.95, guarded=True)


def figures(form: str, repaired: float, kept: bool = True, routed: float = 0.01) -> FormFigures:
    return FormFigures(form, 0.5, 0.5, routed, 0.0, repaired, kept)


def test_the_form_that_repairs_most_is_taken_and_one_network_where_it_is_as_good() -> None:
    one, hard, mixed = figures("one", 0.5), figures("hard", 0.52, routed=0.02), figures("mixed", 0.8, kept=False)
    assert choose_form(one, [hard, mixed], 100, always=False) is one
    assert choose_form(one, [hard, mixed], 100, always=True) is hard
    assert choose_form(one, [hard, mixed], 10_000, always=False) is hard
    assert choose_form(dataclasses.replace(one, kept=False), [hard, mixed], 100, always=False) is hard
    assert choose_form(one, [mixed], 100, always=True) is one
    less = figures("mixed", 0.52, routed=0.01)
    assert choose_form(one, [hard, less], 10_000, always=False) is less


def answers(n: int, served: float, repaired: float, probability: Tensor) -> Answers:
    """The champion is right on the first share of n images, the repaired network on the last one."""
    labels = torch.zeros(n, dtype=torch.long)
    right = [torch.arange(n) < served * n, torch.arange(n) >= (1 - repaired) * n]
    outputs = [torch.stack((part.float(), 1 - part.float()), 1) * 8 for part in right]
    return Answers(right[0].numpy(), right[1].numpy(), *outputs, probability, labels)


def test_limits_bound_what_is_routed_and_a_blind_guard_is_not_used() -> None:
    clean, failed = torch.linspace(0, 0.4, 2000), torch.full((200,), 0.9)
    given = answers(2000, 0.9, 0.8, clean), answers(200, 0.0, 0.7, failed)
    for share in (0.01, 0.1):
        config = Config(guard=GuardConfig(max_routed=share))
        form = weigh_forms(*given, told=0.99, config=config)
        assert form.name != "one"
        assert form.chosen is not None
        assert form.chosen.repaired == pytest.approx(0.7)
        assert all(each.routed <= share + 0.001 for each in form.tried[1:])
        assert max(each.routed for each in form.tried[1:]) == pytest.approx(share, abs=0.001)
        assert form.chosen.routed == min(each.routed for each in form.tried[1:])
        assert sum(each.chosen for each in form.tried) == 1
    blind = weigh_forms(*given, told=0.55, config=Config())
    assert blind.name == "one"
    assert "0.55" in blind.note


def test_a_form_is_found_for_a_network_that_loses_clean_accuracy() -> None:
    """The tuned network knows the look alone; guarded it loses nothing."""
    given, served = parts(), champion()
    tuned = champion()
    images, labels = to_unit(degraded(digits()[0].pixels)), torch.from_numpy(digits()[0].labels)
    optimiser = torch.optim.Adam(tuned.parameters(), 3e-3)
    tuned.network.eval()
    order = torch.randperm(len(labels), generator=Generator().manual_seed(0))
    for index in order.split(100):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(tuned(images[index]), labels[index]).backward()
        optimiser.step()
    config = Config(training=TrainingConfig(max_clean_drop=2.0, device="cpu"))
    network, form = find_form(served, tuned, tuned, given, Degradation(), config, CPU)
    one = form.tried[0]
    assert one.clean_change < -2
    assert not one.kept
    assert form.name != "one"
    assert network is not None
    assert form.chosen is not None
    assert form.chosen.kept
    assert form.chosen.repaired > 0.5 * one.repaired
    assert form.separation is not None
    assert form.separation > 0.9
    again, same = find_form(served, tuned, tuned, given, Degradation(), config, CPU)
    assert same == form
    assert again is not None
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in network.state_dict().items())
    blind_network, blind = find_form(
        served, tuned, tuned, dataclasses.replace(given, validation=_clean_failures()), Identity(), config, CPU
    )
    assert (blind_network, blind.name) == (None, "one")
    empty = dataclasses.replace(given, validation=given.validation.subset(np.arange(0)))
    assert find_form(served, tuned, tuned, empty, Degradation(), config, CPU)[1].note


def _clean_failures():
    """Clean digits as if they were failures: they have no look."""
    validation = failures()[1]
    images = dataclasses.replace(validation.images, pixels=digits()[1].pixels[300 : 300 + len(validation)])
    return dataclasses.replace(validation, images=images)
