"""The form of a repair: one network on the line between the weights, or two with a guard that decides who answers.

What chooses (clean choosing images and validation failures) calibrates the guard, sets its limits and picks the form;
nothing here judges.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from repairops.config import Config, derive_seed
from repairops.core.guard import calibrate, fit_guard, separation, statistics_of
from repairops.core.parts import TrainingParts
from repairops.core.styles import Style
from repairops.gate.exact import exact_p_value
from repairops.model.evaluation import logits
from repairops.model.guarded import Guard, Guarded, mix, weight_of
from repairops.model.network import Classifier
from repairops.model.routing import networks_of
from repairops.outcome.sections import Form, FormFigures

BLIND = 0.6  # area under the ROC curve below which a guard tells nothing
ROUTED = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)  # shares of clean images
SURE = 0.95  # the guard's probability from which the repaired network answers alone in the mixed form


@dataclass(frozen=True, eq=False)
class Answers:
    """What is known of one part that chooses.

    served: what is served now is right, bool (N,). one: the one repaired network is right, bool (N,). champion,
    repaired: logits (N, K) of a guarded form's networks. probability: the guard's, (N,). labels: (N,).
    """

    served: np.ndarray
    one: np.ndarray
    champion: Tensor
    repaired: Tensor
    probability: Tensor
    labels: Tensor

    def right(self, weight: Tensor) -> np.ndarray:
        """Which images are right where the repaired network has this weight (N,) in the answer: bool (N,)."""
        found: np.ndarray = (mix(self.champion, self.repaired, weight).argmax(1) == self.labels).numpy()
        return found


def find_form(
    served: Classifier,
    tuned: Classifier,
    one: Classifier,
    parts: TrainingParts,
    style: Style,
    config: Config,
    device: torch.device,
) -> tuple[Guard | None, Form]:
    """Fits a guard, and takes the form that repairs most among those that keep clean accuracy (`choose_form`).

    served: what answers now. tuned: the fine-tuned network. one: the network that is served without a guard. Returns
    the guard of a guarded form, calibrated. The same arguments give the same form.
    """
    if not len(parts.validation) or not len(parts.choosing):
        return None, Form(note="There is nothing to choose a guard by, so one network is served.")
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "guard"))
    earlier = served.network.guard if isinstance(served.network, Guarded) else None
    guard = fit_guard(parts, style, earlier, device, generator)
    sides = (parts.choosing, parts.validation.images)
    looks = [statistics_of(images.pixels) for images in sides]
    # One network that was repaired before knows the earlier looks itself: they need no guard.
    sought = len(parts.validation) - (parts.settled if earlier is None else 0)
    calibrate(guard, looks[0], looks[1][:sought])
    with torch.no_grad():
        odds = [guard.odds_of(look) for look in looks]
    champion, _ = networks_of(served)
    answers = []
    for images, odd in zip(sides, odds, strict=True):
        outputs = {
            who: torch.from_numpy(logits(who, images.pixels, device=device)) for who in (served, one, champion, tuned)
        }
        right = {who: (out.argmax(1).numpy() == images.labels) for who, out in outputs.items()}
        answers.append(
            Answers(
                right[served], right[one], outputs[champion], outputs[tuned], odd.sigmoid(),
                torch.from_numpy(images.labels),
            )
        )  # fmt: skip
    form = weigh_forms(*answers, told=separation(odds[0], odds[1][:sought]), config=config)
    return (guard if form.name != "one" else None), form


def weigh_forms(clean: Answers, failures: Answers, *, told: float, config: Config) -> Form:
    """One network against the guarded forms at several limits, by the parts that choose; told: the separation."""
    alone = _figures("one", (0.0, 0.0), np.ones(len(clean.labels)), clean.one, failures.one, clean.served, config)
    tried = [alone]
    shares = {share for share in ROUTED if share < config.guard.max_routed} | {config.guard.max_routed}
    for low in sorted({_limit(clean.probability, share) for share in shares}):
        kinds = (("hard", low), ("mixed", SURE)) if low < SURE else (("hard", low),)
        for name, high in kinds:
            weight, other = (weight_of(part.probability, low, high) for part in (clean, failures))
            rights = clean.right(weight), failures.right(other)
            tried.append(_figures(name, (low, high), weight.numpy(), *rights, clean.served, config))
    if told < BLIND:
        chosen, note = alone, (
            "The guard cannot tell the failures from clean images by their look (area under the ROC curve "
            f"{told:.2f}), so one network is served."
        )  # fmt: skip
    else:
        chosen, note = choose_form(alone, tried[1:], len(failures.labels), always=config.guard.mode == "on"), ""
    figures = tuple(dataclasses.replace(form, chosen=form is chosen) for form in tried)
    return Form(chosen.form, told, note, figures)


def _limit(probability: Tensor, share: float) -> float:
    """A limit from which on at most this share of the probabilities (N,) lies, in the middle between two of them."""
    falling = torch.cat((torch.ones(1), probability.float().sort(descending=True).values)).double()
    routed = int(share * len(probability))
    return float(falling[routed : routed + 2].mean())


def choose_form(one: FormFigures, guarded: Sequence[FormFigures], failures: int, *, always: bool) -> FormFigures:
    """What repairs most among those that keep clean accuracy; of those that repair alike, what routes least.

    One network where it is as good within a standard error on `failures` validation failures, since it is cheaper to
    serve; always: only where no guarded form keeps clean accuracy.
    """
    kept = [form for form in guarded if form.kept]
    if not kept:
        return one
    best = max(kept, key=lambda form: (form.repaired, -form.routed))
    noise = math.sqrt(best.repaired * (1 - best.repaired) / max(failures, 1))
    return one if one.kept and not always and one.repaired >= best.repaired - noise else best


def keeps_clean(before: np.ndarray, after: np.ndarray, max_drop: float, confidence: float, *, guarded: bool) -> bool:
    """Whether these answers, right or not, bool (N,), would pass the gate's own test of clean accuracy.

    What is won beyond what is lost counts for nothing: a repair seldom makes clean answers better, and the form that
    looks best among many has been lucky. So one network, which changes many decisions, is kept where many images show
    that it loses none.

    Where the images are too few to show that even of answers that do not change at all, a guarded form is taken that
    loses none on balance, since it changes few; of one network, which changes more, nothing is known.
    """
    won, lost, n = int((~before & after).sum()), int((before & ~after).sum()), len(before)
    margin, risk, won = max_drop / 100, 1 - confidence, min(won, lost)
    if exact_p_value(0, 0, n, -margin) > risk:
        return guarded and won >= lost
    return exact_p_value(won, lost, n, -margin) <= risk


def _figures(
    form: str,
    limits: tuple[float, float],
    weight: np.ndarray,
    clean: np.ndarray,
    failures: np.ndarray,
    served: np.ndarray,
    config: Config,
) -> FormFigures:
    """weight: the repaired network's, (N,). clean, failures, served: right or not, bool."""
    return FormFigures(
        form,
        *limits,
        routed=float((weight > 0).mean()),
        clean_change=100 * float(clean.mean() - served.mean()),
        repaired=float(failures.mean()),
        kept=keeps_clean(served, clean, config.training.max_clean_drop, config.gate.confidence, guarded=form != "one"),
    )
