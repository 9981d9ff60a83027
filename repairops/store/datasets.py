"""Train, clean and validation sets as MLflow dataset inputs: logged with a model, found again for its repair."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from repairops.data.records import ImageSet
from repairops.errors import DatasetNotFound
from repairops.store.connection import talking
from repairops.store.digests import digests_of, path_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient

Context = Literal["training", "evaluation", "validation"]
ROLE: dict[Context, str] = {"training": "train set", "evaluation": "clean set", "validation": "validation set"}
OPTION: dict[Context, str] = {context: role.replace(" ", "_") for context, role in ROLE.items()}
_CONTEXT_TAG = "mlflow.data.context"


@dataclass(frozen=True)
class DatasetRef:
    """Where an image set lies: a local path, or the URI of an artifact. given: by the caller of a repair, as a path."""

    uri: str
    digest: str = ""
    given: bool = False


def log_dataset(client: MlflowClient, run_id: str, context: Context, data: ImageSet | str | Path) -> DatasetRef:
    """Logs a run's train, clean or validation set: a path by reference, an image set as a parquet artifact of the run.

    Raises DatasetNotFound, RegistryUnreachable.
    """
    ref = _upload(client, run_id, context, data) if isinstance(data, ImageSet) else _local(context, data, given=False)
    log_reference(client, run_id, context, ref, len(data) if isinstance(data, ImageSet) else None)
    return ref


def log_reference(
    client: MlflowClient, run_id: str, context: Context, ref: DatasetRef, images: int | None = None
) -> tuple[str, str]:
    """Names a data set that lies somewhere already as a run's input; a repaired version's own repair finds it there.

    images: how many it has. Returns its name and digest in MLflow, see `log_input`.
    """
    return log_input(client, run_id, context, ROLE[context].replace(" ", "-"), ref, images)


def log_input(
    client: MlflowClient, run_id: str, context: str, kind: str, ref: DatasetRef, rows: int | None = None
) -> tuple[str, str]:
    """Names data that lie somewhere already as a run's input; returns their name and digest there.

    The digest is ours (MLflow's misses changed pixels) and part of the name, since MLflow keeps the first
    source of a name and digest. Another machine may name the same data at the same moment.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    name, digest = f"{kind}-{ref.digest[:8]}", ref.digest[:36]
    entity = Dataset(
        name=name,
        digest=digest,
        source_type="local" if "://" not in ref.uri and ":/" not in ref.uri else "artifact",
        source=json.dumps({"uri": ref.uri}),
        profile=None if rows is None else json.dumps({"num_rows": rows}),
    )
    inputs = [DatasetInput(entity, [InputTag(_CONTEXT_TAG, context)])]
    with talking("store the dataset"):
        try:
            client.log_inputs(run_id, inputs)
        except MlflowException as error:
            if error.error_code != "BAD_REQUEST":  # the database's word where another machine was first
                raise
            client.log_inputs(run_id, inputs)
    return name, digest


def find_dataset(client: MlflowClient, run_id: str, context: Context) -> DatasetRef | None:
    """The dataset that a run logged in a context; None where it logged none."""
    from mlflow.exceptions import MlflowException

    if not run_id:
        return None
    try:
        with talking("list the run's datasets"):
            inputs = client.get_run(run_id).inputs
    except MlflowException:  # the source run was deleted
        return None
    for entry in inputs.dataset_inputs if inputs else []:
        if any(tag.key == _CONTEXT_TAG and tag.value == context for tag in entry.tags):
            return DatasetRef(_source_uri(entry.dataset), entry.dataset.digest)
    return None


def find_sets(
    client: MlflowClient,
    run_id: str,
    train_set: str | Path | None,
    clean_set: str | Path | None,
    validation_set: str | Path | None = None,
) -> dict[Context, DatasetRef]:
    """The given paths, else what the source run logged; a validation set need not exist. Raises DatasetNotFound."""
    found: dict[Context, DatasetRef] = {
        "training": find_set(client, run_id, "training", train_set),
        "evaluation": find_set(client, run_id, "evaluation", clean_set),
    }
    if validation_set or find_dataset(client, run_id, "validation"):
        found["validation"] = find_set(client, run_id, "validation", validation_set)
    return found


def find_set(client: MlflowClient, run_id: str, context: Context, path: str | Path | None) -> DatasetRef:
    """The given path, else what the source run logged in the context; a path on this machine is digested as it is now.

    Raises DatasetNotFound.
    """
    found = _local(context, path, given=True) if path else find_dataset(client, run_id, context)
    if found and not path and ":/" not in found.uri and os.path.exists(found.uri):
        found = replace(found, digest=path_digest(Path(found.uri)))
    if found is None:
        raise DatasetNotFound(
            ROLE[context],
            f"none was given, and the model's source run {run_id or '(none)'} logged none",
            f"Give one with {_how(context)}, or log the model with repairops.log_model.",
        )
    return found


def _how(context: Context) -> str:
    """The option of a command, and the parameter of `mlflow run`."""
    return f"--{ROLE[context].replace(' ', '-')} PATH (-P {OPTION[context]}=PATH)"


def fetch_dataset(ref: DatasetRef, context: Context, folder: Path) -> Path:
    """A local path of the dataset, downloaded into `folder` where it is not local already."""
    import mlflow
    from mlflow.exceptions import MlflowException

    missing = DatasetNotFound(ROLE[context], ref.uri, f"Give another with {_how(context)}.")
    local = ref.uri.removeprefix("file://")
    if ":/" not in local:
        if not Path(local).exists():
            raise missing
        return Path(local)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with talking(f"hand over the {ROLE[context]}"):
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=ref.uri, dst_path=str(folder)))
    except MlflowException as error:
        raise missing from error


def content_digest(path: Path, *, keep: bool = True) -> str:
    """What the files of a data set hold, wherever they lie; keep: see `digests_of`."""
    return digests_of(path, keep=keep).content


def _upload(client: MlflowClient, run_id: str, context: Context, images: ImageSet) -> DatasetRef:
    import tempfile

    from repairops.data.sets import write_parquet

    name = f"{OPTION[context]}.parquet"
    with tempfile.TemporaryDirectory() as folder, talking("store the dataset"):
        write_parquet(images, Path(folder) / name)
        client.log_artifact(run_id, str(Path(folder) / name), "datasets")
        root = client.get_run(run_id).info.artifact_uri
    return DatasetRef(f"{root}/datasets/{name}", images.digest)


def _local(context: Context, path: str | Path, *, given: bool) -> DatasetRef:
    """A path on this machine. Raises DatasetNotFound."""
    path = os.path.expanduser(path)
    if not os.path.exists(path):  # Path.exists raises for a name that is too long or holds a NUL
        raise DatasetNotFound(ROLE[context], os.path.abspath(path), "Check the path.")
    local = Path(path).resolve()
    return DatasetRef(str(local), path_digest(local), given)


def _source_uri(dataset: Any) -> str:
    """The URI of any dataset source that has one; others are asked through MLflow."""
    import mlflow.data

    source = json.loads(dataset.source)
    for key in ("uri", "path", "url"):
        if isinstance(source.get(key), str):
            return str(source[key])
    return str(mlflow.data.get_source(dataset).load())
