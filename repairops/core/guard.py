"""Fitting a guard: to clean train images, the same images restyled, and the repair failures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Generator, Tensor

from repairops.core.methods.style_operations import StyleOperations, reference_weights
from repairops.core.parts import TrainingParts
from repairops.core.styles import Style
from repairops.model.device import seeded
from repairops.model.guarded import MEMBERS, Guard, look_statistics
from repairops.model.network import from_unit, to_unit

STEPS, QUARTER = 400, 64  # steps of fitting; a quarter of a batch
RATE, DECAY = 5e-3, 2e-2
CHUNK = 250  # images whose statistics are taken at once
REMEMBERED = 128  # statistics of each kind that a guard keeps for the guard after it


@dataclass(frozen=True, eq=False)
class LookStatistics:
    """`look_statistics` of what a guard is fitted to, (N, S) each.

    restyled: of the images behind the first rows of `clean`, in the same order. earlier: of the looks that an earlier
    guard has learnt, if any.
    """

    clean: Tensor
    restyled: Tensor
    failures: Tensor
    earlier: Tensor


def statistics_of(images: Tensor) -> Tensor:
    """`look_statistics` of uint8 images (N, C, H, W), a few at a time, on the CPU."""
    with torch.no_grad():
        return torch.cat([look_statistics(to_unit(chunk.cpu())) for chunk in torch.split(images, CHUNK)])


def fit_guard(
    parts: TrainingParts, style: Style, earlier: Guard | None, device: torch.device, generator: Generator
) -> Guard:
    """A guard for the look of the repair failures, and for those that the `earlier` one knows.

    Fitted on clean train images, on the same images restyled (their twins), and on the repair failures, so on nothing
    that chooses or judges. The style works on `device`. The same generator gives the same guard.
    """
    clean = parts.sample.pixels
    styles = StyleOperations(style, reference_weights(parts.clusters), parts.clusters.count)
    known = earlier.looks.float() if earlier is not None else torch.empty(0)
    seen = LookStatistics(
        clean=statistics_of(clean),
        restyled=statistics_of(restyled_twins(clean.to(device), styles, generator)),
        failures=statistics_of(parts.failures.images.pixels),
        earlier=known,
    )
    guard = fit_to_statistics(seen, generator)
    chosen = (kind[:REMEMBERED] for kind in (seen.restyled, seen.failures, known.reshape(-1, seen.clean.shape[1])))
    guard.looks = torch.cat(list(chosen)).half()
    return guard


def restyled_twins(images: Tensor, styles: StyleOperations, generator: Generator) -> Tensor:
    """Images uint8 (N, C, H, W) in the failures' look, in 8 bits as a camera would store them."""
    with torch.no_grad():
        return torch.cat([from_unit(styles.apply(to_unit(chunk), generator)) for chunk in torch.split(images, CHUNK)])


def fit_to_statistics(seen: LookStatistics, generator: Generator) -> Guard:
    """A guard that tells clean images from all others; the same generator gives the same guard.

    Clean images weigh as much as the others together, and an earlier look as much as the new one. A clean image and
    its restyled twin are drawn together, so that what they show says nothing of which they are.
    """
    kinds = [seen.clean, seen.restyled, seen.failures] + ([seen.earlier] if len(seen.earlier) else [])
    every = torch.cat(kinds)
    guard = Guard(every.shape[1])
    with seeded(int(torch.randint(2**31, (1,), generator=generator)), torch.device("cpu")):
        guard.hidden.reset_parameters()
        guard.odds.reset_parameters()
    guard.mean.copy_(every.mean(0))
    guard.deviation.copy_(every.std(0).clamp_min(1e-3))
    optimiser = torch.optim.AdamW(guard.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    wanted = torch.arange(4 * QUARTER).ge(2 * QUARTER).float()[:, None].expand(-1, MEMBERS)

    def drawn(kind: Tensor, count: int) -> Tensor:
        return kind[torch.randint(0, len(kind), (count,), generator=generator)]

    old = QUARTER if len(seen.earlier) else 0
    with torch.enable_grad():
        for _ in range(STEPS):
            twins = torch.randint(0, len(seen.restyled), (QUARTER,), generator=generator)
            batch = torch.cat(
                (
                    seen.clean[twins],
                    drawn(seen.clean, QUARTER),
                    seen.restyled[twins[: QUARTER - old // 2]],
                    drawn(seen.failures, QUARTER - old // 2),
                    *([drawn(seen.earlier, old)] if old else []),
                )
            )
            loss = F.binary_cross_entropy_with_logits(guard.members(batch), wanted)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return guard.eval().requires_grad_(False)


def calibrate(guard: Guard, clean: Tensor, failures: Tensor) -> None:
    """Sets scale and shift by logistic regression on statistics (N, S) that the guard was not fitted to.

    Both sides weigh alike. Source: Platt 1999, with his targets, which keep a perfect separation finite.
    """
    odds = torch.cat([guard.members(part).mean(1) for part in (clean, failures)]).double()
    sizes = (len(clean), len(failures))
    aims = (1 / (len(clean) + 2), (len(failures) + 1) / (len(failures) + 2))
    targets = torch.cat([torch.full((n,), aim) for n, aim in zip(sizes, aims, strict=True)]).double()
    weights = torch.cat([torch.full((n,), 1 / n) for n in sizes]).double()
    line = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        found = F.binary_cross_entropy_with_logits(line[0] * odds + line[1], targets, weights, reduction="sum")
        found.backward()  # type: ignore[no-untyped-call]
        return found

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    if line.isfinite().all() and line[0] > 0:
        guard.scale.fill_(float(line[0].detach()))
        guard.shift.fill_(float(line[1].detach()))


def separation(clean: Tensor, failures: Tensor) -> float:
    """Area under the ROC curve: the chance that a failure's odds are above a clean image's, ties by half."""
    n, m = len(clean), len(failures)
    ranks = rankdata(torch.cat((clean, failures)).numpy())
    return float((ranks[n:].sum() - m * (m + 1) / 2) / (n * m))
