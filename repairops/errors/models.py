"""A registered model: what it is, and what can be done with it."""

from __future__ import annotations

from collections.abc import Iterable

from repairops.errors.base import RepairError, listing


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


class NetworkFails(NotAClassifier):
    message = (
        "The model raises {} {}: {}. A repair runs it in eval and in train mode, forward and backward, on batches of "
        "any size. If that is not the size it takes, correct model.image_size and model.channels; else correct the "
        "model and log it again. `repairops --traceback` before the command's name shows where in it."
    )


class NotCopyable(RepairError):
    message = (
        "The model cannot be copied, and a repair trains a copy beside the champion: copy.deepcopy raises {}: {}. "
        "Take out of its attributes what has no copy (an open file, a lock, a tensor of an earlier forward pass), and "
        "log it again."
    )


class NotFineTunable(RepairError):
    message = (
        "{} cannot be fine-tuned: {}. Log it with serialization_format='pickle', or name the "
        "class that rebuilds it: --set model.factory=package.module:function (-P set=model.factory=...)."
    )


class NoGradient(NotFineTunable):
    message = (
        "{} cannot be fine-tuned: {}. Let gradients reach the parameters that may change (requires_grad, and neither "
        "detach nor no_grad in its forward), and log it again."
    )


class NotGuarded(RepairError):
    message = (
        "{} has no guard: it is one network. Name a version whose tag repairops.form is hard or mixed, or repair this "
        "one with guard.mode=on."
    )


class NeedsTrainSet(RepairError):
    message = (
        "The score {} compares with images of the train set, and none was logged with {}. Give one with --train-set "
        "PATH (-P train_set=PATH), or take a score that needs none: {}."
    )


class RolesLost(RepairError):
    message = (
        "{} of run {}, which made version {}, is not there, so nothing says which failures it has learnt and which may "
        "judge. Restore that run; without it the version is repaired by new failures alone, and not consolidated."
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


class ChampionNotFinite(RepairError):
    message = (
        "The champion answers NaN or infinity on each of {} clean images, so there is nothing to repair or to compare "
        "with. Look at its weights, and at model.mean, model.std and model.value_range."
    )


class ChampionAtChance(RepairError):
    message = (
        "The champion gets {:.1%} of {} clean images right, which on so many images cannot be told from chance for {} "
        "classes. The class order of the clean set or the preprocessing (size, range, mean, std) is not what "
        "the model was trained with; check model.class_names and model.mean/std."
    )
