"""The job around the repair core: what it says, records and shows of each step."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from repairops.core.clustering import cluster_grid
from repairops.core.followers import call_followers
from repairops.core.looks import describe_all, describe_looks, find_degradation
from repairops.core.parts import RepairInputs, TrainingParts
from repairops.core.repair import Repaired, Watch, repair_network
from repairops.core.styles import Style
from repairops.data.records import Clusters, FailureBatch, FailureSplit
from repairops.model.network import Classifier
from repairops.outcome.given import SuspectLabels
from repairops.outcome.plain import from_plain, to_plain
from repairops.outcome.sections import Cluster, Form, Looks, MethodNames, SplitSizes, Training
from repairops.report import Pictures
from repairops.stages.gallery import style_grid, style_samples, suspect_images
from repairops.stages.job import Job

log = logging.getLogger("repairops")
NO_POINT = (
    "No point between the champion's and the fine-tuned weights kept clean accuracy on the validation images and "
    "repaired more failures; the challenger is the champion."
)


def repair_champion(job: Job, champion: Classifier, inputs: RepairInputs) -> tuple[Repaired, Pictures]:
    """Splits the failures, clusters them, fits their style and fine-tunes, on all of torchrun's processes.

    Also returns the clusters and train images in their style, for the report. Raises what `repair_network` raises.
    """
    watch = JobWatch(job)
    call_followers(champion, inputs, job.config)
    return repair_network(champion, inputs, job.config, work_dir=job.folder, watch=watch), watch.pictures


class JobWatch(Watch):
    """Writes down in the job what each step came to. pictures: of the clusters and their style, for the report."""

    shows_style = True  # before training starts, a glance shows a wrong one
    shows_suspects = True

    def __init__(self, job: Job) -> None:
        self.job = job
        self.pictures = Pictures()

    def step(self, name: str) -> AbstractContextManager[None]:
        return self.job.stage(name)

    def on_epoch(self, epoch: int, figures: dict[str, float]) -> None:
        self.job.log_epoch(epoch, figures)

    def on_split(self, split: FailureSplit) -> None:
        """The ids of the parts, and their sizes."""
        parts = {"repair": split.repair, "validation": split.validation, "heldout": split.heldout.batch}
        for role, part in parts.items():
            self.job.log_role(f"{role}_failures", part.images.sample_ids)
        counts = {role: len(part) for role, part in parts.items()}
        self.job.record = replace(self.job.record, split=SplitSizes(**counts))
        self.job.say(", ".join(f"{count} {part}" for part, count in counts.items()))

    def on_clusters(self, failures: FailureBatch, clusters: Clusters) -> None:
        """Sizes and labels, with a picture of each cluster's nearest members (clusters.png)."""
        names, labels = failures.images.class_names, failures.images.labels
        found = tuple(_cluster(number, names, labels[clusters.members(number)]) for number in range(clusters.count))
        self.job.record = replace(self.job.record, clusters=found)
        grid = self.job.log_picture("clusters.png", cluster_grid(failures.images, clusters))
        self.pictures = replace(self.pictures, cluster_grid=grid)
        self.job.say("sizes " + ", ".join(str(each.size) for each in found))

    def on_style(self, parts: TrainingParts, style: Style | None) -> None:
        """Each cluster's look in a sentence, and train images in its style beside its failures (styles.png)."""
        assert style is not None, "this watch shows a style"
        job, config = self.job, self.job.config
        found = find_degradation(style, parts, seed=config.seed)
        samples = style_samples(parts, style, per_cluster=4, seed=config.seed)
        self.pictures = replace(self.pictures, samples=samples)
        whole = describe_all(found, parts.clusters)["look"]
        _record_style(job, describe_looks(style, found, parts.clusters), whole if len(found) > 1 else None)
        job.log_picture("styles.png", style_grid(samples))
        job.say(f"{config.style.name}, fitted to {len(parts.failures)} failures; {whole}")

    def on_suspects(self, before: FailureSplit, after: FailureSplit, found: SuspectLabels) -> None:
        """The failures whose label looks wrong, with pictures; the parts again where some were taken out."""
        self.job.record = replace(self.job.record, suspect_labels=found)
        self.pictures = replace(self.pictures, suspects=suspect_images(before, found))
        taken = sum(found.quarantined.values())
        if taken:
            self.on_split(after)
        told = f"{len(found.listed)} of {found.asked} labels look wrong (about {found.by_chance:.0f} by chance)"
        self.job.say(found.note or told + (f"; {taken} failures quarantined" if taken else ""))

    def on_trained(self, repaired: Repaired) -> None:
        """The training's figures, the line between the weights, and what was chosen."""
        result = repaired.training
        if repaired.points and repaired.weight < 1:
            log.info("           weights %.0f%% of the way from the champion chosen", 100 * repaired.weight)
        note = _record_training(self.job, repaired)
        self.job.say(
            f"{len(result.history)} epochs on {result.device}, {result.images_per_second:.0f} images/s; "
            f"epoch {result.best_epoch} chosen" + (f". {note}" if note else "")
        )

    def on_form(self, form: Form) -> None:
        """Which form is served, and by which figures it was chosen."""
        self.job.record = replace(self.job.record, form=form)
        self.job.say(describe_form(form))

    def on_repaired(self, repaired: Repaired) -> None:
        """A word where nothing was repaired after all."""
        training = self.job.record.training
        if training and repaired.form.name == "one" and repaired.points and repaired.weight == 0:
            self.job.record = replace(
                self.job.record, training=replace(training, note=f"{training.note} {NO_POINT}".strip())
            )
            log.warning("Warning: %s", NO_POINT)


def describe_form(form: Form) -> str:
    """In one line, for the terminal."""
    figures = form.chosen
    if form.note or figures is None:
        return form.note
    told = f"area under the ROC curve {form.separation:.2f}; " if form.separation is not None else ""
    what = "one network" if form.name == "one" else f"champion and repaired network, {form.name}"
    routed = "" if form.name == "one" else f", {figures.routed:.1%} of the clean images routed"
    return f"{told}{what}: {figures.repaired:.1%} of the validation failures repaired{routed}"


def _cluster(number: int, names: Sequence[str], labels: np.ndarray) -> Cluster:
    """A cluster whose members have these labels, int64 (n,)."""
    counts = {names[label]: count for label, count in Counter(labels.tolist()).most_common()}
    return Cluster(number, len(labels), counts)


def _record_style(job: Job, looks: Sequence[Mapping[str, Any]], summary: str | None) -> None:
    """The method that will train, the style, and each cluster's look (`describe_looks`)."""
    name, method = job.config.style.name, job.config.method
    found = from_plain(Looks, to_plain({"name": name, "clusters": looks} | ({"summary": summary} if summary else {})))
    clusters = zip(job.record.clusters or (), found.clusters, strict=True)
    job.record = replace(
        job.record,
        method=MethodNames(method.name, method.recipe, name),
        style=found,
        clusters=tuple(replace(cluster, look=look.look) for cluster, look in clusters),
    )


def _record_training(job: Job, repaired: Repaired) -> str:
    """How the challenger came about, by which method, and by how many clean images; what a reviewer must know of it."""
    result, points = repaired.training, repaired.points
    history = [{"epoch": number, **figures} for number, figures in enumerate(result.history, 1)]
    values = {**vars(result), "history": history, "tradeoff": points, "trials": repaired.trials}
    method, account = job.record.method, job.record.clean_validation
    job.record = replace(
        job.record,
        training=from_plain(Training, to_plain(values)),
        method=method and replace(method, chosen=repaired.method.name),
        clean_validation=account and replace(account, images=result.validation_images),
    )
    return result.note
