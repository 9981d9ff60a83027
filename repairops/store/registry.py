"""Adding a repaired version to the registry, and what its tags say of where it comes from."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from repairops.errors import NotGuarded, RegistryRefused, RegistryUnreachable, RolesLost
from repairops.store.champion import Champion, code_paths, guard_metadata
from repairops.store.connection import is_absent, talking
from repairops.store.descriptions import describe_model
from repairops.store.flavors import (
    ClassifierFlavors,
    guard_code,
    inherited_requirements,
    input_example,
    model_digests,
    quiet_mlflow,
)
from repairops.store.jobs import JOB_TAG
from repairops.store.models import ModelRef, find_version, version_at
from repairops.store.runs import fetch_artifact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from torch import nn

log = logging.getLogger("repairops")
VERDICT_TAG = "repairops.verdict"
PARENT_TAG = "repairops.parent_version"
RUN_TAG = "repairops.run_id"
POLICY_TAG = "repairops.policy_sha256"
FORM_TAG = "repairops.form"
FIELD_TAG = "repairops.field_accuracy"
ALIAS_TAG = "repairops.alias"  # that the repair has set
BATCHES_TAG = "repairops.batches"
DIGEST_TAGS = {"weights": "repairops.weights_sha256", "onnx": "repairops.onnx_sha256"}  # what the gate has judged
_BATCHES_IN_TAG = 250  # a tag of a model version holds 5,000 characters


def batch_tags(digests: Sequence[str]) -> dict[str, str]:
    """Version tags that name the repaired batches by the first 16 characters of their digests."""
    chunks = [digests[i : i + _BATCHES_IN_TAG] for i in range(0, len(digests), _BATCHES_IN_TAG)]
    return {
        BATCHES_TAG + (f".{number}" if number else ""): ",".join(digest[:16] for digest in chunk)
        for number, chunk in enumerate(chunks)
    }


def version_of_job(client: MlflowClient, name: str, job_key: str) -> ModelVersion | None:
    """The version that this job registered already, if it did."""
    with talking("look for the job's version"):
        found = client.search_model_versions(f"name = '{name}' and tags.`{JOB_TAG}` = '{job_key}'")
    return min(found, key=lambda v: int(v.version), default=None)


def register_repair(
    client: MlflowClient,
    champion: Champion,
    network: nn.Module,
    onnx_file: Path | None,
    *,
    run_id: str,
    job_key: str,
    tags: Mapping[str, str],
    describe: Callable[[str], str],
    alias: str,
    step: int,
) -> ModelVersion:
    """Registers the champion's repaired `network` as one new version of the same registered model.

    describe: from the version's number to its description, Markdown. step: of the run, at which it has no metrics:
    MLflow copies those of the step to the logged model, whatever network they are about.

    The upload comes first, the version with all its tags is then made in one request, the alias comes last. So a job
    that dies leaves either no version or a whole one, which the same job finds again by its key and completes. Another
    machine that does the same job at the same time finds it too.
    """
    version = version_of_job(client, champion.ref.name, job_key)
    if version is None:
        _remove_leftovers(client, champion.ref.name, run_id, job_key)
        model_id, digests = _upload(client, champion, network, onnx_file, run_id, job_key, step)
        version = _register_once(client, champion.ref.name, run_id, model_id, {**tags, **digests, JOB_TAG: job_key})
    description = describe(str(version.version))
    link_model(client, version, description)
    describe_model(client, champion.ref.name, champion.spec)
    with talking("describe the version"):
        client.update_model_version(champion.ref.name, version.version, description)
    name, number = champion.ref.name, str(version.version)
    with talking(f"set the alias {alias!r}"):
        try:
            client.set_registered_model_alias(name, alias, number)
        except Exception:  # MLflow adds a new alias: where another machine did so at the same moment, it fails
            if str(version_at(client, name, alias)) != number:
                raise
    return version


def logged_model_id(version: ModelVersion) -> str:
    """The logged model that a version was made from; '' where it was made from something else."""
    found = re.search(r"\bm-[0-9a-f]{32}\b", f"{version.model_id} {version.source}")
    return found[0] if found else ""


def link_model(client: MlflowClient, version: ModelVersion, description: str) -> None:
    """Says on the logged model's page what it is, and that it is registered, as MLflow's own `log_model` does."""
    if model_id := logged_model_id(version):
        registered = json.dumps([{"name": version.name, "version": version.version}])
        with talking("link the logged model"):
            tags = {"mlflow.modelVersions": registered, "mlflow.note.content": description[:5000]}
            client.set_logged_model_tags(model_id, tags)


def lineage(client: MlflowClient, ref: ModelRef) -> list[ModelVersion]:
    """A version and its parents, itself first, up to one that has none or was deleted since."""
    versions: dict[str, ModelVersion] = {}
    number = ref.version
    while number and number not in versions and (found := find_version(client, ref.name, number)):
        versions[number] = found
        number = found.tags.get(PARENT_TAG, "")
    return list(versions.values())


def check_right_to_register(client: MlflowClient, name: str) -> None:
    """Raises RegistryRefused where this user may not edit the registered model.

    Asks to remove a tag that no model has: that changes nothing, and a server with users wants the same right for it as
    for a new version. A server that answers something else does not tell.
    """
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(MlflowException, RegistryUnreachable), talking(f"let you edit the model {name!r}"):
        client.delete_registered_model_tag(name, "repairops.right")


def repaired_batches(client: MlflowClient, ref: ModelRef) -> set[str]:
    """Digests (16 characters) of the batches that went into a version or its parents: they are repaired already."""
    tags = [tag for version in lineage(client, ref) for tag in version.tags.items()]
    return {digest for key, value in tags if key.startswith(BATCHES_TAG) for digest in value.split(",")}


def check_guarded(client: MlflowClient, ref: ModelRef) -> None:
    """Raises NotGuarded."""
    found = find_version(client, ref.name, ref.version)
    if found is None or found.tags.get(FORM_TAG, "one") == "one":
        raise NotGuarded(ref)


def failure_roles(client: MlflowClient, ref: ModelRef) -> dict[str, str]:
    """What each failure was in the repairs of a version and its parents, by sample id.

    'repair', 'validation' or 'heldout', in this order where one has had several: what has trained never judges.
    Raises RolesLost.
    """
    versions = lineage(client, ref)
    roles: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for role in ("heldout", "validation", "repair"):
            for version in versions:
                if BATCHES_TAG not in version.tags:  # it was registered, not repaired
                    continue
                run, name = version.tags.get(RUN_TAG, ""), f"roles/{role}_failures.txt"
                file = fetch_artifact(client, run, name, Path(folder)) if run else None
                if file is None:
                    raise RolesLost(name, run, version.version)
                roles |= dict.fromkeys(file.read_text(encoding="utf-8").split(), role)
    return roles


def stored_digests(version: ModelVersion) -> dict[str, str]:
    """`model_digests` of a version's files, which are downloaded for it; all '' where there are none."""
    import mlflow
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as folder, talking("hand over the version's files"):
        uri = f"models:/{version.name}/{version.version}"
        try:
            return model_digests(Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)))
        except (MlflowException, OSError) as error:
            if isinstance(error, MlflowException) and error.get_http_status_code() not in (404, 500):
                raise
            return dict.fromkeys(DIGEST_TAGS, "")


def _register_once(
    client: MlflowClient, name: str, run_id: str, model_id: str, tags: Mapping[str, str]
) -> ModelVersion:
    """The job's one version, made from the run's uploaded model unless another machine was first.

    Each makes its own and looks again; the lowest number stays, since numbers are given in the order in which versions
    are seen.
    """
    first = version_of_job(client, name, tags[JOB_TAG])
    if first is None:
        with talking("register the version"):
            own = client.create_model_version(name, f"models:/{model_id}", run_id, tags=dict(tags), model_id=model_id)
        first = version_of_job(client, name, tags[JOB_TAG]) or own
        if str(first.version) == str(own.version):
            return own
        _delete(lambda: client.delete_model_version(name, own.version))
    _delete(lambda: client.delete_logged_model(model_id))
    log.info("           another machine has registered this very job as version %s", first.version)
    return first


def _remove_leftovers(client: MlflowClient, name: str, run_id: str, job_key: str) -> None:
    """Deletes the models that interrupted uploads of the job left: those of runs that have ended, without a version.

    A run that is open may be another machine's, which is uploading. One that has ended registers nothing any more, so
    the version is looked for after that was seen.
    """
    with talking("look for leftovers of the job"):
        experiment = client.get_run(run_id).info.experiment_id
        found = client.search_logged_models([experiment], f"tags.`{JOB_TAG}` = '{job_key}'")
        open_runs = {
            run.info.run_id
            for run in client.search_runs(
                [experiment], f"tags.`{JOB_TAG}` = '{job_key}' and attributes.status = 'RUNNING'"
            )
        }
    left = [model for model in found if model.source_run_id not in open_runs - {run_id}]
    if version_of_job(client, name, job_key) is None:
        for model in left:
            _delete(partial(client.delete_logged_model, model.model_id))


def _delete(request: Callable[[], object]) -> None:
    """Deletes what may be gone already; what this user may not delete stays, with a warning."""
    from mlflow.exceptions import MlflowException

    try:
        with talking("delete what is left over"):
            request()
    except RegistryRefused as error:
        log.warning("Warning: %s", error)
    except MlflowException as error:
        if not is_absent(error):
            raise


def _upload(
    client: MlflowClient,
    champion: Champion,
    network: nn.Module,
    onnx_file: Path | None,
    run_id: str,
    job_key: str,
    step: int,
) -> tuple[str, dict[str, str]]:
    """Uploads both flavors as one logged model of the run.

    Returns the logged model's id and the digests of its weights and ONNX file as tags.
    """
    with tempfile.TemporaryDirectory() as shipped, talking("store the repaired model"), quiet_mlflow():
        flavors = ClassifierFlavors(
            network,
            champion.spec,
            champion.serialization_format,
            inherited_requirements(champion.folder),
            [*code_paths(champion.folder), *guard_code(network, champion.serialization_format, Path(shipped))],
            onnx_file,
            input_example(champion.folder),
        )
        model_id = flavors.log(run_id, guard_metadata(champion, network), tags={JOB_TAG: job_key}, step=step)
    return model_id, {tag: flavors.digests[part] for part, tag in DIGEST_TAGS.items()}
