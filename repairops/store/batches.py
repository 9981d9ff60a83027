"""Failure batches in MLflow: one immutable finished run each, one parquet artifact, not one call an image."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repairops.errors import FailureBatchDamaged, FailureBatchNotFound, UnreadableDataset
from repairops.store.batch_pages import SHEET, contact_sheet, summary_tags
from repairops.store.connection import connect, talking
from repairops.store.datasets import DatasetRef, log_input
from repairops.store.failure_rows import FailureRows, make_rows, read_rows, write_rows
from repairops.store.models import registered, resolve_model
from repairops.store.runs import all_runs, file_sha256, kept_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KIND = "failures"
FINISHED = "attributes.status = 'FINISHED'"


@dataclass(frozen=True)
class LoggedBatch:
    """One failure batch as it is logged. `created` is False where the same batch was there already."""

    run_id: str
    digest: str
    model: str
    model_version: str
    rows: int
    logged_at: int  # milliseconds since 1970
    created: bool = True
    uri: str = ""  # of its files


def log_failures(
    model: str,
    images: Any,
    labels: Sequence[str | int],
    predictions: Sequence[str | int] | None = None,
    *,
    confidences: Sequence[float] | None = None,
    captured_at: Sequence[str] | None = None,
    sources: Sequence[str] | str | None = None,
    groups: Sequence[str] | None = None,
    field: Sequence[bool] | bool = False,
    tracking_uri: str | None = None,
) -> LoggedBatch:
    """Logs field images that the model got wrong, with their true labels, as one failure batch.

    With `field` also those that it got right, of a sample of the field's traffic: they judge, and are never trained on.

    model: 'prod/cls', 'cls@prod', 'models:/cls/3', or the registered model's bare name 'cls'.
    images: uint8 or float 0..1 arrays or tensors (N, H, W), (N, H, W, C), (N, C, H, W), a list of PIL images, of
        encoded files as bytes, or of paths. Encoded files are kept as they are; validation judges them.
    labels, predictions: class names or indices, (N,). What equals a class name, the number 3 and the class '3' too, is
        that class; anything else is an index.
    sources: where each image comes from, for example the camera (one string for all, or (N,)).
    groups: (N,) one value for images of one scene, which are never split between repair and judgement.
    field: True where the images are a labelled sample of the traffic, drawn whatever the model answered, right and
        wrong alike (one for all, or (N,)). Those that the champion of a repair has right become its field rows, the
        others are failures like all.

    The same rows again are the same batch: nothing is logged twice. Raises InvalidFailures, ModelNotFound,
    RegistryUnreachable.
    """
    rows = make_rows(
        images,
        labels,
        predictions,
        confidences=confidences,
        captured_at=captured_at,
        sources=sources,
        groups=groups,
        field=field,
    )
    return log_rows(model, rows, tracking_uri=tracking_uri)


def log_rows(model: str, rows: FailureRows, *, tracking_uri: str | None = None) -> LoggedBatch:
    """Logs rows that are at hand already; see `log_failures`."""
    client = connect(tracking_uri)
    name, version = _target(model, client)
    digest, marked = rows.digest(), sum(rows.field)
    earlier = _with_digest(client, name, digest)
    if earlier:
        return _describe(earlier, created=False)
    with tempfile.TemporaryDirectory() as folder, talking("store the failure batch"):
        parts = write_rows(rows, Path(folder))
        manifest = {"schema": 1, "batch_sha256": digest, "rows": len(rows), "parts": parts, "model": name}
        (Path(folder) / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        tags = {
            "repairops.kind": KIND,
            "repairops.model": name,
            "repairops.model_version": version,
            "repairops.batch_sha256": digest,
            "repairops.rows": str(len(rows)),
            **({"repairops.field_images": str(marked)} if marked else {}),
            **summary_tags(rows, name, version),
        }
        sheet = contact_sheet(rows.image)
        with kept_run(client, _experiment(name), f"failures-{digest[:8]}", tags) as run_id:
            client.log_artifacts(run_id, folder, "batch")
            client.log_metric(run_id, "failures", len(rows) - marked)
            if marked:
                client.log_metric(run_id, "field_images", marked)
            if sheet:
                (Path(folder) / SHEET).write_bytes(sheet)
                client.log_artifact(run_id, str(Path(folder) / SHEET))
            log_batch_inputs(client, run_id, [_describe(client.get_run(run_id))])
    return _keep_first(client, name, digest, run_id)


def list_failures(model: str, *, tracking_uri: str | None = None) -> list[LoggedBatch]:
    """The finished failure batches of a model, oldest first, one for each digest."""
    client = connect(tracking_uri)
    name, _ = _target(model, client)
    return logged_batches(client, name)


def logged_batches(client: MlflowClient, name: str) -> list[LoggedBatch]:
    """The finished batches of the registered model `name`, oldest first, one for each digest."""
    with talking("list the failure batches"):
        runs = all_runs(client, _experiment(name), f"tags.`repairops.kind` = '{KIND}' and {FINISHED}")
    batches: dict[str, LoggedBatch] = {}
    for batch in map(_describe, runs):
        batches.setdefault(batch.digest, batch)
    return list(batches.values())


def choose_batches(batches: Sequence[LoggedBatch], wanted: str, used: Collection[str] = ()) -> list[LoggedBatch]:
    """The batches that `wanted` names: run ids and digests (8 characters do), by comma.

    'auto' takes all but those whose digest's first 16 characters are in `used`.
    """
    if wanted in ("", "auto"):
        return [batch for batch in batches if batch.digest[:16] not in used]
    chosen = []
    for reference in [part.strip() for part in wanted.split(",") if part.strip()]:
        fits = [b for b in batches if b.run_id == reference or (len(reference) >= 8 and b.digest.startswith(reference))]
        if not fits:
            raise FailureBatchNotFound(reference, [f"{b.digest[:8]} ({b.rows} rows)" for b in batches])
        chosen += [b for b in fits if b not in chosen]
    return chosen


def fetch_rows(client: MlflowClient, batches: Sequence[LoggedBatch]) -> FailureRows:
    """The rows of batches, each checked against its manifest. Raises FailureBatchDamaged."""
    return FailureRows.concatenate([_fetch(client, batch) for batch in batches])


def log_batch_inputs(client: MlflowClient, run_id: str, batches: Sequence[LoggedBatch]) -> tuple[str, str]:
    """Names failure batches as inputs of a run; returns what all of them together are called there, see `log_input`."""
    refs = [(DatasetRef(batch.uri, batch.digest), batch.rows) for batch in batches]
    if len(batches) > 1:
        together = hashlib.sha256("\0".join(sorted(batch.digest for batch in batches)).encode()).hexdigest()
        refs.append((DatasetRef(" ".join(batch.uri for batch in batches), together), sum(rows for _, rows in refs)))
    return [log_input(client, run_id, KIND, KIND, ref, rows) for ref, rows in refs][-1]


def _fetch(client: MlflowClient, batch: LoggedBatch) -> FailureRows:
    import mlflow

    with tempfile.TemporaryDirectory() as folder, talking("hand over the failure batch"):
        path = Path(mlflow.artifacts.download_artifacts(run_id=batch.run_id, artifact_path="batch", dst_path=folder))
        try:
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
            parts = dict(manifest["parts"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FailureBatchDamaged(batch.run_id, f"its manifest cannot be read ({error})") from error
        for name, sha256 in parts.items():
            if not (path / name).is_file():
                raise FailureBatchDamaged(batch.run_id, f"{name} is missing")
            if file_sha256(path / name) != sha256:
                raise FailureBatchDamaged(batch.run_id, f"the sha256 of {name} is another one")
        try:
            rows = FailureRows.concatenate([read_rows(path / name) for name in parts])
        except UnreadableDataset as error:
            raise FailureBatchDamaged(batch.run_id, error.fact) from error
    if rows.digest() != batch.digest:
        raise FailureBatchDamaged(batch.run_id, "its rows are those of another batch")
    return replace(rows, batch=[batch.digest] * len(rows))


def _target(model: str, client: MlflowClient) -> tuple[str, str]:
    """(registered model, version or '') that a batch belongs to; a bare name needs no alias."""
    if "/" not in model and "@" not in model and registered(client, model):
        return model, ""
    ref = resolve_model(model, client)
    return ref.name, ref.version


def _experiment(name: str) -> str:
    return f"repairops/failures/{name}"


def _with_digest(client: MlflowClient, name: str, digest: str) -> Run | None:
    with talking("look for the batch"):
        runs = all_runs(client, _experiment(name), f"tags.`repairops.batch_sha256` = '{digest}' and {FINISHED}")
    return min(runs, key=lambda run: (run.info.end_time, run.info.run_id), default=None)


def _keep_first(client: MlflowClient, name: str, digest: str, run_id: str) -> LoggedBatch:
    """Where another process logged the same batch meanwhile, the run that ended first stays and ours goes."""
    first = _with_digest(client, name, digest)
    if first is None or first.info.run_id == run_id:
        return _describe(client.get_run(run_id))
    client.delete_run(run_id)
    return _describe(first, created=False)


def _describe(run: Run, created: bool = True) -> LoggedBatch:
    tags = run.data.tags
    return LoggedBatch(
        run.info.run_id,
        tags["repairops.batch_sha256"],
        tags["repairops.model"],
        tags.get("repairops.model_version", ""),
        int(tags.get("repairops.rows", 0)),
        run.info.start_time,
        created,
        f"{run.info.artifact_uri}/batch",
    )
