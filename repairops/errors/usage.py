"""Options, configuration and the benchmark's arguments."""

from __future__ import annotations

from collections.abc import Iterable

from repairops.errors.base import RepairError, did_you_mean, listing, shown


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
