"""The review page: one self-contained HTML file that asks nothing of the network and works without its one script."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from repairops.report import check_figures, commands, facts, gallery, learning, lineage, sections
from repairops.report.advice import next_steps
from repairops.report.facts import Outcome
from repairops.report.pictures import Pictures
from repairops.report.wording import count, mapping, of, percent, plain, ratio, signed, when


def render_page(outcome: Outcome, pictures: Pictures | None = None) -> str:
    """The page as HTML. Every key of the outcome and every picture may be missing.

    At most about 3 MB: pictures are scaled down to fit `pictures.PICTURE_BYTES`, long lists are cut and say so.
    Raises ValueError where a picture is no uint8 (C, H, W) image.
    """
    return str(_template().render(_view(outcome, pictures or Pictures()), **_script()))


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("repairops.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


@cache
def _script() -> dict[str, str]:
    """The page's only script and the digest by which its policy lets it, and no other, run."""
    script = files("repairops.report").joinpath("templates", "links.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"script": Markup(script), "script_digest": f"sha256-{digest}"}  # noqa: S704, a file of this package


def _view(outcome: Outcome, pictures: Pictures) -> dict[str, Any]:
    return {
        **_verdict(outcome),
        "key_figures": _key_figures(outcome),
        "groups": check_figures.checks(outcome),
        "confidence": percent(mapping(outcome.get("policy")).get("confidence"), 0),
        "warning": plain(outcome["warning"]) if outcome.get("warning") else "",
        "classes": sections.classes(outcome),
        "failure_classes": sections.failure_classes(outcome),
        "slices": sections.slices(outcome),
        "corruptions": sections.corruptions(outcome),
        "serving": sections.serving(outcome),
        "clusters": gallery.clusters(outcome, pictures),
        "grid": gallery.grid(pictures),
        "flips": gallery.flips(outcome, pictures),
        "confusion": gallery.confusion(outcome),
        "training": learning.training(outcome),
        "quality": lineage.quality(outcome),
        "lineage": lineage.lineage(outcome),
        "commands": _commands(outcome),
    }


def _verdict(outcome: Outcome) -> dict[str, Any]:
    model, new = mapping(outcome.get("model")), mapping(outcome.get("registered"))
    return {
        "kind": facts.kind(outcome),
        "word": facts.verdict_word(outcome),
        "model": plain(model.get("name")) if model else "Model repair",
        "version": plain(model.get("version")) if model else "",
        "alias": plain(model["alias"]) if model.get("alias") else "",
        "new_version": plain(new.get("version")) if new else "",
        "new_alias": plain(new["alias"]) if new.get("alias") else "",
        "made": when(outcome.get("created_at")),
        "headline": facts.headline(outcome),
        "standing": facts.standing(outcome),
        "why": facts.why(outcome),
        "next_steps": next_steps(outcome),
        "promote": commands.promote_command(outcome),
    }


def _key_figures(outcome: Outcome) -> list[dict[str, Any]]:
    """What a release manager reads first: failures, clean accuracy, what broke, and how many checks pass."""
    return [found for found in (_failures(outcome), _clean(outcome), _flips(outcome), _tally(outcome)) if found]


def _key(title: str, figure: str, note: str, *, was: str = "", drawn: Markup | None = None) -> dict[str, Any]:
    return {"title": title, "was": was, "figure": figure, "note": note, "drawn": drawn or Markup("")}


def _failures(outcome: Outcome) -> dict[str, Any] | None:
    right, total = facts.repaired(outcome)
    if right is None or not total:
        return None
    drawn = check_figures.check_figure("repair_rate", outcome, width=220)
    return _key("Failures repaired", percent(ratio(right, total)), f"{of(right, total)} held-out", drawn=drawn)


def _clean(outcome: Outcome) -> dict[str, Any] | None:
    before, after = (facts.clean_accuracy(outcome, who) for who in ("champion", "challenger"))
    if before is None:
        return None
    n = count(facts.clean_images(outcome))
    if after is None:
        return _key("Clean accuracy", percent(before, 2), f"of the champion, on {n} images")
    moved = signed(facts.clean_change_points(outcome))
    drawn = check_figures.check_figure("clean_non_regression", outcome, width=220)
    return _key("Clean accuracy", percent(after, 2), f"{moved} points, {n} images", was=percent(before, 2), drawn=drawn)


def _flips(outcome: Outcome) -> dict[str, Any] | None:
    lost, won = facts.negative_flips(outcome), facts.positive_flips(outcome)
    if lost is None:
        return None
    n = facts.clean_images(outcome)
    back = f", {count(won)} the other way" if won is not None else ""
    drawn = check_figures.check_figure("negative_flips", outcome, width=220)
    return _key("Negative flips", count(lost), f"{percent(ratio(lost, n), 2)}{back}", drawn=drawn)


def _tally(outcome: Outcome) -> dict[str, Any] | None:
    groups = facts.by_level(outcome)
    if "required" not in groups:
        return None
    passed = {level: sum(c.get("result") == "PASS" for c in found) for level, found in groups.items()}
    note = f"{of(passed['advisory'], len(groups['advisory']))} advisory ones" if "advisory" in groups else ""
    return _key("Required checks passed", of(passed["required"], len(groups["required"])), note)


def _commands(outcome: Outcome) -> list[tuple[str, str, str]]:
    """Rows (title, command, remark) of the commands that exist for this outcome."""
    rows = [
        (
            "Review",
            commands.review_command(outcome),
            "Asks the gate again, and says whether the version can be promoted now.",
        ),
        ("Promote", commands.promote_command(outcome), "Moves the production alias; refused when it moved meanwhile."),
        (
            "Roll back",
            commands.rollback_command(outcome),
            "Undoes the last promotion: only after this version was promoted.",
        ),
        (
            "Reproduce",
            commands.reproduce_command(outcome),
            "Runs this job again: same version, batches, seed and options.",
        ),
        ("Recompute the verdict", commands.GATE_COMMAND if outcome.get("evidence") else "", "From the counts alone."),
    ]
    return [row for row in rows if row[1]]
