"""The job around the repair core: what it says, records and shows of each step."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from contextlib import AbstractContextManager

import numpy as np
import torch

from repairops.core.clustering import cluster_grid
from repairops.core.followers import call_followers
from repairops.core.looks import describe_look, describe_looks, find_degradation
from repairops.core.parts import RepairInputs, TrainingParts
from repairops.core.repair import Repaired, Watch, repair_network
from repairops.core.styles import Style
from repairops.data.decoding import encode_png
from repairops.data.records import Clusters, FailureBatch, FailureSplit
from repairops.model.network import Classifier
from repairops.stages.gallery import StyledSample, style_grid, style_samples
from repairops.stages.job import Job

log = logging.getLogger("repairops")
NO_POINT = (
    "No point between the champion's and the fine-tuned weights kept clean accuracy on the validation images and "
    "repaired more failures; the challenger is the champion."
)


def repair_champion(job: Job, champion: Classifier, inputs: RepairInputs) -> tuple[Repaired, list[StyledSample]]:
    """Splits the failures, clusters them, fits their style and fine-tunes, on all of torchrun's processes.

    Also returns train images in the style, for the report. Raises what `repair_network` raises.
    """
    watch = JobWatch(job)
    call_followers(champion, inputs, job.config)
    return repair_network(champion, inputs, job.config, work_dir=job.folder, watch=watch), watch.samples


class JobWatch(Watch):
    """Writes down in the job what each step came to. samples: train images in the style, once it is fitted."""

    shows_style = True  # before training starts, a glance shows a wrong one

    def __init__(self, job: Job) -> None:
        self.job = job
        self.samples: list[StyledSample] = []

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
        self.job.values["split"] = counts
        self.job.say(", ".join(f"{count} {part}" for part, count in counts.items()))

    def on_clusters(self, failures: FailureBatch, clusters: Clusters) -> None:
        """Sizes and labels, with a picture of each cluster's nearest members (clusters.png)."""
        names, labels = failures.images.class_names, failures.images.labels
        self.job.values["clusters"] = [
            {
                "id": number,
                "size": len(members),
                "labels": {names[label]: count for label, count in Counter(labels[members].tolist()).most_common()},
            }
            for number in range(clusters.count)
            for members in [clusters.members(number)]
        ]
        self.job.log_picture("clusters.png", _png(cluster_grid(failures.images, clusters)))
        self.job.say("sizes " + ", ".join(str(entry["size"]) for entry in self.job.values["clusters"]))

    def on_style(self, parts: TrainingParts, style: Style | None) -> None:
        """Each cluster's look in a sentence, and train images in its style beside its failures (styles.png)."""
        assert style is not None, "this watch shows a style"
        job, config = self.job, self.job.config
        found = find_degradation(style, parts, seed=config.seed)
        self.samples = style_samples(
            parts.failures, parts.clusters, parts.train_set, style, per_cluster=4, seed=config.seed
        )
        looks = describe_looks(style, found, parts.clusters)
        job.values["method"] = {
            "name": config.method.name,
            "recipe": config.method.recipe,
            "style": config.style.name,
        }
        job.values["style"] = {"name": config.style.name, "clusters": looks}
        job.values["clusters"] = [{**c, "look": k["look"]} for c, k in zip(job.values["clusters"], looks, strict=True)]
        job.log_picture("styles.png", _png(style_grid(self.samples, parts.failures)))
        job.say(f"{config.style.name}, fitted to {len(parts.failures)} failures; {describe_look(found)['look']}")

    def on_repaired(self, repaired: Repaired) -> None:
        """The training's figures, the line between the weights, and what was chosen."""
        job, result, points = self.job, repaired.training, repaired.points
        training = dataclasses.asdict(result)
        training["tradeoff"] = [dataclasses.asdict(point) for point in points]
        if points and repaired.weight < 1:
            log.info("           weights %.0f%% of the way from the champion chosen", 100 * repaired.weight)
        if points and repaired.weight == 0:
            training["note"] = f"{result.note} {NO_POINT}".strip()
        job.values["clean_validation"]["images"] = result.validation_images
        training["history"] = [{"epoch": number, **figures} for number, figures in enumerate(result.history, 1)]
        job.values["training"] = training | {"trials": repaired.trials}
        job.values["method"] |= {"chosen": repaired.method.name}
        job.say(
            f"{len(result.history)} epochs on {result.device}, {result.images_per_second:.0f} images/s; "
            f"epoch {result.best_epoch} chosen" + (f". {training['note']}" if training["note"] else "")
        )


def _png(picture: np.ndarray) -> bytes:
    """PNG of a picture, uint8 (H, W, 3)."""
    return encode_png(torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))))
