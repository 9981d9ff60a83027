"""Split, cluster, style and fine-tune: the stages that make the challenger."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from repairops.config import derive_seed
from repairops.core.clustering import cluster_failures, cluster_grid
from repairops.core.followers import Work, fine_tune_everywhere
from repairops.core.looks import describe_look, describe_looks, find_degradation, fit_look
from repairops.core.styles import Style
from repairops.core.training import TrainingResult
from repairops.core.training.interpolation import TradeOffPoint, trade_off
from repairops.data.decoding import encode_png
from repairops.data.records import Clusters, FailureBatch, FailureSplit, ImageSet
from repairops.data.split import split_failures
from repairops.model.network import Classifier
from repairops.outcome.plain import from_plain, to_plain
from repairops.outcome.sections import Cluster, Looks, MethodNames, SplitSizes, Training
from repairops.report import SamplePair
from repairops.stages.gallery import style_grid, style_samples
from repairops.stages.job import Job
from repairops.store.champion import Champion

log = logging.getLogger("repairops")
NO_POINT = (
    "No point between the champion's and the fine-tuned weights kept clean accuracy on the validation images and "
    "repaired more failures; the challenger is the champion."
)


def split_batch(job: Job, failures: FailureBatch) -> FailureSplit:
    """Repair, validation and held-out failures. Raises CannotSplit."""
    options = job.config.split
    split = split_failures(
        failures,
        heldout_fraction=options.heldout_fraction,
        validation_fraction=options.validation_fraction,
        near_duplicate_similarity=options.near_duplicate_similarity,
        seed=derive_seed(job.config.seed, "split"),
    )
    parts = {"repair": split.repair, "validation": split.validation, "heldout": split.heldout.batch}
    for role, part in parts.items():
        job.log_role(f"{role}_failures", part.images.sample_ids)
    counts = {role: len(part) for role, part in parts.items()}
    job.record = replace(job.record, split=SplitSizes(**counts))
    job.say(", ".join(f"{count} {part}" for part, count in counts.items()))
    return split


def cluster(job: Job, failures: FailureBatch) -> Clusters:
    """Clusters over the repair failures, with a picture of each cluster's nearest members (clusters.png)."""
    options = dataclasses.asdict(job.config.clustering)
    clusters = cluster_failures(failures, **options, seed=derive_seed(job.config.seed, "clustering"))
    names, labels = failures.images.class_names, failures.images.labels
    found = tuple(_cluster(number, names, labels[clusters.members(number)]) for number in range(clusters.count))
    job.record = replace(job.record, clusters=found)
    job.log_picture("clusters.png", _png(cluster_grid(failures.images, clusters)))
    job.say("sizes " + ", ".join(str(each.size) for each in found))
    return clusters


def show_style(
    job: Job, champion: Champion, failures: FailureBatch, clusters: Clusters, train_set: ImageSet
) -> tuple[Style, list[SamplePair]]:
    """The style that training will use, each cluster's look in a sentence, and train images in it (styles.png).

    Before training starts, a glance shows a wrong style: failures, train images, and these restyled, side by side.
    """
    config, seed = job.config.style, job.config.seed
    style = fit_look(failures, clusters, train_set, champion.classifier, job.config, torch.device(job.device))
    found = find_degradation(style, failures, train_set, job.config)
    samples = style_samples(failures, clusters, train_set, style, per_cluster=4, seed=seed)
    looks = describe_looks(style, found, clusters)
    _record_style(job, looks)
    job.log_picture("styles.png", _png(style_grid(samples)))
    job.say(f"{config.name}, fitted to {len(failures)} failures; {describe_look(found)['look']}")
    return style, samples


def fine_tune(
    job: Job,
    champion: Champion,
    train_set: ImageSet,
    unseen: ImageSet | None,
    split: FailureSplit,
    clusters: Clusters,
    style: Style,
) -> Classifier:
    """A copy of the champion, fine-tuned; the checkpoint is chosen on validation images and failures alone."""
    challenger = copy.deepcopy(champion.classifier)
    work = Work(challenger, train_set, split.repair, split.validation, clusters, job.config, style, unseen)
    result, trials = fine_tune_everywhere(work, job.folder, job.log_epoch)
    note = _record_training(job, result, _between(champion.classifier, work, result), trials)
    job.say(
        f"{len(result.history)} epochs on {result.device}, {result.images_per_second:.0f} images/s; "
        f"epoch {result.best_epoch} chosen" + (f". {note}" if note else "")
    )
    return challenger


def _cluster(number: int, names: Sequence[str], labels: np.ndarray) -> Cluster:
    """A cluster whose members have these labels, int64 (n,)."""
    counts = {names[label]: count for label, count in Counter(labels.tolist()).most_common()}
    return Cluster(number, len(labels), counts)


def _record_style(job: Job, looks: Sequence[Mapping[str, Any]]) -> None:
    """The method that will train, the style, and each cluster's look (`describe_looks`)."""
    name, method = job.config.style.name, job.config.method
    found = from_plain(Looks, to_plain({"name": name, "clusters": looks}))
    clusters = zip(job.record.clusters or (), found.clusters, strict=True)
    job.record = replace(
        job.record,
        method=MethodNames(method.name, method.recipe, name),
        style=found,
        clusters=tuple(replace(cluster, look=look.look) for cluster, look in clusters),
    )


def _record_training(
    job: Job, result: TrainingResult, points: Sequence[TradeOffPoint], trials: Sequence[Mapping[str, Any]]
) -> str:
    """How the challenger came about, by which method, and by how many clean images; what a reviewer must know of it."""
    note = result.note
    if any(point.chosen and point.weight == 0 for point in points):
        note = f"{note} {NO_POINT}".strip()
    history = [{"epoch": number, **figures} for number, figures in enumerate(result.history, 1)]
    values = {**vars(result), "history": history, "note": note, "tradeoff": points, "trials": trials}
    method, account = job.record.method, job.record.clean_validation
    chosen = next((trial["method"] for trial in trials if trial["chosen"]), job.config.method.name)
    job.record = replace(
        job.record,
        training=from_plain(Training, to_plain(values)),
        method=method and replace(method, chosen=chosen),
        clean_validation=account and replace(account, images=result.validation_images),
    )
    return note


def _between(champion: Classifier, work: Work, result: TrainingResult) -> list[TradeOffPoint]:
    """The points between champion and fine-tuned weights; the challenger holds the chosen one's afterwards."""
    points = trade_off(
        champion,
        work.classifier,
        work.train_set,
        work.validation,
        result,
        work.config.training,
        seed=work.config.seed,
        unseen=work.unseen,
    )
    for point in points:
        if point.chosen and point.weight < 1:
            log.info("           weights %.0f%% of the way from the champion chosen", 100 * point.weight)
    return points


def _png(picture: np.ndarray) -> bytes:
    """PNG of a picture, uint8 (H, W, 3)."""
    return encode_png(torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))))
