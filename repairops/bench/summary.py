"""From the records of cells to figures: shares, means over seeds and corruptions, intervals. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t

Record = Mapping[str, Any]
Measure = Callable[[Record], float]
STUDENT = 3  # seeds from which on their spread says more than that of the images
PLACE = ("network", "corruption", "rival", "seed")  # where a cell stands in the grid


@dataclass(frozen=True)
class Mean:
    """A mean in percent with half a 95% interval. With one or two seeds it is that of sampling images."""

    mean: float
    half: float
    seeds: int

    def __str__(self) -> str:
        return "-" if math.isnan(self.mean) else f"{self.mean:.1f} ± {self.half:.1f}"


def place(record: Record) -> str:
    return "/".join(str(record["cell"][name]) for name in PLACE)


def share(part: float, total: float) -> float:
    """In percent; NaN of nothing."""
    return 100 * part / total if total else math.nan


def residual(record: Record) -> float:
    """Accuracy on the residual failures, percent."""
    counts = record["figures"]["residual"]
    return share(counts["right"], counts["n"])


def disjoint(record: Record) -> float:
    """The same on those of judging photos."""
    counts = record["figures"]["residual"]
    return share(counts["disjoint_right"], counts["disjoint_n"])


def clean_before(record: Record) -> float:
    return _clean(record, "both_right", "champion_only")


def clean_after(record: Record) -> float:
    return _clean(record, "both_right", "challenger_only")


def clean_change(record: Record) -> float:
    """Of clean accuracy, in points."""
    return clean_after(record) - clean_before(record)


def negative_flips(record: Record) -> float:
    """Clean images that were right and are wrong now, percent of all."""
    return _clean(record, "champion_only")


def changed(record: Record) -> float:
    """Clean decisions that turned right or wrong, percent of all."""
    return _clean(record, "champion_only", "challenger_only")


def _clean(record: Record, *names: str) -> float:
    """Of the pairs of answers on the clean set, those of these names, percent."""
    counts = record["figures"]["clean"]
    return share(sum(counts[name] for name in names), sum(counts.values()))


def corrupted_before(record: Record) -> float:
    return fmean(record["figures"]["champion_accuracy_by_severity"]) * 100


def corrupted_after(record: Record) -> float:
    """Accuracy under the corruption repaired against, right and wrong images alike, without the failure batch."""
    counts = record["figures"]["corrupted"]
    return share(counts["right"], counts["n"])


def on_batch(record: Record) -> float:
    """Accuracy on the repair failures themselves at the chosen epoch; NaN where nothing was trained."""
    training = record["figures"]["training"]
    if not training:
        return math.nan
    return 100 * float(training["history"][training["best_epoch"]].get("repair_failures_accuracy", math.nan))


def others_gain(record: Record) -> float:
    """Points gained on the other corruptions, mean; NaN where they were not measured."""
    others = record["figures"]["others"].values()
    return fmean(share(o["right"] - o["champion_right"], o["n"]) for o in others) if others else math.nan


def kept(records: Sequence[Record]) -> list[Record]:
    """The same cells with the figures of the weights that keep clean accuracy; without cells that have none."""
    return [{**r, "figures": r["figures"] | r["figures"]["kept"]} for r in records if r["figures"].get("kept")]


def guarded(records: Sequence[Record]) -> list[Record]:
    """The same cells with the figures of the guarded form; without cells that have none."""
    return [{**r, "figures": r["figures"] | r["figures"]["guarded"]} for r in records if r["figures"].get("guarded")]


def routed(record: Record) -> float:
    """Clean images that the repaired network of the guarded form answers, percent."""
    return 100 * float(record["figures"]["guarded"]["routed"])


def separation(record: Record) -> float:
    """Area under the ROC curve of the guard's odds on the parts that choose."""
    return float(record["figures"]["guarded"]["separation"])


def weight(record: Record) -> float:
    """Of the fine-tuned network in the weights that keep clean accuracy, percent; 0 is the champion."""
    return 100 * float(record["figures"]["kept"]["weight"])


def over_seeds(records: Sequence[Record], measure: Measure, images: Callable[[Record], int]) -> Mean:
    """The mean over seeds of the mean over corruptions, of a share of `images` images in percent.

    Three or more seeds: Student's interval over them. Fewer: the normal interval of a mean of proportions, which leaves
    out what another seed would change.
    """

    def variance(record: Record) -> float:
        p = measure(record) / 100
        return 1e4 * p * (1 - p) / max(1, images(record))

    return _over_seeds(records, measure, variance)


def change_over_seeds(records: Sequence[Record]) -> Mean:
    """The same of the change of clean accuracy, in points; for few seeds by what the same images lose and win."""

    def variance(record: Record) -> float:
        return (100 * changed(record) - clean_change(record) ** 2) / max(1, clean_images(record))

    return _over_seeds(records, clean_change, variance)


def _over_seeds(records: Sequence[Record], measure: Measure, variance: Measure) -> Mean:
    by_seed: dict[int, list[float]] = {}
    for record in records:
        by_seed.setdefault(record["cell"]["seed"], []).append(measure(record))
    means = [fmean(values) for values in by_seed.values()]
    if not means:
        return Mean(math.nan, math.nan, 0)
    if len(means) >= STUDENT:
        half = float(t.ppf(0.975, len(means) - 1)) * stdev(means) / math.sqrt(len(means))
        return Mean(fmean(means), half, len(means))
    variances = [variance(record) for record in records if not math.isnan(measure(record))]
    half = 1.96 * math.sqrt(sum(variances)) / max(1, len(variances))
    return Mean(fmean(means), half, len(means))


def residual_images(record: Record) -> int:
    return int(record["figures"]["residual"]["n"])


def disjoint_images(record: Record) -> int:
    return int(record["figures"]["residual"]["disjoint_n"])


def clean_images(record: Record) -> int:
    return int(sum(record["figures"]["clean"].values()))


def select(records: Sequence[Record], **where: Any) -> list[Record]:
    """The records whose cell has these values."""
    return [r for r in records if all(r["cell"][name] == value for name, value in where.items())]


def distinct(records: Sequence[Record], name: str, order: Sequence[Any] = ()) -> list[Any]:
    """The values of one of the cell's arguments that occur, in `order` first, then as they come."""
    found = dict.fromkeys(r["cell"][name] for r in records)
    return [value for value in order if value in found] + [value for value in found if value not in order]


def groups(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records that may be compared: by network, and by budget and size of the batch where there are several."""
    found: dict[str, list[Record]] = {}
    suffixes = {"budget_steps": "-{:g}-steps", "failure_batch": "-{:g}-failures"}
    several = {name: form for name, form in suffixes.items() if len(distinct(records, name)) > 1}
    for record in records:
        cell = record["cell"]
        name = cell["network"] + "".join(form.format(cell[key]) for key, form in several.items())
        found.setdefault(name, []).append(record)
    order = ("network", *suffixes)
    return dict(sorted(found.items(), key=lambda item: [item[1][0]["cell"][key] for key in order]))
