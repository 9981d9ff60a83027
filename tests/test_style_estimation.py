"""The estimate of a degradation step by step: another look beside what was found, and what goes because it is weak."""

from __future__ import annotations

import dataclasses

import torch
from style_helpers import digits, eight_bits, generator
from torch import Tensor

from repairops.core.styles.fitted.degradation import PARAMETERS, Degradation, degrade, limits, parameter_names
from repairops.core.styles.fitted.estimation import beside, needed
from repairops.core.styles.fitted.explanations import Group, with_surplus
from repairops.core.styles.fitted.look import FittedLook
from repairops.core.styles.fitted.measures import measure
from repairops.core.styles.fitted.regression import Answers, ask, local


def test_another_look_is_near_what_was_found_and_without_it_and_over_all_else() -> None:
    names = parameter_names(1, 32)
    low, high = limits(names, 32)
    values = torch.tensor([[-1.0, 0.15]]).expand(50, -1)
    found = FittedLook(("contrast", "specks"), values, torch.zeros(2, 2), torch.zeros(2), torch.eye(1))
    drawn = beside(names, found, low, high, 4000, generator())
    assert ((drawn >= low) & (drawn <= high)).all()
    near = {}
    for name, mean in (("contrast", -1.0), ("specks", 0.15)):
        near[name] = (drawn[:, names.index(name)] - mean).abs() < 4 * PARAMETERS[name].least
        assert 0.35 < near[name].float().mean() < 0.5  # and a few by chance
        assert (drawn[:, names.index(name)] == 0).float().mean() > 0.4
    assert (near["contrast"] & ~near["specks"]).float().mean() > 0.15  # each for itself
    for name in {"noise", "blur", "rows"}:
        assert 0.05 < (drawn[:, names.index(name)] != 0).float().mean() < 0.3


def answers_for(group: Group, names: tuple[str, ...]) -> Answers:
    draw = generator(1)
    low, high = group.limits(names)
    drawn = low + (high - low) * torch.rand(900, len(names), generator=draw)
    (answers,) = ask(measure(group.try_out(names, drawn, draw)), drawn, [group.measured], draw)
    drawn = local(names, answers, low, high, 900, draw)
    return ask(measure(group.try_out(names, drawn, draw)), drawn, [group.measured], draw)[0]


def names_needed(names: tuple[str, ...], values: list[float], claimed: dict[str, float]) -> tuple[str, ...]:
    """What stays of digits with these parameters; claimed: the means that the answers are shifted to."""
    truth = Degradation(names, torch.tensor(values).expand(200, -1), torch.eye(1))
    images = eight_bits(degrade(digits()[:200], truth, generator(5)))
    group = Group([images], measure(images), digits()[300:1300], torch.eye(1), 900)
    answers = answers_for(group, names)
    shift: Tensor = torch.tensor([claimed.get(n, m) - m for n, m in zip(names, answers.mean.tolist(), strict=True)])
    answers = dataclasses.replace(answers, values=answers.values + shift)
    return needed(group, names, answers, with_surplus(group, group.found(names, answers), 0), 0).names


def test_a_weak_component_that_explains_nothing_goes() -> None:
    assert names_needed(("noise", "blur"), [0.15, 0.0], {"blur": 0.3}) == ("noise",)


def test_a_weak_component_without_which_more_is_unexplained_stays() -> None:
    assert names_needed(("contrast", "noise"), [-0.22, 0.03], {}) == ("contrast", "noise")


def test_trials_stay_within_the_limits_where_an_answer_lies_beyond_them() -> None:
    """Half of them would lie at the limit, or all: nothing would be learned of the parameter."""
    answers = Answers(torch.full((50, 1), -0.1), 0.02**2 * torch.eye(1), torch.zeros(1), torch.ones(1))
    drawn = local(("noise",), answers, torch.zeros(1), torch.full((1,), 0.3), 2000, generator())
    assert 0.3 < (drawn > 0).float().mean() < 0.6
