"""The guard: what is served and why, who answers for which images, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from repairops.gate.evidence import RoutedCounts, Routing
from repairops.outcome import Record
from repairops.outcome.sections import Artifacts, Form, FormFigures
from repairops.report.charts import mirrored_histogram
from repairops.report.figures import share_bar
from repairops.report.formats import DASH, fixed, of, percent, plain, ratio
from repairops.report.pictures import GuardedImage, Pictures, png_uri
from repairops.report.statements import form

KINDS = {"one": "One network", "hard": "Guarded, one network for each image", "mixed": "Guarded, mixed between limits"}
MAX_ROWS = 40
NOTHING = RoutedCounts(0, 0)


def guard(record: Record, pictures: Pictures) -> dict[str, Any]:
    """What the section shows; `form` is empty where nothing was trained."""
    found, routing = record.form or Form(), record.evidence.routing if record.evidence else None
    away, missed = pictures.shown_guarded()
    return {
        "form": form(record),
        "why": _why(record),
        "separation": "" if found.separation is None else fixed(found.separation, 3),
        "tried": [_tried(figures) for figures in _worth_showing(found)],
        "left_off": max(len(found.tried) - len(_worth_showing(found)), 0),
        "routing": routing and _routing(routing, found),
        "serving": _serving(record, routing) if routing else [],
        "sizes": record.artifacts or Artifacts(),
        "away": _pictures(away, pictures.side) if routing else [],
        "missed": _pictures(missed, pictures.side) if routing else [],
    }


def _why(record: Record) -> str:
    """How the form was chosen, in one sentence."""
    found = record.form
    if not found:
        if (record.config.get("guard") or {}).get("mode") == "off":
            return "No guard was fitted, since guard.mode is off."
        untrained = record.training is not None and record.training.best_epoch == 0
        return "No guard was fitted, since the training did not get beyond the champion." if untrained else ""
    chosen, guarded = found.chosen, [figures for figures in found.tried if figures.form != "one"]
    if found.note or not chosen:
        return plain(found.note) if found.note else ""
    if found.name != "one":
        return (
            f"It repairs {percent(chosen.repaired)} of the validation failures, the most of the forms that keep clean "
            "accuracy on the images that choose; where forms repair alike, the one that routes fewest clean images."
        )
    kept = [figures.repaired for figures in guarded if figures.kept]
    if not kept:
        return "One network is served, since no guarded form keeps clean accuracy on the images that choose."
    alike = f"within a standard error of the {percent(max(kept))} of the best guarded form"
    repairs = f"{percent(chosen.repaired)} of the validation failures, {alike}"
    return f"One network is served, since it is cheaper and repairs {repairs}."


def _worth_showing(found: Form) -> list[FormFigures]:
    """The chosen form, the best of each guarded kind, and one network; the same form once."""
    shown = [figures for figures in found.tried if figures.chosen]
    for kind in KINDS:
        alike = [figures for figures in found.tried if figures.form == kind]
        best = max(alike, key=lambda each: (each.kept, each.repaired, -each.routed), default=None)
        shown += [best] if best and best not in shown else []
    return shown


def _tried(figures: FormFigures) -> dict[str, Any]:
    low, high = fixed(figures.low, 3), fixed(figures.high, 3)
    limits = {"one": "", "hard": f"from {low}", "mixed": f"{low} to {high}"}
    return {
        "figures": figures,
        "name": KINDS.get(figures.form, plain(figures.form)),
        "limits": limits.get(figures.form, ""),
    }


def _routing(found: Routing, chosen: Form) -> dict[str, Any]:
    """Counts by part, and the histogram of the guard's probability on both sets."""
    clean, heldout = found.clean_by_class, found.heldout_by_class
    names = sorted({**clean, **heldout}, key=lambda name: -_share(clean.get(name, NOTHING)))
    by_class = [
        {"name": name, "clean": _counts(clean.get(name, NOTHING)), "heldout": _counts(heldout.get(name, NOTHING))}
        for name in names
    ]
    parts = (
        ("Cluster", "Held-out failures", found.heldout_by_cluster),
        ("Source", "Held-out failures", found.heldout_by_source),
        ("Slice", "Clean images", found.clean_by_slice),
    )
    taken = chosen.chosen
    return {
        "clean": _counts(found.clean, "clean images"),
        "heldout": _counts(found.heldout, "held-out failures"),
        "missed": found.heldout.total > found.heldout.routed,
        "classes": by_class[:MAX_ROWS],
        "left_off": max(len(by_class) - MAX_ROWS, 0),
        "parts": [
            {"title": title, "what": what, **_parts(counts, clean=what == "Clean images")}
            for title, what, counts in parts
            if counts
        ],
        "histogram": _histogram(found, (taken.low, taken.high) if taken else ()),
    }


def _parts(counts: Mapping[str, RoutedCounts], *, clean: bool) -> dict[str, Any]:
    """Of the held-out failures the parts of which fewest are routed come first, of clean images those with the most."""
    rows = sorted(counts.items(), key=lambda item: _share(item[1]), reverse=clean)
    shown = [{"name": name, "counts": _counts(found, name)} for name, found in rows[:MAX_ROWS]]
    return {"rows": shown, "left_off": len(rows) - len(shown)}


def _counts(found: RoutedCounts, what: str = "") -> dict[str, Any]:
    """A part's counts in words, and as a bar where it has a name."""
    said = of(found.routed, found.total)
    label = f"{plain(what)}: {said} routed."
    bar = share_bar([(found.routed, "accepted"), (found.total - found.routed, "track")], label=label, width=160)
    return {"said": said if found.total else DASH, "share": percent(ratio(found.routed, found.total)), "bar": bar}


def _share(found: RoutedCounts) -> float:
    return ratio(found.routed, found.total) or 0.0


def _histogram(found: Routing, limits: Sequence[float]) -> Markup:
    half = len(found.clean_histogram) // 2
    said = [
        f"{of(sum(bins[half:]), sum(bins))} {what} above a half"
        for bins, what in ((found.clean_histogram, "clean images"), (found.heldout_histogram, "held-out failures"))
    ]
    label = f"The guard's probability of the look: {', '.join(said)}."
    return mirrored_histogram(found.clean_histogram, found.heldout_histogram, sorted({*limits}), label=label)


def _serving(record: Record, routing: Routing) -> list[dict[str, Any]]:
    """Rows of the latency table: images that the champion answers, then routed ones."""
    clean = record.evidence.latency if record.evidence else ()
    return [
        {"who": who, "figures": figures}
        for who, rows in (("Champion answers", clean), ("Repaired network answers", routing.latency))
        for figures in rows
    ]


def _pictures(images: Sequence[GuardedImage], side: int) -> list[dict[str, Any]]:
    return [{**image._asdict(), "src": png_uri(image.image, side)} for image in images]
