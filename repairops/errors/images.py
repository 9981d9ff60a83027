"""Images, data sets and failure batches."""

from __future__ import annotations

from collections.abc import Iterable

from repairops.errors.base import RepairError, listing


class DatasetNotFound(RepairError):
    message = "The {} was not found: {}. {}"


class UnreadableDataset(RepairError):
    message = (
        "{} cannot be read as an image set: {}. Give an ImageFolder (one folder per class) or "
        "parquet with an image column (struct of bytes and path) and a label column."
    )

    def __init__(self, path: object, *facts: object) -> None:
        super().__init__(path, *facts)
        self.fact = ", ".join(map(str, facts))


class ClassMismatch(RepairError):
    def __init__(self, path: object, found: Iterable[str], wanted: Iterable[str]) -> None:
        super().__init__(
            f"{path} has the classes {listing(found)}, but the model has {listing(wanted)}. "
            "Rename the folders or labels, or set model.class_names."
        )


class NoImagesInFolder(RepairError):
    message = "{} holds no image files at any depth ({}). Name the folder that the images lie in."


class UnreadableImage(RepairError):
    """One image that cannot be used; `reason` is the quarantine rule that it breaks."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class DatasetImageUnusable(UnreadableDataset):
    """One image of a data set that cannot be used. Data sets are not quarantined, failures are."""

    message = (
        "{} holds an image that cannot be used, {}: {}. Remove or convert it; where only the "
        "size differs, set model.resize to stretch or center_crop."
    )


class InvalidImages(RepairError):
    message = (
        "{}. Give uint8, or float in 0..1, of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3, "
        "or a sequence of PIL images of one size."
    )


class InvalidLabels(RepairError):
    def __init__(self, fact: str, class_names: Iterable[str]) -> None:
        super().__init__(
            f"{fact}. Give one class name or index for each image; the classes are {listing(class_names)}."
        )


class NoSpaceForImages(RepairError):
    message = (
        "The {} needs {:,} MB of pixels, more than images.memory_limit_mb, and they cannot be "
        "written under {}: {}. Free disk space there, or raise images.memory_limit_mb."
    )


class CleanSetRemembered(RepairError):
    message = (
        "{1:,} of the {2:,} images of the clean set {0} stand in the train set, as they are or nearly. The champion "
        "remembers them, so they cannot judge. Give a clean set that it was not trained on (--clean-set)."
    )


class NoUnseenImages(RepairError):
    message = (
        "{2:,} of the {1:,} images of the validation set {0} cannot choose: as they are or nearly, {3:,} are in the "
        "train set and {4:,} in the clean set. Give one with images of its own (--validation-set), or none."
    )


# Failures


class InvalidFailures(RepairError):
    """What was handed to `log_failures` is no failure batch."""


class UnreadableFailures(InvalidFailures):
    message = (
        "{} cannot be read as failures: {}. Give a folder with a CSV (UTF-8, commas between the cells) that has the "
        "columns file and label, or parquet with a column of images (bytes, or a struct of bytes and path) and the "
        "column label."
    )


class CannotSplit(RepairError):
    def __init__(self, rows: int, group: str) -> None:
        shown = f"the group {group!r}" if group else "one group of near duplicates"
        mend = "Correct the group column" if group else "Raise split.near_duplicate_similarity"
        why = f"All {rows} failures belong to {shown}" if rows else "There are no failures"
        super().__init__(
            f"{why}, so none can be held out to judge the repair. Log failures of other scenes too"
            + (f"; or, if they are different scenes, {mend[0].lower()}{mend[1:]}." if rows else ".")
        )


class FailureBatchNotFound(RepairError):
    def __init__(self, reference: str, exists: Iterable[str]) -> None:
        super().__init__(
            f"No failure batch answers to {reference!r}. Logged batches: {listing(exists)}. "
            "List them with `repairops failures list MODEL`."
        )


class FailureBatchDamaged(RepairError):
    message = (
        "The failure batch of run {} is not what was logged: {}. "
        "Delete that run and log the batch again with `repairops failures log`."
    )


class FailureBatchRejected(RepairError):
    def __init__(self, broken: Iterable[str], report: str) -> None:
        super().__init__(
            f"The failure batch does not pass validation: {'; '.join(broken)}. "
            f"Quarantined rows and their reasons: {report}. Correct the batch, or change validation.* on purpose."
        )
