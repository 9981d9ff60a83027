"""What each component of an estimate explains: how much less failures look like it where it is left out.

A regression answers for every component that it may give, and one that is not there can stand in for what has no name
here: a warp moves the numbers that specks move. So half of the failures fit the estimate without each family in turn,
and the other half says how much farther it is from images so degraded, when the other components have made up for what
they can. The estimate itself is not changed, only what is told of it, see `look.findings`.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Generator, Tensor

from repairops.core.styles.fitted.degradation import PARAMETERS
from repairops.core.styles.fitted.explanations import BOTH_ALIKE, LEAST_SPREAD, Group
from repairops.core.styles.fitted.look import FittedLook, nothing
from repairops.core.styles.fitted.measures import measure
from repairops.core.styles.fitted.regression import ABSENT, ask
from repairops.core.styles.whitening import safe_eigh

TRIALS, SIMULATED = 1500, 1000  # for each family that is left out
FEWEST = 40  # failures; fewer are not halved


def with_evidence(group: Group, found: FittedLook, generator: Generator) -> FittedLook:
    """The estimate with `FittedLook.evidence` of each of its families; generator: left as it is.

    Costs TRIALS and SIMULATED images, measured, for each family and once more.
    """
    if not found.names:
        return found
    generator = torch.Generator().set_state(generator.get_state())
    order = torch.randperm(len(group.measured), generator=generator).to(group.measured.device)
    fitting, judging = order.tensor_split(2) if len(order) >= FEWEST else (order, order)
    seed = int(torch.randint(2**62, (), generator=generator))
    names = found.names
    if {"noise", "shot"} <= set(names):  # both with one strength, see `Group`
        names = tuple(name for name in names if name != "shot")
        group = dataclasses.replace(group, shot_ratio=BOTH_ALIKE)

    def simulate(names: tuple[str, ...]) -> Tensor:
        """Measures of images that are degraded as the fitting half says with these parameters alone."""
        draws = torch.Generator().manual_seed(seed)
        look = nothing(group.tiles[0][:1])
        if names:
            drawn = around(names, found, *group.limits(names), TRIALS, draws)
            tried = measure(group.try_out(names, drawn, draws, found.fade))
            look = group.found(names, ask(tried, drawn, [group.measured[fitting]], draws)[0], found.fade)
        index = torch.randint(len(look.values), (SIMULATED,), generator=draws)
        return measure(group.like(look, index, draws))

    whole = simulate(names)
    roots, vectors = safe_eigh(whole.T.cov())
    telling = roots > LEAST_SPREAD * roots.amax()
    whitening = vectors[:, telling] / roots[telling].sqrt()
    seen = group.measured[judging].mean(0)

    def distance(simulated: Tensor) -> float:
        return float(((seen - simulated.mean(0)) @ whitening).square().sum())

    explained = distance(whole)
    evidence = {}
    for family in dict.fromkeys(PARAMETERS[name].family for name in names):
        without = tuple(name for name in names if PARAMETERS[name].family != family)
        evidence[family] = distance(simulate(without)) - explained
    return dataclasses.replace(found, evidence=evidence)


def around(
    names: tuple[str, ...], found: FittedLook, low: Tensor, high: Tensor, count: int, generator: Generator
) -> Tensor:
    """Parameters (count, P) of trials around what was found, now and then without a family."""
    index = torch.tensor([found.names.index(name) for name in names], device=low.device)
    values = found.values[:, index]
    remaining = (found.spread[index].square().sum(1) + values.var(0, correction=0)).sqrt()
    width = remaining + 2 * torch.tensor([PARAMETERS[name].least for name in names], device=low.device)
    drawn = values.mean(0) + width * torch.randn(count, len(names), generator=generator).to(low.device)
    families = [PARAMETERS[name].family for name in names]
    different = list(dict.fromkeys(families))
    absent = torch.rand(count, len(different), generator=generator) < (ABSENT if len(different) > 1 else ABSENT / 3)
    return drawn.clamp(low, high) * ~absent[:, [different.index(family) for family in families]].to(low.device)
