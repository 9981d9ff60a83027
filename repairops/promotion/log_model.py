"""`repairops.log_model`: a classifier into the registry with all that a later repair needs to know of it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repairops.data.records import ImageSet, InputSpec
from repairops.errors import InvalidOption, RepairError
from repairops.model.network import Classifier, to_input, to_unit
from repairops.promotion.history import Promotion, close_move, open_move, user
from repairops.store.connection import connect, talking
from repairops.store.datasets import OPTION, ROLE, log_dataset
from repairops.store.descriptions import describe_model, version_description
from repairops.store.flavors import ClassifierFlavors
from repairops.store.models import ModelRef, check_alias_name, version_at
from repairops.store.registry import link_model

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient
    from torch import nn

log = logging.getLogger("repairops")


def log_model(
    model: nn.Module,
    name: str,
    spec: InputSpec,
    *,
    train_set: ImageSet | str | Path | None = None,
    clean_set: ImageSet | str | Path | None = None,
    validation_set: ImageSet | str | Path | None = None,
    alias: str = "prod",
    serialization_format: str = "pickle",
    model_factory: str = "",
    code_paths: Sequence[str] = (),
    pip_requirements: Sequence[str] = (),
    tracking_uri: str | None = None,
) -> ModelRef:
    """Registers a classifier so that `mlflow run . -P model=<alias>/<name>` can repair it.

    model: float32 (N, C, H, W), normalised as `spec` says, to logits (N, classes); a dict or tuple with one such
        tensor too. Logged in eval mode, on the CPU.
    train_set, clean_set: image sets (stored as parquet artifacts) or paths (stored by reference) of an ImageFolder
        or parquet; the clean set must hold no image of the train set.
    validation_set: more images that the model was not trained on, in neither of the two; a repair chooses by them.
        Without one, a large clean set gives some of its images for that (`split.clean_validation_fraction`).
    alias: moved to the new version; '' moves none.
    serialization_format: 'pickle' (fine-tunes as the original class; `code_paths` for a class from a package of
        yours) or 'pt2' (traced, no pickle, of fixed height and width; fine-tunes as the class does, and as the class
        itself with `model_factory`, 'package.module:function').

    Uses the active MLflow run, else starts one. Raises NotAClassifier, NotTraceable, InvalidOption,
    DatasetNotFound, RegistryUnreachable.
    """
    if serialization_format not in ("pickle", "pt2"):
        raise InvalidOption("serialization_format", serialization_format, "pickle or pt2")
    if not name or set(name) & set("/:"):
        raise InvalidOption("name", name, "a registered model's name, without '/' and ':'")
    if alias:
        check_alias_name("alias", alias)
    for path in code_paths:
        if not Path(path).exists():
            raise InvalidOption("code_paths", path, "files or folders that exist")
    client = connect(tracking_uri, create=True)
    import mlflow

    model = model.eval().cpu()
    _check(model, spec)
    sets = dict(zip(OPTION, (train_set, clean_set, validation_set), strict=True))
    example = next((data for data in sets.values() if isinstance(data, ImageSet)), None)
    flavors = ClassifierFlavors(
        model, spec, serialization_format, pip_requirements, code_paths, example=_as_input(example, spec)
    )
    started = mlflow.active_run() is None
    with talking("open the run"):
        run = mlflow.start_run(run_name=f"log {name}") if started else mlflow.active_run()
    status = "FAILED"
    try:
        run_id = run.info.run_id
        for context, data in sets.items():
            if data is not None:
                log_dataset(client, run_id, context, data)
        with talking("store the model"):
            model_id = flavors.log(run_id, {"model_factory": model_factory})
            _ensure_registered_model(client, name)
            describe_model(client, name, spec)
            roles = [ROLE[context] for context, data in sets.items() if data is not None]
            description = version_description(name, alias, spec, roles)
            made = client.create_model_version(
                name, f"models:/{model_id}", run_id, model_id=model_id, description=description
            )
            link_model(client, made, description)
            version = made.version
            if alias:
                _move_alias(client, name, alias, str(version))
        status = "FINISHED"
    finally:
        if started:
            with contextlib.suppress(Exception):  # a lost server must not hide the first error
                mlflow.end_run(status)
    return ModelRef(name, str(version), alias, run_id)


def _move_alias(client: MlflowClient, name: str, alias: str, version: str) -> None:
    """Moves the alias to the new version, and records it for `history` where the user may."""
    previous = version_at(client, name, alias) or ""
    client.set_registered_model_alias(name, alias, version)
    try:
        made = open_move(client, Promotion(name, alias, previous, version, user(), "", "logged"))
        close_move(client, made.info.run_id, made=True)
    except RepairError as error:
        log.warning("Warning: that the alias %r moved is not recorded: %s", alias, error)


def _ensure_registered_model(client: MlflowClient, name: str) -> None:
    """Makes the registered model where it does not exist; another process may be faster."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"):
            raise


def _as_input(images: ImageSet | None, spec: InputSpec) -> np.ndarray | None:
    """Two images of the set as the network takes them, float32 (2, C, H, W): a right input example."""
    if images is None or not len(images):
        return None
    pixels = images.pixels[[0, min(1, len(images) - 1)]]
    found: np.ndarray = to_input(to_unit(pixels), spec).numpy()
    return found


def _check(model: nn.Module, spec: InputSpec) -> None:
    import torch

    from repairops.model.evaluation import logits

    logits(Classifier(model, spec), torch.zeros(2, spec.channels, spec.height, spec.width, dtype=torch.uint8))
