"""Adding a repaired version to the registry, and moving its aliases."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from repairops.errors import AliasMoved, NothingToRollBack, PromotionRefused
from repairops.store.champion import METADATA_KEY, Champion, code_paths
from repairops.store.connection import experiment_id, is_absent, talking
from repairops.store.flavors import ClassifierFlavors, inherited_requirements, quiet_mlflow
from repairops.store.models import ModelRef, version_at

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from torch import nn

VERDICT_TAG = "repairops.verdict"
PARENT_TAG = "repairops.parent_version"
JOB_TAG = "repairops.job_key"
BATCHES_TAG = "repairops.batches"
_BATCHES_IN_TAG = 250  # a tag of a model version holds 5,000 characters


@dataclass(frozen=True)
class Promotion:
    """One move of a production alias that repairops made. `version_from` is '' where the alias was new."""

    model: str
    alias: str
    version_from: str
    version_to: str
    by: str
    reason: str
    kind: str = "promotion"  # or 'rollback'
    forced: bool = False
    at: int = 0  # milliseconds since 1970


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
    onnx_file: Path,
    *,
    run_id: str,
    job_key: str,
    tags: Mapping[str, str],
    describe: Callable[[str], str],
    alias: str,
) -> ModelVersion:
    """Registers the champion's repaired `network` as one new version of the same registered model.

    describe: from the version's number to its description, Markdown.

    The upload comes first, the version with all its tags is then made in one request, the alias comes last. So a job
    that dies leaves either no version or a whole one, which the same job finds again by its key and completes.
    """
    version = version_of_job(client, champion.ref.name, job_key)
    if version is None:
        model_id = _upload(client, champion, network, onnx_file, run_id, job_key)
        with talking("register the version"):
            version = client.create_model_version(
                champion.ref.name,
                f"models:/{model_id}",
                run_id,
                tags={**tags, JOB_TAG: job_key},
                model_id=model_id,
            )
    with talking("describe the version"):
        client.update_model_version(champion.ref.name, version.version, describe(str(version.version)))
    with talking(f"set the alias {alias!r}"):
        client.set_registered_model_alias(champion.ref.name, alias, version.version)
    return version


def promote(
    client: MlflowClient,
    name: str,
    alias: str,
    version: str,
    *,
    expected: str | None,
    by: str = "",
    reason: str = "",
    force: bool = False,
    kind: str = "promotion",
) -> Promotion:
    """Moves `alias` from the version `expected` (None: where it is now) to `version`, and records the move.

    Without `force` the version must carry a passed verdict of a gate that judged it against the version under
    the alias. MLflow moves aliases without compare-and-swap, so the alias is read again just before.

    Raises PromotionRefused, AliasMoved.
    """
    from mlflow.exceptions import MlflowException

    with talking("read the version"):
        try:
            candidate = client.get_model_version(name, version)
        except MlflowException as error:
            if is_absent(error):
                raise PromotionRefused(name, version, "it does not exist", "Look at the registry.") from error
            raise
    current = version_at(client, name, alias) or ""
    if expected is not None and current != expected:
        raise AliasMoved(name, alias, expected or "(none)", current or "(none)")
    if current == str(version):
        raise PromotionRefused(name, version, f"the alias {alias!r} is there already", "There is nothing to do.")
    if not force:
        _refuse_unjudged(candidate, alias, current)
    with talking(f"move the alias {alias!r}"):
        again = version_at(client, name, alias) or ""
        if again != current:
            raise AliasMoved(name, alias, current or "(none)", again or "(none)")
        client.set_registered_model_alias(name, alias, version)
    return _record(client, Promotion(name, alias, current, str(version), by or _user(), reason, kind, force))


def rollback(client: MlflowClient, name: str, alias: str, *, by: str = "", reason: str = "") -> Promotion:
    """Undoes the last promotion of `alias` that is not undone yet. Raises NothingToRollBack, AliasMoved."""
    standing: list[Promotion] = []
    for move in promotions(client, name):
        if move.alias == alias and move.kind == "promotion":
            standing.append(move)
        elif move.alias == alias and standing:
            standing.pop()
    current = version_at(client, name, alias) or ""
    last = next((move for move in reversed(standing) if move.version_to == current), None)
    if last is None or not last.version_from:
        raise NothingToRollBack(name, alias)
    return promote(
        client,
        name,
        alias,
        last.version_from,
        expected=current,
        by=by,
        reason=reason or f"roll back from version {current}",
        force=True,
        kind="rollback",
    )


def promotions(client: MlflowClient, name: str) -> list[Promotion]:
    """The recorded moves of a model's aliases, oldest first."""
    with talking("list the promotions"):
        found = client.get_experiment_by_name(f"repairops/promotions/{name}")
        runs = (
            client.search_runs(
                [found.experiment_id],
                "tags.`repairops.kind` = 'promotion' and attributes.status = 'FINISHED'",
                order_by=["attributes.start_time ASC"],
                max_results=1000,
            )
            if found
            else []
        )
    return [_promotion(name, run) for run in runs]


def repaired_batches(client: MlflowClient, ref: ModelRef) -> set[str]:
    """Digests (16 characters) of the batches that went into a version or its parents: they are repaired already."""
    digests: set[str] = set()
    seen: set[str] = set()
    version = ref.version
    with talking("read the version's lineage"):
        while version and version not in seen:
            seen.add(version)
            try:
                tags = client.get_model_version(ref.name, version).tags
            except Exception as error:
                if is_absent(error):  # a parent that was deleted since
                    break
                raise
            for key, value in tags.items():
                if key.startswith(BATCHES_TAG):
                    digests.update(value.split(","))
            version = tags.get(PARENT_TAG, "")
    return digests


def _upload(
    client: MlflowClient, champion: Champion, network: nn.Module, onnx_file: Path, run_id: str, job_key: str
) -> str:
    """Uploads both flavors as one logged model of the run; leftovers of an interrupted upload are removed."""
    from mlflow.models import Model

    flavors = ClassifierFlavors(
        network,
        champion.spec,
        champion.serialization_format,
        inherited_requirements(champion.folder),
        code_paths(champion.folder),
        onnx_file,
    )
    with talking("store the repaired model"), quiet_mlflow():
        experiment = client.get_run(run_id).info.experiment_id
        for leftover in client.search_logged_models([experiment], f"tags.`{JOB_TAG}` = '{job_key}'"):
            client.delete_logged_model(leftover.model_id)
        logged = Model.log(
            None,  # the artifact path of MLflow 2
            name="model",
            flavor=flavors,
            run_id=run_id,
            metadata={METADATA_KEY: {**champion.metadata, "input": champion.spec.to_dict()}},
            tags={JOB_TAG: job_key},
            flavor_name="pytorch",
        )
    return str(logged.model_id)


def _refuse_unjudged(candidate: ModelVersion, alias: str, current: str) -> None:
    verdict = candidate.tags.get(VERDICT_TAG)
    if verdict != "PASS":
        raise PromotionRefused(
            candidate.name,
            candidate.version,
            f"its gate says {verdict}" if verdict else "no gate of repairops judged it",
            "Promote a version with the tag repairops.verdict=PASS, or give --force with a reason.",
        )
    parent = candidate.tags.get(PARENT_TAG, "")
    if parent != current:
        raise AliasMoved(candidate.name, alias, parent or "(none)", current or "(none)")


def _record(client: MlflowClient, move: Promotion) -> Promotion:
    tags = {
        "repairops.kind": "promotion",
        "repairops.model": move.model,
        "repairops.alias": move.alias,
        "repairops.from": move.version_from,
        "repairops.to": move.version_to,
        "repairops.by": move.by,
        "repairops.reason": move.reason,
        "repairops.move": move.kind,
        "repairops.forced": str(move.forced).lower(),
    }
    with talking("record the promotion"):
        experiment = experiment_id(client, f"repairops/promotions/{move.model}")
        run = client.create_run(experiment, tags=tags, run_name=f"{move.alias} to {move.version_to}")
        client.set_terminated(run.info.run_id, "FINISHED")
    return replace(move, at=run.info.start_time)


def _promotion(name: str, run: Run) -> Promotion:
    tags = run.data.tags
    return Promotion(
        name,
        tags["repairops.alias"],
        tags["repairops.from"],
        tags["repairops.to"],
        tags["repairops.by"],
        tags["repairops.reason"],
        tags["repairops.move"],
        tags["repairops.forced"] == "true",
        run.info.start_time,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user entry
        return "unknown"
