"""Guarded classifiers: put together and taken apart; who answers for which images, and counts of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from repairops.data.records import FailureBatch, GuardAnswers, ImageSet
from repairops.gate.evidence import RoutedCounts, Routing
from repairops.model.device import set_mode
from repairops.model.evaluation import Evaluation
from repairops.model.guarded import Guard, Guarded
from repairops.model.network import Classifier, own_copy

BINS = 20  # of the probability's histograms
TIE, ROUNDING = 1e-3, 1e-7  # of a limit's distance from 0 or 1; and of a float near 1


def networks_of(served: Classifier) -> tuple[Classifier, Classifier]:
    """The champion that answers for clean images, and the network that a repair starts from.

    Of a guarded version these are its two networks, so that a repaired version that is repaired again keeps its
    champion; else both are the network itself.
    """
    network = served.network
    if not isinstance(network, Guarded):
        return served, served
    return Classifier(network.champion, served.spec), Classifier(network.repaired, served.spec)


def guarded(champion: Classifier, repaired: nn.Module, guard: Guard, low: float, high: float) -> Classifier:
    """Both networks with a guard as one classifier, in eval mode."""
    spec = champion.spec
    network = Guarded(
        champion.network,
        repaired,
        guard,
        low=low,
        high=high,
        classes=spec.classes,
        value_range=spec.value_range,
        mean=spec.mean,
        std=spec.std,
    )
    set_mode(network, training=False)
    return Classifier(network, spec)


def form_of(network: nn.Module) -> str:
    """'one' network, or guarded 'hard' or 'mixed', as in `outcome.sections.Form`."""
    if not isinstance(network, Guarded):
        return "one"
    low, high = network.limits.tolist()
    return "mixed" if low < high else "hard"


def guarded_from(network: Classifier, state: Mapping[str, Tensor]) -> Classifier:
    """A guarded classifier with the `state_dict` of one, and two networks of this one's class.

    Raises RuntimeError and KeyError where the state is not that of such a pair.
    """
    guard = Guard(len(state["guard.mean"]))
    guard.looks = torch.empty_like(state["guard.looks"])
    found = guarded(network, own_copy(network.network), guard, *state["limits"].tolist())
    found.network.load_state_dict(state)
    return found


def at_a_limit(network: nn.Module, probability: np.ndarray) -> np.ndarray:
    """Which images, bool (N,), have a probability so near to one of the guard's limits that rounding may decide who
    answers. network: a guarded one.
    """
    assert isinstance(network, Guarded)
    limits = network.limits.cpu().numpy()[None]
    apart = np.abs(probability[:, None] - limits)
    near: np.ndarray = (apart <= TIE * np.minimum(limits, 1 - limits) + ROUNDING).any(1)
    return near


def routing_of(
    evaluation: Evaluation,
    clean: ImageSet,
    heldout: FailureBatch,
    nearest: np.ndarray,
    clusters: int,
    slices: np.ndarray,
) -> Routing | None:
    """Who answers on the images that judge; None for a network without a guard.

    nearest: int64 (n,), the held-out failures' clusters; clusters: their number. slices: text (N,), the clean images'
    slices, '' for none; or empty.
    """
    if evaluation.guard is None:
        return None
    on_clean, on_failures = evaluation.guard
    failures, routed, away = heldout.images, on_clean.routed, on_failures.routed
    numbers = [str(number) for number in range(clusters)]
    return Routing(
        clean=RoutedCounts(int(routed.sum()), len(routed)),
        heldout=RoutedCounts(int(away.sum()), len(away)),
        clean_by_class=_counts(routed, clean.labels, clean.class_names),
        heldout_by_class=_counts(away, failures.labels, failures.class_names),
        heldout_by_cluster=_counts(away, nearest, numbers),
        heldout_by_source=_counts_by_name(away, heldout.sources),
        clean_by_slice=_counts_by_name(routed, slices),
        clean_histogram=_histogram(on_clean.probability),
        heldout_histogram=_histogram(on_failures.probability),
    )


def by_who_answers(
    guard: Sequence[GuardAnswers] | None, sets: Sequence[Tensor], limit: int = 32
) -> tuple[Tensor, Tensor]:
    """At most `limit` images of the sets that the champion answers alone, and as many that the repaired network does.

    Without a guard the first ones are all the champion's: it is one network.
    """
    weights = [answers.weight for answers in guard] if guard else [np.zeros(len(part)) for part in sets]
    champion, repaired = (
        torch.cat([part[np.flatnonzero(weight == who)[:limit]] for part, weight in zip(sets, weights, strict=True)])
        for who in (0, 1)
    )
    return champion[:limit], repaired[:limit]


def _counts(routed: np.ndarray, parts: np.ndarray, names: Sequence[str]) -> dict[str, RoutedCounts]:
    """By part, of those that have images; parts: int64 (N,), indices into `names`."""
    members = {name: parts == number for number, name in enumerate(names)}
    return {n: RoutedCounts(int(routed[m].sum()), int(m.sum())) for n, m in members.items() if m.any()}


def _counts_by_name(routed: np.ndarray, parts: np.ndarray) -> dict[str, RoutedCounts]:
    """By the names that the images have, text (N,), '' for none; or empty."""
    names, numbers = np.unique(parts, return_inverse=True)
    return {name: counts for name, counts in _counts(routed, numbers, names.tolist()).items() if name}


def _histogram(probability: np.ndarray) -> tuple[int, ...]:
    return tuple(np.histogram(probability, BINS, (0, 1))[0].tolist())
