"""Pictures with their words: clusters with what guided the repair, and the decisions that it broke."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repairops.report import compare, facts
from repairops.report.facts import Outcome
from repairops.report.figures import dumbbell, interval
from repairops.report.pictures import Pictures, SamplePair, data_uri, fitted_png, png_size, png_uri
from repairops.report.wording import count, dig, mapping, mappings, number, of, percent, plain, ratio, signed

MAX_LABELS = 5  # class names listed for one cluster
CAPTIONS = {"failure": "failure", "reference": "reference", "content": "train image", "styled": "styled"}


def clusters(outcome: Outcome, pictures: Pictures) -> list[dict[str, Any]]:
    """The outcome's clusters, and those that only have pictures, each with its samples."""
    samples: dict[float, list[dict[str, Any]]] = {}
    for sample in pictures.shown_samples():
        samples.setdefault(float(sample.cluster), []).append(_sample(sample, pictures.side))
    rows = [_cluster(cluster, i, outcome) for i, cluster in enumerate(mappings(outcome.get("clusters")))]
    known = {row["id"] for row in rows}
    for number_ in sorted(set(samples) - known):
        rows.append(_cluster({"id": number_}, 0, outcome))
    return [{**row, "samples": samples.get(row["id"], [])} for row in rows]


def _cluster(cluster: Mapping[str, Any], index: int, outcome: Outcome) -> dict[str, Any]:
    labels = sorted(mapping(cluster.get("labels")).items(), key=lambda item: -(number(item[1]) or 0.0))
    named = ", ".join(f"{plain(name)} ({count(n)})" for name, n in labels[:MAX_LABELS])
    left = len(labels) - MAX_LABELS
    more = f" and {left} more {'class' if left == 1 else 'classes'}" if left > 0 else ""
    identity = number(cluster.get("id"))
    identity = float(index) if identity is None else identity
    return {
        "id": identity,
        "title": f"Cluster {identity:g}",
        "size": count(cluster["size"]) if number(cluster.get("size")) is not None else "",
        "labels": named + more,
        "look": plain(cluster["look"]) if cluster.get("look") else "",
        "styles": _styles(identity, outcome),
        **_repaired(f"{identity:g}", outcome),
    }


def _styles(identity: float, outcome: Outcome) -> str:
    """The styles that `style.name=auto` mixed for this cluster, with their shares; empty for a single style."""
    for entry in mappings(dig(outcome, "style", "clusters")):
        if number(entry.get("cluster")) == identity:
            mixed = [(row, number(row.get("share"))) for row in mappings(entry.get("styles"))]
            return ", ".join(f"{plain(row.get('style'))} {percent(share, 0)}" for row, share in mixed if share)
    return ""


def _repaired(identity: str, outcome: Outcome) -> dict[str, Any]:
    """Held-out failures nearest to this cluster that are right now, with the bounds of their share."""
    counts = mapping(dig(outcome, "evidence", "heldout_by_cluster", identity))
    row = compare.rate(identity, counts, compare.confidence(outcome))
    if row.rate is None:
        return {"repaired": "", "figure": ""}
    least = number(dig(facts.check(outcome, "cluster_repair"), "figures", "min_rate"))
    figure = interval(
        row.lower,
        row.rate,
        row.upper,
        least,
        label=f"Repair rate of cluster {identity}: {percent(row.rate)}, {percent(row.lower)} to {percent(row.upper)}.",
        limit_text="" if least is None else f"at least {percent(least, 0)}",
        texts=(percent(row.lower, 0), percent(row.upper, 0)),
        domain=(0.0, 1.0),
        width=220,
    )
    return {"repaired": f"{of(row.repaired, row.total)} held-out ({percent(row.rate, 0)})", "figure": figure}


def _sample(sample: SamplePair, side: int) -> dict[str, Any]:
    images = [
        {"src": png_uri(image, side), "caption": CAPTIONS[role], "alt": _alt(role, sample)}
        for role, image in sample.images
    ]
    return {"images": images, "text": _sample_text(sample)}


def _alt(role: str, sample: SamplePair) -> str:
    words = {
        "failure": f"Failure of cluster {sample.cluster}",
        "reference": f"Reference of cluster {sample.cluster}",
        "content": "Train image before styling",
        "styled": f"Train image in the style of cluster {sample.cluster}",
    }
    named = f": {plain(sample.label)}" if role == "failure" and sample.label else ""
    return words[role] + named


def _sample_text(sample: SamplePair) -> str:
    if not sample.label:
        return ""
    taken = f", taken for {plain(sample.predicted)}" if sample.predicted else ""
    return f"{plain(sample.label)}{taken}"


def grid(pictures: Pictures) -> dict[str, Any] | None:
    if not pictures.cluster_grid:
        return None
    png = fitted_png(pictures.cluster_grid)
    width, height = png_size(png)
    return {"src": data_uri(png), "width": width, "height": height}


def flips(outcome: Outcome, pictures: Pictures) -> dict[str, Any]:
    shown = pictures.shown_flips()
    total, n = facts.negative_flips(outcome), facts.clean_images(outcome)
    return {
        "known": total is not None or bool(shown),
        "any": bool(total or shown),
        "total": of(total, n) if n else count(total),
        "share": percent(ratio(total, n), 2),
        "gained": count(gained) if (gained := facts.positive_flips(outcome)) else "",
        "shown": len(shown),
        "images": [
            {
                "src": png_uri(flip.image, pictures.side),
                "alt": f"Clean image of {plain(flip.label)}",
                "label": plain(flip.label),
                "champion": plain(flip.champion),
                "challenger": plain(flip.challenger),
            }
            for flip in shown
        ],
    }


def confusion(outcome: Outcome) -> list[dict[str, Any]]:
    """For each set the wrong answers whose number changed most: true class, answer, and counts before and after."""
    found = {key: mappings(dig(outcome, "confusion", key)) for key in ("heldout", "clean")}
    counts = [
        number(row.get(who)) or 0.0 for rows in found.values() for row in rows for who in ("champion", "challenger")
    ]
    tables = []
    for key, title in (("heldout", "Held-out failures"), ("clean", "Clean set")):
        rows = [shown for row in found[key] if (shown := _answer(row, max(counts)))]
        if rows:
            tables.append({"title": title, "rows": rows})
    return tables


def _answer(row: Mapping[str, Any], most: float) -> dict[str, Any]:
    before, after = number(row.get("champion")), number(row.get("challenger"))
    if before is None or after is None:
        return {}
    true, answer = plain(row.get("true")), plain(row.get("answer"))
    label = f"{true} taken for {answer}: {count(before)} before, {count(after)} after."
    return {
        "true": true,
        "answer": answer,
        "champion": count(before),
        "challenger": count(after),
        "change": signed(after - before, 0),
        "worse": after > before,
        "figure": dumbbell(before, after, (0.0, max(most, 1.0)), label=label, beyond=after > before),
    }
