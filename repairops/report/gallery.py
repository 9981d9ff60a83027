"""Pictures with their words: clusters with what guided the repair, and the decisions that it broke."""

from __future__ import annotations

from typing import Any

from repairops.outcome import Record
from repairops.outcome.sections import Cluster, WrongAnswer
from repairops.report import comparisons, statements
from repairops.report.figures import WHOLE_RATES, dumbbell, interval
from repairops.report.formats import count, fixed, of, percent, plain, ratio, series
from repairops.report.pictures import JudgedFailure, Pictures, SamplePair, data_uri, fitted_png, png_size, png_uri

MAX_LABELS = 5  # class names listed for one cluster
CAPTIONS = {  # of a sample's images, and their descriptions
    "failure": ("failure", "Failure of cluster {}"),
    "reference": ("reference", "Reference of cluster {}"),
    "content": ("train image", "Train image before styling"),
    "styled": ("styled", "Train image in the style of cluster {}"),
}


def clusters(record: Record, pictures: Pictures) -> list[dict[str, Any]]:
    """The record's clusters, and those that only have pictures, each with its samples."""
    samples: dict[int, list[dict[str, Any]]] = {}
    for sample in pictures.shown_samples():
        samples.setdefault(sample.cluster, []).append(_sample(sample, pictures.side))
    known = list(record.clusters or ())
    known += [Cluster(number) for number in sorted(samples.keys() - {cluster.id for cluster in known})]
    total = sum(cluster.size or 0 for cluster in known)
    return [{**_cluster(cluster, record, total), "samples": samples.get(cluster.id, [])} for cluster in known]


def _cluster(cluster: Cluster, record: Record, total: int) -> dict[str, Any]:
    """total: failures of all clusters."""
    labels = sorted(cluster.labels.items(), key=lambda item: -item[1])
    named = ", ".join(f"{plain(name)} ({count(n)})" for name, n in labels[:MAX_LABELS])
    left = len(labels) - MAX_LABELS
    more = f" and {left} more {'class' if left == 1 else 'classes'}" if left > 0 else ""
    return {
        "title": f"Cluster {cluster.id}",
        "size": "" if cluster.size is None else f"{count(cluster.size)} ({percent(ratio(cluster.size, total), 0)})",
        "labels": named + more,
        "look": cluster.look or "",
        "styles": _styles(cluster.id, record),
        **_repaired(str(cluster.id), record),
    }


def _styles(cluster: int, record: Record) -> str:
    """The styles that `style.name=auto` mixed for this cluster, with their shares; empty for a single style."""
    looks = [look for look in (record.style.clusters if record.style else ()) if look.cluster == cluster]
    mixed = [style for look in looks for style in look.styles or () if style.share]
    return ", ".join(f"{plain(style.style)} {percent(style.share, 0)}" for style in mixed)


def _repaired(cluster: str, record: Record) -> dict[str, Any]:
    """Held-out failures nearest to this cluster that are right now, with the bounds of their share."""
    counts = record.evidence.heldout_by_cluster.get(cluster) if record.evidence else None
    if not counts or not counts.total:
        return {"repaired": "", "figure": ""}
    rate, least = ratio(counts.repaired, counts.total), comparisons.lowest(record, "cluster_repair", WHOLE_RATES)
    lower, upper = comparisons.bounds(counts, comparisons.confidence(record))
    label = f"Repair rate of cluster {cluster}: {percent(rate)}, {percent(lower)} to {percent(upper)}."
    figure = interval((lower, rate, upper), least, WHOLE_RATES, label=label, width=220)
    return {"repaired": f"{of(counts.repaired, counts.total)} held-out ({percent(rate, 0)})", "figure": figure}


def _sample(sample: SamplePair, side: int) -> dict[str, Any]:
    """The sample's images with their captions, and what the failure is and was taken for."""
    names = f"{plain(sample.label)}, taken for {plain(sample.predicted)}" if sample.predicted else sample.label
    images = [
        {"src": png_uri(image, side), "caption": CAPTIONS[role][0], "alt": CAPTIONS[role][1].format(sample.cluster)}
        for role, image in sample.images
    ]
    images[0]["alt"] += f": {plain(sample.label)}" if sample.label else ""
    return {"images": images, "text": names if sample.label else ""}


def grid(pictures: Pictures) -> dict[str, Any] | None:
    if not pictures.cluster_grid:
        return None
    png = fitted_png(pictures.cluster_grid)
    width, height = png_size(png)
    return {"src": data_uri(png), "width": width, "height": height}


def flips(record: Record, pictures: Pictures) -> dict[str, Any]:
    shown, found = pictures.shown_flips(), statements.effect(record)
    return {
        "known": found.lost is not None or bool(shown),
        "any": bool(found.lost or shown),
        "total": of(found.lost, found.images) if found.images else count(found.lost),
        "share": percent(ratio(found.lost, found.images), 2),
        "gained": count(found.won) if found.won else "",
        "images": [{**flip._asdict(), "src": png_uri(flip.image, pictures.side)} for flip in shown],
    }


def judged(record: Record, pictures: Pictures) -> dict[str, Any]:
    """Held-out failures before and after: how many of each cluster, and pictures of those right now and still wrong."""
    found, shown = statements.effect(record), pictures.shown_failures()
    right, wrong = ([_failure(failure, pictures.side) for failure in failures] for failures in shown)
    left = None if found.failures is None or found.repaired is None else found.failures - found.repaired
    clusters = record.evidence.heldout_by_cluster if record.evidence else {}
    return {
        "known": bool(found.failures),
        "right": right,
        "wrong": wrong,
        "repaired": count(found.repaired),
        "left": count(left),
        "total": count(found.failures),
        "clusters": [
            {"name": f"cluster {plain(name)}", "counts": counts, "left": counts.total - counts.repaired}
            for name, counts in clusters.items()
        ],
    }


def _failure(failure: JudgedFailure, side: int) -> dict[str, Any]:
    return {**failure._asdict(), "src": png_uri(failure.image, side)}


def suspects(record: Record, pictures: Pictures) -> dict[str, Any] | None:
    """Failures whose logged label looks wrong: how many, of how many, and pictures; None where nobody looked."""
    found = record.suspect_labels
    if found is None:
        return None
    shown = [{**vars(each.suspect), "champion": each.champion, "src": png_uri(each.image, pictures.side)}
             for each in pictures.shown_suspects()]  # fmt: skip
    return {
        "listed": count(len(found.listed)),
        "any": bool(found.listed),
        "asked": count(found.asked),
        "by_chance": fixed(found.by_chance, 0),
        "taken": series([f"{n} {part}" for part, n in found.quarantined.items() if n]),
        "note": found.note,
        "images": shown,
    }


def confusion(record: Record) -> list[dict[str, Any]]:
    """For each set the wrong answers whose number changed most: true class, answer, and counts before and after."""
    found = record.confusion
    if not found:
        return []
    most = max((n for row in found.heldout + found.clean for n in (row.champion, row.challenger)), default=0)
    tables = (("Held-out failures", found.heldout), ("Clean set", found.clean))
    return [{"title": title, "rows": [_answer(row, most) for row in rows]} for title, rows in tables if rows]


def _answer(row: WrongAnswer, most: int) -> dict[str, Any]:
    worse = row.challenger > row.champion
    changed = f"{count(row.champion)} before, {count(row.challenger)} after"
    label = f"{plain(row.true)} taken for {plain(row.answer)}: {changed}."
    figure = dumbbell(row.champion, row.challenger, (0.0, max(most, 1.0)), label=label, beyond=worse)
    return {"counts": row, "figure": figure}
