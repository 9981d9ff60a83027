"""Estimates of degradations that are known, from failures without labels or clean twins."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from style_helpers import digits, eight_bits, generator, photo_crops, scenes
from torch import Tensor

from repairops.config import StyleConfig
from repairops.core.styles.fitted import FittedDegradation, fit_fitted_degradation
from repairops.core.styles.fitted.degradation import PARAMETERS, Degradation, degrade
from repairops.core.styles.fitted.estimation import weigh
from repairops.core.styles.fitted.evidence import with_evidence
from repairops.core.styles.fitted.explanations import Group
from repairops.core.styles.fitted.look import CLEAR, INTERVAL, UNEXPLAINED, WORDINGS, FittedLook, findings, sentence
from repairops.core.styles.fitted.measures import measure
from repairops.core.styles.fitted.regression import ask


def fit(references: Tensor, clean: Tensor) -> FittedDegradation:
    return fit_fitted_degradation(references, clean, StyleConfig(), generator())


def degraded(images: Tensor, **parameters: float) -> Tensor:
    values = torch.tensor(list(parameters.values())).expand(len(images), -1)
    return eight_bits(degrade(images, Degradation(tuple(parameters), values, torch.eye(images.shape[1])), generator(5)))


def mean_of(found: FittedLook, name: str) -> float:
    return float(found.values[:, found.names.index(name)].mean()) if name in found.names else 0.0


@pytest.mark.parametrize("sigma", [0.1, 0.2])
def test_noise_on_digits_is_found_though_their_background_is_clipped(sigma: float) -> None:
    found = fit(degraded(digits()[:200], noise=sigma), digits()[300:1300]).found
    assert mean_of(found, "noise") == pytest.approx(sigma, rel=0.25)
    assert {PARAMETERS[name].family for name in found.names} == {"noise"}


def test_contrast_and_brightness_are_told_apart_on_digits() -> None:
    found = fit(degraded(digits()[:200], contrast=math.log(0.5), shift=0.1), digits()[300:1300]).found
    assert mean_of(found, "contrast") == pytest.approx(math.log(0.5), abs=0.1)
    assert mean_of(found, "shift") == pytest.approx(0.1, abs=0.03)


@pytest.mark.long
def test_thirty_failures_do_and_leave_more_uncertain() -> None:
    few, many = (fit(degraded(digits()[:n], noise=0.15), digits()[300:1300]).found for n in (30, 240))
    assert mean_of(few, "noise") == pytest.approx(0.15, rel=0.3)
    assert few.error[few.names.index("noise")] > 1.5 * many.error[many.names.index("noise")]


@pytest.mark.slow
def test_two_noise_levels_are_told_apart() -> None:
    references = torch.cat([degraded(digits()[:100], noise=0.05), degraded(digits()[100:200], noise=0.25)])
    found = fit(references, digits()[300:1300]).found
    noise = found.values[:, found.names.index("noise")]
    assert noise[:100].mean() < 0.12
    assert noise[100:].mean() > 0.2
    assert noise.std().item() == pytest.approx(0.1, rel=0.3)


@pytest.mark.long
@pytest.mark.parametrize(("name", "value", "within"), [("blur", 0.8, 0.2), ("impulses", 0.04, 0.01)])
def test_components_of_colour_images_are_found_alone(name: str, value: float, within: float) -> None:
    found = fit(degraded(scenes()[:100], **{name: value}), scenes()[100:]).found
    assert mean_of(found, name) == pytest.approx(value, abs=within)
    assert found.names == (name,)


def noisy_photos(noise: Tensor, shot: Tensor) -> tuple[Tensor, Tensor]:
    """200 crops of photos with noise of these strengths, (200,), and 600 other crops without."""
    crops = photo_crops(800)
    values = torch.stack([noise, shot], 1)
    noisy = degrade(crops[:200], Degradation(("noise", "shot"), values, torch.eye(3)), generator(5))
    return eight_bits(noisy), crops[200:]


SLOW_SHOT = pytest.param("shot", 0.0, 0.1, marks=pytest.mark.slow)


@pytest.mark.long
@pytest.mark.parametrize(("name", "noise", "shot"), [("noise", 0.08, 0.0), SLOW_SHOT])
def test_noise_of_one_kind_is_found_as_that_kind_and_whole(name: str, noise: float, shot: float) -> None:
    """Split between the kinds it would come out too weak: see `kind_of_noise`."""
    found = fit(*noisy_photos(torch.full((200,), noise), torch.full((200,), shot))).found
    assert found.names == (name,)
    assert mean_of(found, name) == pytest.approx(noise + shot, rel=0.1)
    assert found.unexplained() < 3


@pytest.mark.usefixtures("few_trials")
def test_a_look_that_no_component_has_is_said_to_be_something_else() -> None:
    """A black square: darker, but as no brightness, noise or loss of resolution is."""
    crops = photo_crops(300, side=16)
    covered = crops[:100].clone()
    covered[:, :, 4:12, 4:12] = 0
    found = fit(covered, crops[100:]).found
    unexplained = found.unexplained()
    assert unexplained > 1.5 * UNEXPLAINED
    assert found.unexplained(torch.arange(50)) > UNEXPLAINED
    assert findings(found)  # something stands in for it
    assert (
        findings(weigh(found, covered, crops[100:], generator())) == []
    )  # whatever stands in for it explains nothing by itself
    assert sentence([], 100, unexplained) == "a look that no degradation known here explains, 100 images"


@pytest.mark.slow
def test_noise_of_both_kinds_is_found_as_both() -> None:
    noise, shot = 0.1 * torch.rand(200, generator=generator(6)), 0.15 * torch.rand(200, generator=generator(7))
    found = fit(*noisy_photos(noise, shot)).found
    assert {"noise", "shot"} <= set(found.names)
    assert mean_of(found, "noise") == pytest.approx(noise.mean().item(), rel=0.2)
    assert mean_of(found, "shot") == pytest.approx(shot.mean().item(), rel=0.2)
    size = len(found.names)
    drawn = found.draw(torch.arange(200), generator(), torch.full((size,), -1.0), torch.ones(size))
    torch.testing.assert_close(drawn["shot"], 2**0.5 * drawn["noise"])  # as strong at half brightness


@pytest.mark.usefixtures("few_trials")
def test_clean_images_have_no_degradation_and_are_left_alone() -> None:
    style = fit(digits()[:200], digits()[300:1300])
    assert style.found.names == ()
    content = digits()[-50:]
    assert torch.equal(style.apply(content, torch.arange(50), generator()), content)
    assert sentence(findings(style.found), 200) == "no degradation that shows against clean images, 200 images"


@pytest.mark.slow
def test_noise_of_one_channel_stays_in_that_channel() -> None:
    references = scenes()[:100].clone()
    references[:, 1] = eight_bits(references[:, 1] + 0.1 * torch.randn(100, 32, 32, generator=generator(5)))
    style = fit(references, scenes()[100:])
    noise = style.apply(torch.full((100, 3, 32, 32), 0.5), torch.arange(100), generator()).flatten(2).std(2).mean(0)
    assert noise[1].item() == pytest.approx(0.1, rel=0.35)
    assert noise[[0, 2]].max() < 0.3 * noise[1]


def fixed(names: tuple[str, ...], values: list[float], spread: float = 0.0, count: int = 40) -> FittedLook:
    size = len(names)
    mean = torch.tensor(values)
    return FittedLook(
        names,
        mean.expand(count, -1),
        spread * torch.eye(size),
        torch.zeros(size),
        torch.eye(3),
    )


def test_a_reference_gives_other_draws_each_time_and_the_same_ones_from_one_seed() -> None:
    style = FittedDegradation(fixed(("noise",), [0.1], spread=0.05))
    content, reference = torch.full((200, 3, 16, 16), 0.5), torch.zeros(200, dtype=torch.int64)
    first, second = (style.apply(content, reference, generator(seed)) for seed in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, style.apply(content, reference, generator(0)))
    levels = first.flatten(1).std(1)
    assert levels.mean().item() == pytest.approx(0.1, rel=0.1)
    assert levels.std().item() == pytest.approx(0.05, rel=0.2)  # the uncertainty of the parameter is sampled


def test_alpha_scales_all_parameters() -> None:
    content = 0.3 + 0.4 * scenes()[:4]
    style = FittedDegradation(fixed(("shift", "contrast"), [0.1, math.log(0.25)]), alpha=0.5)
    mean = content.mean((2, 3), keepdim=True)
    styled = style.apply(content, torch.zeros(4, dtype=torch.int64), generator())
    torch.testing.assert_close(styled, mean + 0.5 * (content - mean) + 0.05)


@pytest.mark.parametrize("shape", [(5, 1, 8, 8), (5, 3, 9, 13), (5, 1, 1, 1)])
@pytest.mark.parametrize("kind", ["black", "white", "identical", "one"])
def test_degenerate_sets_give_finite_images(shape: tuple[int, ...], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repairops.core.styles.fitted.estimation.TRIALS", (200, 200))
    clean = torch.rand(shape, generator=generator(2))
    made = {
        "black": torch.zeros(shape),
        "white": torch.ones(shape),
        "identical": clean[:1].expand(shape).contiguous(),
        "one": clean[:1] * 0.5,
    }
    style = fit(made[kind], clean)
    content = torch.cat([clean, torch.zeros(shape), torch.ones(shape)])
    styled = style.apply(content, torch.arange(15) % len(made[kind]), generator())
    assert styled.isfinite().all()
    assert 0 <= styled.min() <= styled.max() <= 1


@pytest.mark.slow
def test_large_images_are_judged_in_tiles_and_restyled_whole() -> None:
    clean = scenes(40, 96)
    style = fit(degraded(clean[:30], noise=0.1), clean[10:])
    assert mean_of(style.found, "noise") == pytest.approx(0.1, rel=0.35)
    assert style.apply(clean[:2], torch.tensor([2, 0]), generator()).shape == (2, 3, 96, 96)


def test_answers_are_unbiased_where_the_regression_shrinks() -> None:
    """A measure with much scatter makes a regression answer near the middle; the answers must not."""
    draw = generator()
    truth = torch.rand(6000, 1, generator=draw)
    noisy = truth + 0.4 * torch.randn(6000, 1, generator=draw)
    asked = 0.9 + 0.4 * torch.randn(3000, 1, generator=draw)
    (answers,) = ask(noisy, truth, [asked], draw)
    assert answers.mean.item() == pytest.approx(0.9, abs=0.1)
    assert answers.slope.item() < 0.6
    assert answers.scatter.sqrt().item() == pytest.approx(0.4, rel=0.3)


def test_sentences_say_what_how_strong_and_in_how_many() -> None:
    values = torch.zeros(100, 4)
    values[:70, 0] = 0.07
    values[:, 1] = math.log(0.5)
    values[:, 2], values[:, 3] = 1.0, 1.0  # 45 degrees, twice the angle is 90
    values[:, 2] = 0.0
    found = FittedLook(
        ("noise", "contrast", "streak_x", "streak_y"),
        values,
        torch.zeros(4, 4),
        torch.full((4,), 0.001),
        torch.eye(3),
    )
    told = {finding.component: finding for finding in findings(found)}
    assert told["noise"].text == "additive colour noise, sigma 0.070 (0.070 to 0.070)"
    assert (told["noise"].images, told["noise"].of) == (70, 100)
    assert told["contrast"].text == "contrast reduced to 0.50 (0.50 to 0.50) of the original"
    assert told["streak"].text == "motion blur along 45 degrees, width 1.00 (1.00 to 1.00) pixels"
    assert sentence([told["noise"]], 100) == "additive colour noise, sigma 0.070 (0.070 to 0.070), 70 images"
    assert "noise" not in {finding.component for finding in findings(found, torch.arange(70, 100))}
    grey = FittedLook(**{**vars(found), "noise_shape": torch.ones(3, 3) / math.sqrt(3)})
    assert "grey noise" in findings(grey)[0].text


def test_told_is_what_explains_more_than_what_stays_unexplained() -> None:
    names = ("noise", "contrast", "specks")
    values, zero = torch.tensor([[0.07, -0.7, 0.1]]).expand(100, -1), torch.zeros(3)
    evidence = {"noise": CLEAR + 0.1, "contrast": CLEAR - 0.1}  # specks were not tried
    found = FittedLook(names, values, torch.zeros(3, 3), zero, torch.eye(3), evidence=evidence)
    assert [finding.component for finding in findings(found)] == ["noise", "specks"]
    left = torch.full((100, 1), 16.0).sqrt() + 0.1 * torch.randn(100, 1, generator=generator())
    strange = dataclasses.replace(found, surplus=left, evidence={"noise": 60.0, "contrast": 68.0, "specks": 17.0})
    assert strange.unexplained() == pytest.approx(16, abs=0.5)
    (told,) = findings(strange)
    assert (told.text, told.low, told.high) == ("contrast reduced to 0.50 of the original", None, None)
    assert told.value == pytest.approx(0.5, abs=0.01)
    assert sentence([told], 100, 16.0) == (
        "contrast reduced to 0.50 of the original, 100 images; much of their look is something else"
    )
    hidden = dataclasses.replace(found, surplus=left / 2, evidence={"noise": 3.5, "contrast": 4.5, "specks": 0.0})
    assert [finding.component for finding in findings(hidden)] == ["contrast"]
    assert findings(hidden)[0].low is not None
    nothing = dataclasses.replace(strange, evidence=dict.fromkeys(("noise", "contrast", "specks"), 60.0))
    assert findings(nothing) == []
    assert sentence([], 100, 16.0) == "a look that no degradation known here explains, 100 images"
    for parameter, wording in WORDINGS.items():
        assert "(" not in INTERVAL.sub("", wording.text), parameter


@pytest.mark.usefixtures("few_trials")
def test_what_is_there_is_needed_on_failures_that_did_not_fit_it_and_a_stranger_is_not() -> None:
    images = degraded(digits()[:120], noise=0.15)
    scenes_, draw = digits()[300:1000], generator()
    group = Group([images], measure(images), scenes_, torch.eye(1), 300)
    claimed = torch.tensor([[0.15, 0.05]]).expand(120, -1)
    found = FittedLook(("noise", "shift"), claimed, 0.01 * torch.eye(2), torch.zeros(2), torch.eye(1))
    before = draw.get_state()
    weighed = with_evidence(group, found, draw)
    assert torch.equal(draw.get_state(), before)  # so that what is fitted afterwards is what it was
    assert weighed.evidence["noise"] > 5 * CLEAR
    assert weighed.evidence["brightness"] < CLEAR
    assert torch.equal(weighed.values, found.values)
    assert with_evidence(group, found, generator()).evidence == weighed.evidence
    alone = dataclasses.replace(found, names=("noise",), values=claimed[:, :1], spread=0.01 * torch.eye(1))
    assert with_evidence(group, alone, draw).evidence["noise"] > 5 * CLEAR


def test_a_streaks_width_does_not_shrink_where_directions_are_uncertain() -> None:
    values, spread = torch.zeros(50, 2), 0.8 * torch.eye(2)
    values[:, 0] = 0.6
    nothing = torch.zeros(2)
    found = FittedLook(("streak_x", "streak_y"), values, spread, nothing, torch.eye(3))
    (told,) = findings(found)
    assert told.value == pytest.approx(math.sqrt(0.6**2 + 2 * 0.8**2))
    bound = torch.tensor([9.0, 9.0])
    drawn = found.draw(torch.zeros(4000, dtype=torch.int64), generator(), -bound, bound)
    assert torch.hypot(drawn["streak_x"], drawn["streak_y"]).square().mean().sqrt().item() == pytest.approx(
        told.value, rel=0.03
    )


@pytest.mark.slow
@pytest.mark.parametrize("fade", [0.0, 1.0])
def test_how_trails_fade_is_told_by_a_group_and_their_width_with_it(fade: float) -> None:
    values = torch.tensor([[1.2, 0.0]]).expand(150, -1)
    images = degrade(scenes()[:150], Degradation(("streak_x", "streak_y"), values, torch.eye(3), fade), generator(5))
    found = fit(eight_bits(images), scenes()[150:]).found
    assert found.fade == pytest.approx(fade, abs=0.25)
    told = {finding.component: finding for finding in findings(found)}
    assert told["streak"].value == pytest.approx(1.2, rel=0.3)
