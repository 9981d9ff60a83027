"""Which clean images choose and which judge: settled once, before anything has looked at them."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import cast

import numpy as np

from repairops.config import Config, derive_seed
from repairops.data.copies import Overlap, compared, overlap
from repairops.data.records import CleanSet, ImageSet
from repairops.data.sets import pick_images
from repairops.data.split import choose_rows, cut_rows
from repairops.errors import CleanSetRemembered, NoUnseenImages
from repairops.outcome.given import CleanValidation
from repairops.stages.job import Job

log = logging.getLogger(__name__)
REMEMBERED = "A part of the train set chooses, which the champion probably remembers: "


def assign_clean_roles(
    job: Job, train_set: ImageSet, clean: ImageSet, given: ImageSet | None
) -> tuple[ImageSet | None, CleanSet]:
    """Clean images new to the champion that choose, and those that judge.

    given: the validation set, whose images choose but for those that stand in another set; None: a part is cut from
    the clean set. The first is None where a part of the train set chooses instead. Clean images that stand in the train
    set do neither. The ids of what chooses are logged, and the outcome says where it comes from.

    Raises CleanSetRemembered, NoUnseenImages, NoSpaceForImages.
    """
    judging, remembered = _without_remembered(job, train_set, clean)
    unseen, judging = _take(job, train_set, judging, given) if given else _cut(job, judging)
    if remembered:
        log.warning("Warning: %s", remembered)
        account = cast(CleanValidation, job.record.clean_validation)
        job.record = replace(job.record, clean_validation=replace(account, note=f"{account.note} {remembered}"))
    if unseen:
        job.log_role("clean_validation", unseen.sample_ids)
    return unseen, judging


def _without_remembered(job: Job, train_set: ImageSet, clean: ImageSet) -> tuple[CleanSet, str]:
    """The clean set without images that stand in the train set, and a sentence on how many did; '' where none.

    A champion remembers these, so they judge nothing. Raises CleanSetRemembered where they are most of it.
    """
    found = overlap(clean, train_set)
    rows = np.flatnonzero(~found.either)
    known = len(clean) - len(rows)
    if not known:
        return CleanSet(clean), ""
    if known > len(rows):
        raise CleanSetRemembered(clean.source, known, len(clean))
    judging = pick_images(clean, rows, job.config.images, role="clean set", cache_dir=job.folder / "mapped")
    _record_part(job, judging)
    said = f"{known:,} of {len(clean):,} images of the clean set stand in the train set and judge nothing."
    return CleanSet(judging, rows), said + _near(found, train_set=train_set)


def _take(job: Job, train_set: ImageSet, clean: CleanSet, given: ImageSet) -> tuple[ImageSet, CleanSet]:
    """The validation set without what the champion remembers and what judges, at most as many as are wanted.

    Raises NoUnseenImages where that is most of it.
    """
    remembered, judges = overlap(given, train_set), overlap(given, clean.images)
    taken = remembered.either | judges.either
    in_train_set, in_clean_set = _counts(remembered, judges)
    if 2 * (in_train_set + in_clean_set) > len(given) or not len(given):
        raise NoUnseenImages(given.source, len(given), in_train_set + in_clean_set, in_train_set, in_clean_set)
    rows = choose_rows(
        ~taken,
        most=max(job.config.training.max_validation_images, 1),
        seed=derive_seed(job.config.seed, "clean validation"),
    )
    note = f"{len(rows):,} of {len(given):,} images of the validation set choose; none of them judges or trains."
    if taken.any():
        note += f" {in_train_set:,} that stand in the train set and {in_clean_set:,} that judge do not."
        note += _near(remembered, judges, train_set=train_set)
    unseen = given.subset(rows)
    _record(job, "validation set", unseen, note, in_train_set=in_train_set, in_clean_set=in_clean_set)
    return unseen, clean


def _counts(remembered: Overlap, judges: Overlap) -> tuple[int, int]:
    """Images that stand in the train set, and in the clean set alone."""
    return int(remembered.either.sum()), int((judges.either & ~remembered.either).sum())


def _near(*found: Overlap, train_set: ImageSet) -> str:
    """A sentence, with a space before it, on the near copies among what stands in other sets; '' where there are none.

    Of a large train set, how much of it was looked at.
    """
    near = int((np.any([part.near for part in found], 0) & ~np.any([part.same for part in found], 0)).sum())
    looked, images = len(compared(train_set.pixels)), train_set.total
    among = f", looked for among {looked:,} of {images:,} train images" if looked < images else ""
    return (
        f" Of these {near:,} are near copies{among}: the same photo, encoded anew or a grey level off." if near else ""
    )


def _cut(job: Job, clean: CleanSet) -> tuple[ImageSet | None, CleanSet]:
    """A part of the clean set and the rest of it; none where there is too little to spare, and why."""
    config, images = job.config, clean.images
    if reason := _too_little(len(images), config):
        _record(job, "train set", None, f"{REMEMBERED}{reason}.")
        return None, clean
    cut, rest = cut_rows(
        images,
        fraction=config.split.clean_validation_fraction,
        most=config.training.max_validation_images,
        similarity=config.split.near_duplicate_similarity,
        seed=derive_seed(config.seed, "clean validation"),
    )
    if not len(cut):
        _record(job, "train set", None, f"{REMEMBERED}nothing could be cut from the clean set without parting copies.")
        return None, clean
    unseen = images.subset(cut)
    note = f"{len(cut):,} of {len(images):,} images of the clean set choose; the other {len(rest):,} judge."
    _record(job, "clean set", unseen, note)
    judging = pick_images(images, rest, config.images, role="clean set", cache_dir=job.folder / "mapped")
    _record_part(job, judging)
    return unseen, CleanSet(judging, rest if clean.rows is None else clean.rows[rest])


def _too_little(images: int, config: Config) -> str:
    """Why a clean set of this size is not cut; '' where it is."""
    split = config.split
    if not split.clean_validation_fraction or not config.training.max_validation_images:
        return "no validation set was given, and the options ask for no part of the clean set"
    if images < split.min_clean_images:
        return (
            f"no validation set was given, and the clean set holds {images:,} images, fewer than the "
            f"{split.min_clean_images:,} (split.min_clean_images) from which some can be spared"
        )
    return ""


def _record(job: Job, source: str, unseen: ImageSet | None, note: str, **left_out: int) -> None:
    """The outcome's account of it; how many of the train set choose is known after training."""
    images, digest = (len(unseen), unseen.digest) if unseen else (None, None)
    account = CleanValidation(source, unseen is not None, images, digest, note, **left_out)
    job.record = replace(job.record, clean_validation=account)


def _record_part(job: Job, judging: ImageSet) -> None:
    """That a part of the clean set judges."""
    sets = job.record.sets or {}
    whole = sets["clean_set"].whole or sets["clean_set"]
    part = replace(whole, digest=judging.digest, images=len(judging), whole=whole)
    job.record = replace(job.record, sets={**sets, "clean_set": part})
