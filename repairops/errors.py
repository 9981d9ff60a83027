"""What can go wrong, one class for each fact, the wording beside the class.

Every message states the fact, the value and the next step, so that the command line can print it
as one line and a scheduled job's log is enough to act on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def listing(items: Iterable[object], limit: int = 12) -> str:
    """Names for an error message: sorted as given, cut after `limit`, '(none)' when empty."""
    names = [str(item) for item in items]
    if not names:
        return "(none)"
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


class RepairError(Exception):
    """Base of everything that repairops raises on purpose; `exit_code` is the command's exit status."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its message: the classes' own arguments are more than what the message keeps."""
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[RepairError], args: tuple[Any, ...], state: dict[str, Any]) -> RepairError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


# Configuration and usage


class UsageError(RepairError):
    """An option or argument does not fit."""

    exit_code = 2


class UnknownOption(UsageError):
    def __init__(self, option: str, known: Iterable[str]) -> None:
        super().__init__(f"Unknown option {option!r}. Known options: {listing(known, 60)}.")


class InvalidOption(UsageError):
    def __init__(self, option: str, value: object, wanted: str) -> None:
        super().__init__(f"Option {option} is {value!r}; it must be {wanted}.")


class NoBenchmarkData(UsageError):
    def __init__(self, preset: str) -> None:
        super().__init__(
            f"The preset {preset!r} has no data. Give --data TRAIN CLEAN (ImageFolders or parquet), or --cifar10 "
            "FOLDER to let torchvision fetch CIFAR-10; the preset digits needs none."
        )


class NoBenchmarkResults(RepairError):
    def __init__(self, folder: object) -> None:
        super().__init__(f"No cell in {folder} is done. Compute some with `repairops bench run --out {folder}`.")


class InvalidInputSpec(RepairError):
    def __init__(self, field: str, value: object, wanted: str) -> None:
        super().__init__(
            f"The model's input specification has {field} = {value!r}; it must be {wanted}. "
            f"Correct it with `repairops log` or the option model.{field}."
        )


# Models


class ModelNotFound(RepairError):
    def __init__(self, reference: str, tried: Iterable[str], exists: Iterable[str]) -> None:
        super().__init__(
            f"No model version answers to {reference!r}. Tried: {listing(tried)}. "
            f"The registry has: {listing(exists)}. Name one of these, or register it with `repairops log`."
        )


class AmbiguousModel(RepairError):
    def __init__(self, reference: str, candidates: Iterable[str]) -> None:
        super().__init__(
            f"{reference!r} can mean more than one model version: {listing(candidates)}. "
            "Write one of these as MODEL@ALIAS or models:/MODEL/VERSION."
        )


class NotAClassifier(RepairError):
    def __init__(self, reference: str, why: str) -> None:
        super().__init__(
            f"{reference} is not an image classifier that repairops can repair: {why}. "
            "It needs a PyTorch module that maps float images (N, C, H, W) to logits (N, classes)."
        )


class NotFineTunable(RepairError):
    def __init__(self, reference: str, why: str) -> None:
        super().__init__(
            f"{reference} cannot be fine-tuned: {why}. Log it with serialization_format='pickle', or name the "
            "class that rebuilds it: -P model_factory=package.module:function."
        )


class NotTraceable(RepairError):
    def __init__(self, why: str) -> None:
        super().__init__(
            f"The model cannot be stored as pt2, torch.export does not follow it: {why}. "
            "Log it with serialization_format='pickle'."
        )


class PickleRefused(RepairError):
    def __init__(self, reference: str) -> None:
        super().__init__(
            f"{reference} is stored as a pickle and MLFLOW_ALLOW_PICKLE_DESERIALIZATION is false, so it is not "
            "loaded. Log the model with serialization_format='pt2', or allow pickles that you trust."
        )


class MissingInputSpec(RepairError):
    def __init__(self, reference: str, missing: Iterable[str]) -> None:
        super().__init__(
            f"{reference} does not say what images it expects; missing: {listing(missing)}. "
            "Register it with repairops.log_model(...), or give the options model.image_size, model.channels, "
            "model.mean, model.std and model.class_names."
        )


class ChampionAtChance(RepairError):
    def __init__(self, accuracy: float, n: int, classes: int) -> None:
        super().__init__(
            f"The champion gets {accuracy:.1%} of {n} clean images right, which is chance level for {classes} "
            "classes. The class order of the clean set or the preprocessing (size, range, mean, std) is not what "
            "the model was trained with; check model.class_names and model.mean/std."
        )


# Images and datasets


class DatasetNotFound(RepairError):
    def __init__(self, role: str, where: str, next_step: str) -> None:
        super().__init__(f"The {role} was not found: {where}. {next_step}")


class UnreadableDataset(RepairError):
    def __init__(self, path: object, why: str) -> None:
        super().__init__(
            f"{path} cannot be read as an image set: {why}. Give an ImageFolder (one folder per class) or "
            "parquet with an image column (struct of bytes and path) and a label column."
        )


class ClassMismatch(RepairError):
    def __init__(self, path: object, found: Iterable[str], wanted: Iterable[str]) -> None:
        super().__init__(
            f"{path} has the classes {listing(found)}, but the model has {listing(wanted)}. "
            "Rename the folders or labels, or set model.class_names."
        )


class UnreadableImage(RepairError):
    """One image that cannot be used; `reason` is the quarantine rule that it breaks."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class DatasetImageUnusable(UnreadableDataset):
    """One image of a data set that cannot be used. Data sets are not quarantined, failures are."""

    def __init__(self, path: object, place: str, detail: str) -> None:
        RepairError.__init__(
            self,
            f"{path} holds an image that cannot be used, {place}: {detail}. Remove or convert it; where only the "
            "size differs, set model.resize to stretch or center_crop.",
        )


class InvalidImages(RepairError):
    def __init__(self, fact: str) -> None:
        super().__init__(
            f"{fact}. Give uint8, or float in 0..1, of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3, "
            "or a sequence of PIL images of one size."
        )


class InvalidLabels(RepairError):
    def __init__(self, fact: str, class_names: Iterable[str]) -> None:
        super().__init__(
            f"{fact}. Give one class name or index for each image; the classes are {listing(class_names)}."
        )


class NoSpaceForImages(RepairError):
    def __init__(self, role: str, megabytes: int, folder: object, why: str) -> None:
        super().__init__(
            f"The {role} needs {megabytes:,} MB of pixels, more than images.memory_limit_mb, and they cannot be "
            f"written under {folder}: {why}. Free disk space there, or raise images.memory_limit_mb."
        )


class NoUnseenImages(RepairError):
    def __init__(self, where: str, images: int, in_train_set: int, in_clean_set: int) -> None:
        super().__init__(
            f"None of the {images:,} images of the validation set {where} can choose: {in_train_set:,} are in the "
            f"train set and {in_clean_set:,} in the clean set. Give one with images of its own, or none."
        )


# Failures


class InvalidFailures(RepairError):
    """What was handed to `log_failures` is no failure batch."""


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
    def __init__(self, run_id: str, why: str) -> None:
        super().__init__(
            f"The failure batch of run {run_id} is not what was logged: {why}. "
            "Delete that run and log the batch again with `repairops failures log`."
        )


class FailureBatchRejected(RepairError):
    def __init__(self, broken: Iterable[str], report: str) -> None:
        super().__init__(
            f"The failure batch does not pass validation: {'; '.join(broken)}. "
            f"Quarantined rows and their reasons: {report}. Correct the batch, or change validation.* on purpose."
        )


# Styles


class StyleNotFittable(RepairError):
    def __init__(self, role: str, why: str, next_step: str) -> None:
        super().__init__(f"The style cannot be fitted to the {role}: {why}. {next_step}.")


class StyleWeightsMissing(RepairError):
    def __init__(self, path: str = "") -> None:
        where = f"{path} does not hold them" if path else "none are named"
        super().__init__(
            f"The style wct2 needs encoder and decoder weights and {where}. Set style.weights to a safetensors file or "
            "to the folder of wave_encoder_cat5_l4.pth and wave_decoder_cat5_l4.pth, or use a style without a "
            "network: style.name=fitted_degradation or subband_wct."
        )


class StyleWeightsUnchecked(UsageError):
    def __init__(self, urls: str) -> None:
        super().__init__(
            f"style.weights names {urls}, and style.weights_sha256 does not give one digest for each address. "
            "What is fetched must be known: set style.weights_sha256 to its sha256, two by comma for two addresses."
        )


class StyleNetworkPoor(RepairError):
    def __init__(self, psnr: float, least: float) -> None:
        super().__init__(
            f"The fitted network reconstructs images at {psnr:.1f} dB, below {least:g} dB: what it restyles would be "
            "blurred. Fit it longer (--steps), on more images, or use a style without a network."
        )


class StyleNetworkNotFound(RepairError):
    def __init__(self, digest: str, exists: Iterable[str]) -> None:
        super().__init__(
            f"No fitted style network has a digest that starts with {digest!r}. There are: {listing(exists)}. "
            "Fit one with `repairops style fit`."
        )


class StyleWeightsDamaged(RepairError):
    def __init__(self, path: str, why: str) -> None:
        super().__init__(
            f"The style weights at {path} are not usable: {why}. Fetch them again, or correct style.weights and "
            "style.weights_sha256."
        )


class PatternNotUsable(UsageError):
    def __init__(self, name: str, why: str) -> None:
        super().__init__(
            f"The known pattern {name!r} cannot be used: {why}. Name a built-in one, or a function that takes images "
            "(float32, N x C x H x W, 0..1) and a torch.Generator and returns the like."
        )


class ValidationEngineFailed(RepairError):
    def __init__(self, rule: str, why: str) -> None:
        super().__init__(
            f"Great Expectations could not evaluate the rule {rule!r}: {why}. This is a fault of the software, not of "
            "the data; check the installed versions with `repairops doctor` and report it."
        )


# Training, evaluation, export


class LossNotFinite(RepairError):
    def __init__(self, step: int, loss: float, checkpoint: object) -> None:
        super().__init__(
            f"The training loss became {loss} at step {step}. Training stopped; the last good checkpoint is "
            f"{checkpoint}. Lower training.learning_rate (a tenth is a good start) and run again."
        )


class DeviceNotAvailable(RepairError):
    def __init__(self, device: str, why: str) -> None:
        super().__init__(f"The device {device!r} cannot be used: {why}. Use training.device=auto or cpu.")


class RanksNotStarted(RepairError):
    def __init__(self, address: str, why: str) -> None:
        super().__init__(
            f"The processes that torchrun started did not find each other at {address or 'this machine'}: {why}. Check "
            "that MASTER_ADDR and MASTER_PORT reach rank 0 from every node."
        )


class ExportImpossible(RepairError):
    """The exporter's own reason; the gate's parity check fails with it."""


# Registry


class RegistryUnreachable(RepairError):
    def __init__(self, uri: str, action: str, why: str) -> None:
        super().__init__(
            f"MLflow at {uri} did not {action}: {why}. Nothing was half-registered; check the server and rights, "
            "then run the same command again: it goes on where it stopped."
        )


class RegistryRefused(RepairError):
    def __init__(self, uri: str, action: str, why: str) -> None:
        super().__init__(
            f"MLflow at {uri} refused to {action}: {why}. The job needs the right to edit the experiment and the "
            "registered model; ask for it, then run the same command again."
        )


class AliasMoved(RepairError):
    exit_code = 5

    def __init__(self, model: str, alias: str, expected: str, found: str, by: str = "") -> None:
        who = f" (moved by {by})" if by and found else ""
        super().__init__(
            f"The alias {alias!r} of {model!r} was at version {expected or '(none)'} and is at {found or '(none)'} "
            f"now{who}, so it was not moved. Look at `repairops history {model}`, then repeat the command if it still "
            "holds."
        )


class AliasBeingMoved(AliasMoved):
    """Another process of repairops moves it at this moment, and was first."""

    def __init__(self, model: str, alias: str, version: str, by: str) -> None:
        RepairError.__init__(
            self,
            f"{by or 'Somebody'} is moving the alias {alias!r} of {model!r} to version {version} at this moment, so it "
            f"was not moved. Look at `repairops history {model}`, then repeat the command if it still holds.",
        )


class PromotionRefused(RepairError):
    def __init__(self, model: str, version: str, why: str, next_step: str) -> None:
        super().__init__(f"Version {version} of {model!r} is not promoted: {why}. {next_step}")


class NothingToRollBack(RepairError):
    def __init__(self, model: str, alias: str) -> None:
        super().__init__(
            f"No earlier version of {model!r} is recorded under the alias {alias!r}, so there is nothing to roll "
            f"back to. Move it yourself: `repairops promote {model} --version N`."
        )


class JobRunning(RepairError):
    def __init__(self, key: str, where: object) -> None:
        super().__init__(
            f"The same repair (job {key[:12]}) is running already; its lock is {where}. Wait for it to end."
        )


class NoReview(RepairError):
    def __init__(self, model: str, version: str, why: str) -> None:
        super().__init__(
            f"Version {version} of {model!r} cannot be reviewed: {why}. Name a version that a repair registered, with "
            "--version."
        )


class OutcomeUnreadable(RepairError):
    def __init__(self, path: object, why: str) -> None:
        super().__init__(f"{path} is not an outcome of repairops: {why}. Give the outcome.json of a repair run.")
