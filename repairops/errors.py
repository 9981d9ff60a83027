"""What can go wrong, one class for each fact, the wording beside the class.

Every message states the fact, the value and the next step, so that the command line can print it
as one line and a scheduled job's log is enough to act on.
"""

from __future__ import annotations

import difflib
import errno
import reprlib
from collections.abc import Iterable
from typing import Any


def listing(items: Iterable[object], limit: int = 12) -> str:
    """Names for an error message: sorted as given, cut after `limit`, '(none)' when empty; long ones are cut too."""
    names = [text if len(text) <= 200 else f"{text[:197]}..." for text in map(str, items)]
    if not names:
        return "(none)"
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The names that exist and are as `name` after their last dot, else the one that looks most like it."""
    names = list(known)
    same = [each for each in names if each.rpartition(".")[2] == name.rpartition(".")[2]]
    return same or difflib.get_close_matches(name, names, n=1, cutoff=0.7)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence, with a space before it; '' where nothing that exists is like it."""
    found = nearest(name, known)
    return f" Did you mean {' or '.join(found)}?" if found else ""


def one_of(name: str, known: Iterable[str]) -> str:
    """What `InvalidOption` says of a name that does not exist: the nearest ones, else all."""
    names = list(known)
    found = nearest(name, names)
    return f"one that exists, such as {' or '.join(found)}" if found else f"one of {listing(names, 40)}"


def shown(value: object, limit: int = 80) -> str:
    """Any value for an error message: as Python writes it, in about `limit` characters, whatever it holds."""
    if isinstance(value, int) and abs(value) >= 10**limit:
        return f"a whole number of about {value.bit_length() * 3 // 10:,} digits"
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, limit, limit
    text = short.repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


class RepairError(Exception):
    """Base of everything that repairops raises on purpose; `exit_code` is the command's exit status.

    message: the wording of a class, with a place for each of the facts that it is raised with, in their order.
    """

    exit_code = 1
    message = "{}"

    def __init__(self, *facts: object) -> None:
        super().__init__(self.message.format(*facts))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its message: the classes' own arguments are more than what the message keeps."""
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[RepairError], args: tuple[Any, ...], state: dict[str, Any]) -> RepairError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


# Whatever else is raised


class Unforeseen(RepairError):
    """What no other class stands for; its cause is what was raised."""

    message = (
        "{}: {}. Nobody foresaw this: `repairops --traceback` before the command's name shows where it comes from. "
        "Please report it with `repairops doctor --json`."
    )


class Interrupted(RepairError):
    message = "The job was interrupted ({}). The same command goes on where it stopped."


class NoSpace(RepairError):
    message = (
        "No space is left on a disk: {}. Free some (`repairops clean` lists and removes what ended jobs left), or set "
        "REPAIROPS_HOME to another disk; then run the same command again: it goes on where it stopped."
    )


class NoMemory(RepairError):
    message = "There is not enough memory: {}. Lower training.batch_size or training.max_train_images."


class FileUnusable(RepairError):
    message = "{} cannot be used: {}. Check the path and its rights, then run the same command again."


_LOST = ("gloo", "NCCL", "Connection closed by peer")  # what torch's collectives raise when a process is gone
_FULL = ("No space left on device", "os error 28", "database or disk is full", "Disk quota exceeded")


def foreseen(error: BaseException) -> RepairError:
    """What is raised in place of any exception: itself where it is ours, else the class for its fact, in one line."""
    if isinstance(error, RepairError):
        return error
    text = " ".join(str(error).split())[:300] or "it says no more"
    if is_full_disk(error):
        return NoSpace(text)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's is a RuntimeError
        return NoMemory(text)
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("Ctrl-C")
    if isinstance(error, RuntimeError) and any(word in text for word in _LOST):
        return RankLost(text)
    if isinstance(error, OSError) and error.filename is not None:
        return FileUnusable(error.filename, error.strerror or text)
    return Unforeseen(type(error).__name__, text)


def is_full_disk(error: BaseException) -> bool:
    """Whether it says that a disk, here or under a server's database, is full. safetensors' own class has no number."""
    number = getattr(error, "errno", None)
    return number in (errno.ENOSPC, errno.EDQUOT) or any(words in str(error) for words in _FULL)


# Configuration and usage


class UsageError(RepairError):
    """An option or argument does not fit."""

    exit_code = 2


class UnknownOption(UsageError):
    """known: names of options; with stages before them they are many, and the nearest are named."""

    def __init__(self, option: str, known: Iterable[str]) -> None:
        names = list(known)
        stages = list(dict.fromkeys(name.partition(".")[0] for name in names if "." in name))
        everything = f"The stages are {listing(stages, 20)}" if stages else f"Known options: {listing(names, 60)}"
        super().__init__(f"Unknown option {option!r}.{did_you_mean(option, names) or f' {everything}.'}")


class InvalidOption(UsageError):
    def __init__(self, option: str, value: object, wanted: str) -> None:
        super().__init__(f"Option {option} is {shown(value)}; it must be {wanted}.")


class UnreadableConfiguration(UsageError):
    message = "The configuration {} cannot be read: {}. It must hold options by name, as YAML in UTF-8."


class NoBenchmarkData(UsageError):
    message = (
        "The preset {!r} has no data. Give --data TRAIN CLEAN (ImageFolders or parquet), or --cifar10 "
        "FOLDER to let torchvision fetch CIFAR-10; the preset digits needs none."
    )


class NoBenchmarkResults(RepairError):
    message = "No cell in {0} is done. Compute some with `repairops bench run --out {0}`."


class InvalidInputSpec(RepairError):
    message = (
        "The model's input specification has {0} = {1!r}; it must be {2}. "
        "Correct it with `repairops log` or the option model.{0}."
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
    message = (
        "{} is not an image classifier that repairops can repair: {}. "
        "It needs a PyTorch module that maps float images (N, C, H, W) to logits (N, classes)."
    )


class NotFineTunable(RepairError):
    message = (
        "{} cannot be fine-tuned: {}. Log it with serialization_format='pickle', or name the "
        "class that rebuilds it: --set model.factory=package.module:function (-P set=model.factory=...)."
    )


class NotGuarded(RepairError):
    message = (
        "{} has no guard: it is one network. Name a version whose tag repairops.form is hard or mixed, or repair this "
        "one with guard.mode=on."
    )


class RolesLost(RepairError):
    message = (
        "{} cannot be consolidated: {} of run {}, which made version {}, is not there, so nothing says which failures "
        "it has learnt and which may judge. Restore that run, or repair the version before it with guard.mode=off."
    )


class NotTraceable(RepairError):
    message = (
        "The model cannot be stored as pt2, torch.export does not follow it: {}. "
        "Log it with serialization_format='pickle'."
    )


class PickleRefused(RepairError):
    message = (
        "{} is stored as a pickle and MLFLOW_ALLOW_PICKLE_DESERIALIZATION is false, so it is not "
        "loaded. Log the model with serialization_format='pt2', or allow pickles that you trust."
    )


class MetadataUnusable(RepairError):
    message = (
        "The metadata of {} cannot be used: {}. Log the model again with repairops.log_model(...), which writes it, or "
        "correct its MLmodel file."
    )


class MissingInputSpec(RepairError):
    """images: channels, height and width of those at hand, which are proposed."""

    def __init__(self, reference: str, missing: Iterable[str], images: tuple[int, int, int] | None = None) -> None:
        names, (channels, height, width) = list(missing), images or ("CHANNELS", "HEIGHT", "WIDTH")
        options = [f"--set model.channels={channels}"] if "channels" in names else []
        options += [f"--set model.image_size={height},{width}"] if {"height", "width"} & set(names) else []
        options += ["--set model.class_names=NAME,NAME"] if "class_names" in names else []
        guessed = " (as the images at hand are)" if images and names != ["class_names"] else ""
        super().__init__(
            f"{reference} does not say what images it expects, nor does the shape in its signature; missing: "
            f"{listing(names)}. Add {' '.join(options)}{guessed}, and model.mean and model.std if it takes normalised "
            "images; or register it with repairops.log_model(...)."
        )


class ChampionAtChance(RepairError):
    message = (
        "The champion gets {:.1%} of {} clean images right, which on so many images cannot be told from chance for {} "
        "classes. The class order of the clean set or the preprocessing (size, range, mean, std) is not what "
        "the model was trained with; check model.class_names and model.mean/std."
    )


# Images and datasets


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
        "{1:,} of the {2:,} images of the clean set {0} stand in the train set. The champion remembers them, so they "
        "cannot judge. Give a clean set that it was not trained on (--clean-set)."
    )


class NoUnseenImages(RepairError):
    message = (
        "None of the {1:,} images of the validation set {0} can choose: {2:,} are in the "
        "train set and {3:,} in the clean set. Give one with images of its own, or none."
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


# Styles


class StyleNotFittable(RepairError):
    message = "The style cannot be fitted to the {}: {}. {}."


class StyleWeightsMissing(RepairError):
    def __init__(self, path: str = "") -> None:
        where = f"{path} does not hold them" if path else "none are named"
        super().__init__(
            f"The style wct2 needs encoder and decoder weights and {where}. Set style.weights to a safetensors file or "
            "to the folder of wave_encoder_cat5_l4.pth and wave_decoder_cat5_l4.pth, or use a style without a "
            "network: style.name=fitted_degradation or subband_wct."
        )


class StyleWeightsUnchecked(UsageError):
    message = (
        "style.weights names {}, and style.weights_sha256 does not give one digest for each address. "
        "What is fetched must be known: set style.weights_sha256 to its sha256, two by comma for two addresses."
    )


class StyleNetworkPoor(RepairError):
    message = (
        "The fitted network reconstructs images at {:.1f} dB, below {:g} dB: what it restyles would be "
        "blurred. Fit it longer (--steps), on more images, or use a style without a network."
    )


class StyleNetworkNotFound(RepairError):
    def __init__(self, digest: str, exists: Iterable[str]) -> None:
        super().__init__(
            f"No fitted style network has a digest that starts with {digest!r}. There are: {listing(exists)}. "
            "Fit one with `repairops style fit`."
        )


class StyleWeightsDamaged(RepairError):
    message = (
        "The style weights at {} are not usable: {}. Fetch them again, or correct style.weights and "
        "style.weights_sha256."
    )


class PatternNotUsable(UsageError):
    message = (
        "The known pattern {!r} cannot be used: {}. Name a built-in one, or a function that takes images "
        "(float32, N x C x H x W, 0..1) and a torch.Generator and returns the like."
    )


class ValidationEngineFailed(RepairError):
    message = (
        "Great Expectations could not evaluate the rule {!r}: {}. This is a fault of the software, not of "
        "the data; check the installed versions with `repairops doctor` and report it."
    )


# Training, evaluation, export


class LossNotFinite(RepairError):
    message = (
        "The training loss became {1} at step {0}, at the learning rate {3:g} too. Training stopped; the last good "
        "checkpoint is {2}. Lower training.learning_rate (a tenth is a good start) and run again."
    )

    def __init__(self, step: int, loss: float, checkpoint: object, learning_rate: float) -> None:
        super().__init__(step, loss, checkpoint, learning_rate)
        self.fact = f"The training loss became {loss} at step {step}"

    def going_on(self, learning_rate: float) -> str:
        """What is said where it goes on from the weights before, at this rate."""
        return f"{self.fact}; it goes on from the last good weights at the learning rate {learning_rate:g}."


class DeviceNotAvailable(RepairError):
    message = "The device {!r} cannot be used: {}. Use training.device=auto or cpu."


class RanksNotStarted(RepairError):
    def __init__(self, address: str, why: str) -> None:
        super().__init__(
            f"The processes that torchrun started did not find each other at {address or 'this machine'}: {why}. Check "
            "that MASTER_ADDR and MASTER_PORT reach rank 0 from every node."
        )


class RankLost(RepairError):
    message = (
        "Another process of this training is not reached any more: {}. Its own messages say why, often too little "
        "memory. The same command goes on after the last finished epoch, on any number of processes."
    )


class ExportImpossible(RepairError):
    """The exporter's own reason; the gate's parity check fails with it."""


# Registry


class RegistryNotFound(RepairError):
    message = (
        "There is no registry at {}: {} does not exist. Name yours with --tracking-uri or MLFLOW_TRACKING_URI; "
        "`repairops log` makes a new one."
    )


class RegistryUnreachable(RepairError):
    message = (
        "MLflow at {} did not {}: {}. Nothing was half-registered; check the server and rights, "
        "then run the same command again: it goes on where it stopped."
    )


class RegistryNotOpened(RegistryUnreachable):
    message = (
        "The registry {} cannot be opened: {}. Give a server (http://HOST:PORT) or a database of MLflow's "
        "(sqlite:////PATH/mlflow.db), with --tracking-uri or MLFLOW_TRACKING_URI."
    )


class ArtifactsUnreachable(RegistryUnreachable):
    message = (
        "The artifact store of MLflow at {} did not {}: {}. Nothing was half-registered; this machine talks to it "
        "itself: check that it runs and its address (for S3 MLFLOW_S3_ENDPOINT_URL), then run the same command again."
    )


class RegistryRefused(RepairError):
    message = (
        "MLflow at {} refused to {}: {}. The job needs the right to edit the experiment and the "
        "registered model; ask for it, then run the same command again."
    )


class ArtifactsRefused(RegistryRefused):
    message = (
        "The artifact store of MLflow at {} refused to {}: {}. This machine talks to it itself: give it credentials "
        "(for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) that may read and write there, then run the same command "
        "again."
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
    message = "Version {1} of {0!r} is not promoted: {2}. {3}"


class NothingToRollBack(RepairError):
    message = (
        "No earlier version of {0!r} is recorded under the alias {1!r}, so there is nothing to roll "
        "back to. Move it yourself: `repairops promote {0} --version N`."
    )


class JobRunning(RepairError):
    message = "The same repair (job {:.12}) is running already; its lock is {}. Wait for it to end."


class NoReview(RepairError):
    message = "Version {1} of {0!r} cannot be reviewed: {2}. Name a version that a repair registered, with --version."


class OutcomeUnreadable(RepairError):
    message = (
        "{} is not an outcome of repairops: {}. Give the outcome.json of a repair run, runs:/ID of that run, or a "
        "version that it registered."
    )
