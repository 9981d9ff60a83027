"""The review page: one self-contained HTML file that asks nothing of the network and runs no script."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from repairops.report import check_figures, commands, facts, lineage, sections
from repairops.report.advice import next_steps
from repairops.report.facts import Outcome
from repairops.report.pictures import Pictures, data_uri, fitted_png, png_size, png_uri
from repairops.report.wording import count, mapping, of, percent, plain, ratio, signed, when


def render_page(outcome: Outcome, pictures: Pictures | None = None) -> str:
    """The page as HTML. Every key of the outcome and every picture may be missing.

    At most about 3 MB: pictures are scaled down to fit `pictures.PICTURE_BYTES`, long lists are cut and say so.
    Raises ValueError where a picture is no uint8 (C, H, W) image.
    """
    return str(_template().render(_view(outcome, pictures or Pictures())))


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    source = files("repairops.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source)


def _view(outcome: Outcome, pictures: Pictures) -> dict[str, Any]:
    return {
        **_verdict(outcome),
        "cards": _cards(outcome),
        "rows": facts.before_after(outcome),
        "checks": check_figures.checks(outcome),
        "confidence": percent(mapping(outcome.get("policy")).get("confidence"), 0),
        "classes": sections.classes(outcome),
        "clusters": _clusters_with_pictures(outcome, pictures),
        "grid": _grid(pictures),
        "training": sections.training(outcome),
        "flips": _flips(outcome, pictures),
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
        "made": when(outcome.get("created_at")),
        "headline": facts.headline(outcome),
        "standing": facts.standing(outcome),
        "why": facts.why(outcome),
        "next_steps": next_steps(outcome),
        "promote": commands.promote_command(outcome),
    }


def _cards(outcome: Outcome) -> list[dict[str, Any]]:
    """The two figures that matter: clean accuracy and failures repaired."""
    before, after = (facts.clean_accuracy(outcome, who) for who in ("champion", "challenger"))
    right, total = facts.repaired(outcome)
    change = facts.clean_change_points(outcome)
    cards = []
    if before is not None and after is not None:
        cards.append(
            {
                "title": "Clean accuracy",
                "before": percent(before, 2),
                "after": percent(after, 2),
                "note": f"{signed(change)} points on {count(facts.clean_images(outcome))} images",
                "figure": check_figures.card_figure("clean_non_regression", outcome),
            }
        )
    if right is not None and total:
        cards.append(
            {
                "title": "Failures repaired",
                "before": "",
                "after": percent(ratio(right, total)),
                "note": f"{of(right, total)} held-out failures are right now",
                "figure": check_figures.card_figure("repair_rate", outcome),
            }
        )
    return cards


def _clusters_with_pictures(outcome: Outcome, pictures: Pictures) -> list[dict[str, Any]]:
    shown: dict[float, list[dict[str, Any]]] = {}
    for sample in pictures.shown_samples():
        images = [_picture(image, pictures.side, role, _alt(role, sample)) for role, image in sample.images]
        shown.setdefault(float(sample.cluster), []).append({"images": images, "text": _sample_text(sample)})
    rows = sections.clusters(outcome)
    known = {row["id"] for row in rows}
    for cluster in sorted(set(shown) - known):
        rows.append(
            {"id": cluster, "title": f"Cluster {cluster:g}", "size": "", "labels": "", "bar": "", "repaired": ""}
        )
    return [{**row, "samples": shown.get(row["id"], [])} for row in rows]


def _alt(role: str, sample: Any) -> str:
    words = {
        "failure": f"Failure of cluster {sample.cluster}",
        "reference": f"Reference of cluster {sample.cluster}",
        "content": "Train image before styling",
        "styled": f"Train image in the style of cluster {sample.cluster}",
    }
    named = f": {plain(sample.label)}" if role == "failure" and sample.label else ""
    return words[role] + named


def _sample_text(sample: Any) -> str:
    if not sample.label:
        return ""
    taken = f", taken for {plain(sample.predicted)}" if sample.predicted else ""
    return f"{plain(sample.label)}{taken}"


def _picture(image: Any, side: int, caption: str, alt: str) -> dict[str, str]:
    return {"src": png_uri(image, side), "caption": caption, "alt": alt}


def _grid(pictures: Pictures) -> dict[str, Any] | None:
    if not pictures.cluster_grid:
        return None
    png = fitted_png(pictures.cluster_grid)
    width, height = png_size(png)
    return {"src": data_uri(png), "width": width, "height": height}


def _flips(outcome: Outcome, pictures: Pictures) -> dict[str, Any]:
    shown = pictures.shown_flips()
    total = facts.negative_flips(outcome)
    n = facts.clean_images(outcome)
    return {
        "known": total is not None or bool(shown),
        "any": bool(total or shown),
        "total": of(total, n) if n else count(total),
        "share": percent(ratio(total, n), 2),
        "shown": len(shown),
        "images": [
            {
                **_picture(flip.image, pictures.side, "", f"Clean image of {plain(flip.label)}"),
                "label": plain(flip.label),
                "champion": plain(flip.champion),
                "challenger": plain(flip.challenger),
            }
            for flip in shown
        ],
    }


def _commands(outcome: Outcome) -> list[tuple[str, str, str]]:
    """Rows (title, command, remark) of the commands that exist for this outcome."""
    rows = [
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
