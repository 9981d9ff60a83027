"""Styles, training, evaluation and export."""

from __future__ import annotations

from collections.abc import Iterable

from repairops.errors.base import RepairError, listing
from repairops.errors.usage import UsageError


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


class NoServingForm(RepairError):
    message = "{} has no form that takes image files: {}. Serve the version itself, which takes normalised tensors."
