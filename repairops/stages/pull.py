"""What a repair starts from, pulled from MLflow: champion, image sets, logged failures."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from repairops.config import ModelConfig
from repairops.core.parts import draw_train_set
from repairops.core.training.loop import check_trainable
from repairops.data.copies import most_compared
from repairops.data.decoded import kept_name, load_kept
from repairops.data.records import CleanSet, ImageSet, InputSpec
from repairops.data.sets import load_image_set, peek_image_size
from repairops.data.sources import open_source, peek_class_names, read_column
from repairops.errors import listing
from repairops.model.preprocessing import better_input
from repairops.outcome.given import DataSet
from repairops.stages.earlier import Earlier
from repairops.stages.job import Job
from repairops.stages.roles import assign_clean_roles
from repairops.store.batches import LoggedBatch, fetch_rows, log_batch_inputs
from repairops.store.champion import Champion, fetch_champion
from repairops.store.datasets import OPTION, ROLE, Context, DatasetRef, content_digest, fetch_dataset, log_reference
from repairops.store.failure_rows import FailureRows
from repairops.store.models import ModelRef
from repairops.store.room import decoded_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("repairops")
OTHER_INPUT = (
    "{} says nothing of mean and std, and gets {:.1%} of its own train images right as they are, {:.1%} normalised "
    "otherwise. If it was trained so, add {} to the command."
)
FROZEN = (
    "{champion} is a traced graph that reads running statistics in an unknown way, and training will not move them "
    "({names}). Log it as a pickle, or give model.factory, if the repair diverges or does not improve."
)


@dataclass(frozen=True, eq=False)
class Inputs:
    """References to all that a job reads; pinned before it starts.

    repaired: of the batches that the version or its parents were repaired from, the digests' first 16 characters.
    roles: of a consolidation, what each failure was in the version's repairs ('repair', 'validation' or 'heldout'), by
    its sample id, so that none judges that the version has learnt. earlier: of any other job, the failures of these.
    """

    client: MlflowClient
    ref: ModelRef
    batches: list[LoggedBatch]
    sets: dict[Context, DatasetRef]
    repaired: frozenset[str] = frozenset()
    roles: Mapping[str, str] | None = None
    earlier: Earlier = field(default_factory=Earlier)


def pull(job: Job, inputs: Inputs) -> tuple[Champion, ImageSet, ImageSet | None, CleanSet, FailureRows]:
    """Downloads and loads everything: champion, train set, clean images that choose (if any), that judge, failures.

    Class names that the model does not state are taken from the clean set. All sets become inputs of the job's run,
    where the repair of the version that it registers will look for them. What chooses is settled here, and what
    judges is the rest: no later stage sees the two together (`assign_clean_roles`).
    Raises DatasetNotFound, UnreadableDataset, ClassMismatch, NoUnseenImages, FailureBatchDamaged, and what
    `fetch_champion` and `check_trainable` raise.
    """
    paths = {c: fetch_dataset(found, c, job.folder / "sets") for c, found in inputs.sets.items()}
    if column := job.config.gate.clean_slices:
        read_column(paths["evaluation"], column, "gate.clean_slices")  # a wrong name is known before training
    names = peek_class_names(paths["evaluation"]) or ()
    shape = peek_image_size(paths["evaluation"])
    champion = fetch_champion(inputs.ref, job.config.model, job.folder / "champion", tuple(names), shape)
    check_trainable(champion.classifier)
    if champion.frozen:
        log.warning("Warning: %s", FROZEN.format(champion=inputs.ref, names=listing(champion.frozen, 5)))
    sets = {context: _load(job, context, path, champion.spec) for context, path in paths.items()}
    _name_inputs(job, inputs, sets)
    rows = fetch_rows(inputs.client, inputs.batches)
    judge = [batch[:16] not in inputs.repaired for batch in rows.batch]  # what the champion has learnt does not
    rows = replace(rows, field=[mark and new for mark, new in zip(rows.field, judge, strict=True)])
    recorded = {
        OPTION[c]: DataSet(inputs.sets[c].uri, inputs.sets[c].given, images.digest, images.total)
        for c, images in sets.items()
    }
    job.record = replace(job.record, sets=recorded)
    train_set = sets["training"]
    warn_of_another_input(champion, job.config.model, train_set, job.device)
    unseen, clean = assign_clean_roles(job, train_set, sets["evaluation"], sets.get("validation"))
    chosen = f" and {len(unseen)} that choose" if unseen else ""
    job.say(
        f"{inputs.ref}, {train_set.total} train images{_of_which(train_set)}, {len(clean.images)} clean ones that "
        f"judge{chosen}, {len(rows)} failures in {len(inputs.batches)} batch{'es' if len(inputs.batches) > 1 else ''}"
    )
    return champion, train_set, unseen, clean, rows


def _load(job: Job, context: Context, path: Path, spec: InputSpec) -> ImageSet:
    """A data set, mapped as an earlier job decoded it where nothing has changed since.

    Of a train set so large that only a part of it is looked at for copies, only what may train or choose is read.
    """
    images, role, mapped, drawn = job.config.images, ROLE[context], job.folder / "mapped", None
    if context == "training" and job.config.training.max_train_images:
        count = open_source(path, spec.class_names, role, images.max_image_bytes).count
        found = draw_train_set(count, job.config.training, seed=job.config.seed)
        if most_compared(spec.channels * spec.height * spec.width) < count > len(found.rows):
            drawn = found
    stays = not path.is_relative_to(job.folder)  # what was downloaded into it goes with it
    name, folder = kept_name(digest := content_digest(path, keep=stays), spec, images, drawn), decoded_folder()
    if folder is None or not images.cache_mb:
        return load_image_set(path, spec, images, role=role, cache_dir=mapped, drawn=drawn)
    return load_kept(
        path,
        spec,
        images,
        folder / name,
        role=role,
        cache_dir=mapped,
        unchanged=lambda: content_digest(path, keep=stays) == digest,
        warn=lambda fact: log.warning("Warning: %s", fact),
        drawn=drawn,
    )


def _of_which(train_set: ImageSet) -> str:
    if train_set.drawn is None:
        return ""
    return f" ({len(train_set)} of them are read, and compared with the clean images)"


def _name_inputs(job: Job, inputs: Inputs, sets: Mapping[Context, ImageSet]) -> None:
    """All that is repaired from as inputs of the job's run; the figures of the job will name what judged it."""
    client, run_id = inputs.client, job.run.run_id
    named = {
        context: log_reference(client, run_id, context, found, sets[context].total)
        for context, found in inputs.sets.items()
    }
    failures = log_batch_inputs(client, run_id, inputs.batches)
    if inputs.earlier.batches:
        log_batch_inputs(client, run_id, inputs.earlier.batches)
    job.judging = {"clean_set": named["evaluation"], "failures": failures}


def warn_of_another_input(champion: Champion, given: ModelConfig, train_set: ImageSet, device: str) -> None:
    """Where nobody said how the images are normalised, and the champion is clearly better otherwise."""
    logged = champion.metadata.get("input", {})
    if given.mean or given.std or given.value_range or "mean" in logged or "value_range" in logged:
        return
    if found := better_input(champion.classifier, train_set, device):
        spec, before, after = found
        names = ("value_range",) if spec.value_range != champion.spec.value_range else ("mean", "std")
        options = " ".join(f"--set model.{name}={','.join(f'{x:g}' for x in getattr(spec, name))}" for name in names)
        log.warning("Warning: %s", OTHER_INPUT.format(champion.ref, before, after, options))
