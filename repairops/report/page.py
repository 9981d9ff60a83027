"""The review page: one self-contained HTML file that asks nothing of the network and works without its one script."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from repairops.outcome import Record
from repairops.report import (
    check_figures,
    commands,
    comparisons,
    formats,
    gallery,
    guard,
    learning,
    lineage,
    provenance,
    statements,
    traffic,
)
from repairops.report.advice import next_steps
from repairops.report.formats import count, fixed, of, percent, plain, ratio, signed
from repairops.report.pictures import Pictures

COMMANDS = (
    ("Review", commands.review_command, "Asks the gate again, and says whether the version can be promoted now."),
    ("Promote", commands.promote_command, "Moves the production alias; refused when it moved meanwhile."),
    ("Serve", commands.serve_command, "Takes images (files, base64, arrays), answers classes with confidences."),
    ("Roll back", commands.rollback_command, "Undoes the last promotion: only after this version was promoted."),
    ("Reproduce", commands.reproduce_command, "Runs this job again: same version, batches, seed and options."),
    ("Recompute the verdict", commands.gate_command, "From the counts alone."),
)


def render_page(record: Record, pictures: Pictures | None = None) -> str:
    """The page as HTML. Every section of the record and every picture may be missing.

    At most about 3 MB: pictures are scaled down to fit `pictures.PICTURE_BYTES`, long lists are cut and say so.
    Raises ValueError where a picture is no uint8 (C, H, W) image.
    """
    template = environment().get_template("page.html.j2")
    return str(template.render(_view(record, pictures or Pictures()), **_script()))


@cache
def environment() -> Any:
    """Of all pages: their templates, and the words that values become."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("repairops.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    words = ("count", "duration", "fixed", "of", "megabytes", "percent", "ratio", "short", "signed", "when")
    found.filters |= {name: getattr(formats, name) for name in words}
    found.filters |= {"digits": _digits, "milliseconds": _milliseconds, "stage_bar": lineage.stage_bar}
    found.filters |= {"check_name": statements.check_name, "tally": statements.tally}
    found.filters |= {"figure": check_figures.figure}
    return found


@cache
def _script() -> dict[str, str]:
    """The page's only script and the digest by which its policy lets it, and no other, run."""
    script = files("repairops.report").joinpath("templates", "links.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"script": Markup(script), "script_digest": f"sha256-{digest}"}  # noqa: S704, a file of this package


def _shown(value: Any) -> Any:
    """What the template prints: texts on one line without control characters, and a dash for what is missing."""
    return value if isinstance(value, Markup) or value == "" else plain(value)


def _digits(value: float | None) -> str:
    """Three digits that say something, for learning rates."""
    return formats.DASH if value is None else f"{value:.3g}"


def _milliseconds(value: float) -> str:
    return fixed(value, 3 if value < 10 else 1)


def _view(record: Record, pictures: Pictures) -> dict[str, Any]:
    return {
        "record": record,
        "model": record.model,
        "trained": record.training,
        "kind": statements.kind(record),
        "word": statements.verdict_word(record),
        "headline": statements.headline(record),
        "standing": statements.standing(record),
        "form": statements.form(record),
        "looser": provenance.looser(record),
        "reuse": provenance.reuse(record),
        "why": statements.why(record),
        "next_steps": next_steps(record),
        "promote": commands.promote_command(record),
        "key_figures": _key_figures(record),
        "groups": statements.by_level(record),
        "foreseen": statements.foreseen(record),
        "levels": check_figures.LEVELS,
        "signs": statements.SIGNS,
        "classes": comparisons.classes(record),
        "rival": comparisons.rival(record),
        "failure_classes": comparisons.failure_classes(record),
        "slices": comparisons.slices(record),
        "corruptions": comparisons.corruptions(record),
        "calibration": comparisons.calibration(record),
        "traffic": {"rows": traffic.figures(record), "note": traffic.note(record)},
        "clusters": gallery.clusters(record, pictures),
        "looks": statements.looks(record),
        "grid": gallery.grid(pictures),
        "guard": guard.guard(record, pictures),
        "judged": gallery.judged(record, pictures),
        "flips": gallery.flips(record, pictures),
        "confusion": gallery.confusion(record),
        "training": learning.training(record),
        "quality": lineage.quality(record),
        "suspects": gallery.suspects(record, pictures),
        "meanings": lineage.MEANINGS,
        "lineage": lineage.lineage(record),
        "people": provenance.people(record),
        "links": provenance.links(record),
        "alias_history": provenance.alias_history(record),
        "max_batches": lineage.MAX_BATCHES,
        "longest": max(record.stages.values(), default=0.0),
        "options": commands.changed_options(record),
        "commands": _commands(record),
    }


def _key_figures(record: Record) -> list[dict[str, Any]]:
    """What a release manager reads first: failures, clean accuracy, what broke, and how many checks pass."""
    found, keys = statements.effect(record), []
    share = percent(ratio(found.repaired, found.failures))
    if found.failures:
        note, drawn = f"{of(found.repaired, found.failures)} held-out", _drawn("repair_rate", record)
        keys.append(_key("Failures repaired", share, note, drawn=drawn))
    before, after, images = percent(found.before, 2), percent(found.after, 2), count(found.images)
    if found.before is not None and found.after is None:
        keys.append(_key("Clean accuracy", before, f"of the champion, on {images} images"))
    elif found.before is not None:
        note, drawn = f"{signed(found.points)} points, {images} images", _drawn("clean_non_regression", record)
        keys.append(_key("Clean accuracy", after, note, was=before, drawn=drawn))
    if rows := traffic.figures(record):
        fails, was, now, moved, *_ = rows
        note = f"{moved.value} points ({moved.interval}); {fails.value} of it fails"
        keys.append(_key("Accuracy on field traffic", now.value, note, was=was.value))
    if found.lost is not None:
        back = "" if found.won is None else f", {count(found.won)} the other way"
        note, drawn = f"{percent(ratio(found.lost, found.images), 2)}{back}", _drawn("negative_flips", record)
        keys.append(_key("Negative flips", count(found.lost), note, drawn=drawn))
    levels = {level: of(statements.passes(found), len(found)) for level, found in statements.by_level(record).items()}
    if "required" in levels:
        note = f"{levels['advisory']} advisory ones" if "advisory" in levels else ""
        keys.append(_key("Required checks passed", levels["required"], note))
    return keys


def _drawn(check: str, record: Record) -> Markup:
    found = statements.check(record, check)
    return check_figures.figure(found, width=220) if found else Markup("")


def _key(title: str, figure: str, note: str, *, was: str = "", drawn: Markup | None = None) -> dict[str, Any]:
    return {"title": title, "was": was, "figure": figure, "note": note, "drawn": drawn or Markup("")}


def _commands(record: Record) -> list[tuple[str, str, str]]:
    """Rows (title, command, remark) of the commands that exist for this record."""
    rows = [(title, command(record), remark) for title, command, remark in COMMANDS]
    return [row for row in rows if row[1]]
