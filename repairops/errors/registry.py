"""The registry: reached or not, moved or refused."""

from __future__ import annotations

from repairops.errors.base import RepairError


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
