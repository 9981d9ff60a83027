"""The report's plots (Figs. 3 to 6 of the paper) as PNG files. The only importer of matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from pathlib import Path
from statistics import fmean
from typing import Any

from repairops.bench import summary as s
from repairops.bench.standing import FORMS, Standing
from repairops.bench.summary import Record
from repairops.bench.tables import CORRUPTIONS

SHOWN = 8  # rivals in one plot, at most


def plots(records: Sequence[Record], folder: Path) -> list[Path]:
    """Writes what the records allow, group by group; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for network, own in s.groups(records).items():
        for name, draw in (("fig3", _before), ("fig4", _residuals), ("fig5", _clean), ("fig6", _others)):
            figure = draw(network, own)
            if figure is not None:
                figure.axes[0].legend(fontsize=7)
                path = folder / f"{name}-{network}.png"
                figure.savefig(path, dpi=110, metadata={"Software": None})  # the same records, the same bytes
                files.append(path)
    return files


def plot_standings(found: Sequence[Standing], path: Path) -> Path:
    """Repaired against clean change, a panel for each group; the form by its mark, the rival by its colour."""
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys((one.group, one.failures) for one in found))
    rivals, marks = list(dict.fromkeys(one.rival for one in found)), dict(zip(FORMS, "osD", strict=True))
    figure = Figure(figsize=(1.5 + 3.2 * len(groups), 4.2), layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, group in zip(panels, groups, strict=True):
        for one in found:
            if (one.group, one.failures) == group:
                axes.errorbar(
                    one.change.mean, one.repaired.mean, one.repaired.half, one.change.half, fmt=marks[one.form],
                    color=f"C{rivals.index(one.rival)}", markersize=6, elinewidth=0.8,
                )  # fmt: skip
        axes.axvline(0, color="black", linewidth=0.8)
        axes.axvspan(-0.5, 0, color="C2", alpha=0.08)  # what the gate allows by default
        axes.set_title(f"{group[0]}, {group[1]:,} failures", fontsize=9)
        axes.set_xlabel("change of clean accuracy, points", fontsize=8)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("failures repaired, %")
    for name in rivals:
        panels[0].plot([], [], "s", color=f"C{rivals.index(name)}", label=name)
    for form, mark in marks.items():
        panels[0].plot([], [], mark, color="grey", fillstyle="none", label=form)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2 + len(groups))
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _figure(title: str, unit: str, corruptions: Sequence[str]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(5.0, 1.2 + 0.62 * len(corruptions)), 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    axes.set_ylabel(unit)
    axes.set_xticks(range(len(corruptions)), [c.replace("_", "\n") for c in corruptions], fontsize=7)
    axes.grid(axis="y", alpha=0.3)
    return figure, axes


def _line(axes: Any, own: Sequence[Record], corruptions: Sequence[str], measure: s.Measure, **how: Any) -> Any:
    """A line of means over the seeds, and all values by corruption; none leads to what was not run."""
    values = [[measure(r) for r in s.select(own, corruption=c)] or [nan] for c in corruptions]
    return axes.plot([fmean(found) for found in values], marker="o", markersize=3, **how)[0], values


def _before(network: str, records: Sequence[Record]) -> Any:
    """Fig. 3: the champion on the clean set and under each corruption."""
    corruptions = s.distinct(records, "corruption", CORRUPTIONS)
    figure, axes = _figure(f"{network}: the champion before repair", "accuracy, %", corruptions)
    axes.bar(range(len(corruptions)), [s.corrupted_before(s.select(records, corruption=c)[0]) for c in corruptions])
    axes.axhline(s.clean_before(records[0]), color="black", linestyle="--", label="clean set")
    axes.set_ylim(0, 100)
    return figure


def _residuals(network: str, records: Sequence[Record]) -> Any:
    """Fig. 4: accuracy on photo-disjoint residual failures; the band spans the seeds."""
    corruptions = s.distinct(records, "corruption", CORRUPTIONS)
    figure, axes = _figure(f"{network}: photo-disjoint residual failures", "accuracy, %", corruptions)
    for name in _best(records, s.disjoint):
        line, values = _line(axes, s.select(records, rival=name), corruptions, s.disjoint, label=name)
        axes.fill_between(
            range(len(values)), [min(v) for v in values], [max(v) for v in values], alpha=0.2, color=line.get_color()
        )
    axes.set_ylim(bottom=0)
    return figure


def _clean(network: str, records: Sequence[Record]) -> Any:
    """Fig. 5: clean accuracy and accuracy under the corruption, before and after style-guided repair."""
    own = s.select(records, rival="style_guided")
    if not own:
        return None
    corruptions = s.distinct(own, "corruption", CORRUPTIONS)
    figure, axes = _figure(f"{network}: before and after style_guided", "accuracy, %", corruptions)
    lines = (
        ("clean, champion", s.clean_before, "--", "C0"), ("clean, repaired", s.clean_after, "-", "C0"),
        ("corrupted, champion", s.corrupted_before, "--", "C3"), ("corrupted, repaired", s.corrupted_after, "-", "C3"),
    )  # fmt: skip
    for label, measure, style, colour in lines:
        _line(axes, own, corruptions, measure, linestyle=style, color=colour, label=label)
    axes.set_ylim(0, 100)
    return figure


def _others(network: str, records: Sequence[Record]) -> Any:
    """Fig. 6: points gained on the other corruptions, by the corruption that was repaired against."""
    measured = [r for r in records if r["figures"]["others"]]
    if not measured:
        return None
    corruptions = s.distinct(measured, "corruption", CORRUPTIONS)
    figure, axes = _figure(f"{network}: gain on the other corruptions", "points", corruptions)
    for name in _best(measured, s.others_gain):
        _line(axes, s.select(measured, rival=name), corruptions, s.others_gain, label=name)
    axes.axhline(0, color="black", linewidth=0.8)
    return figure


def _best(records: Sequence[Record], measure: s.Measure) -> list[str]:
    """The rivals with most corruptions, and of these the highest means; style_guided always among them."""
    means, run = {}, {}
    for name in s.distinct(records, "rival"):
        own = s.select(records, rival=name)
        means[name], run[name] = fmean(map(measure, own)), len(s.distinct(own, "corruption"))
    order = sorted(means, key=lambda name: (name != "style_guided", -run[name], -means[name]))
    return sorted(order[:SHOWN], key=lambda name: -means[name])
