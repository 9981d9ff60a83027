"""A repair job in MLflow: its key, its run, its lock, and what an earlier run of the same job left."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repairops.config import Config
from repairops.errors import JobRunning, RegistryUnreachable
from repairops.outcome import Outcome, read_outcome
from repairops.outcome.logged import Measured
from repairops.store.connection import experiment_id, home_folder, talking, tried_once
from repairops.store.models import ModelRef

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

OUTCOME_TAG = "repairops.outcome"
JOB_TAG = "repairops.job_key"
PLACE_TAG = "repairops.place"
LOCK, PLACE = "lock", "place"  # files in a job's folder
LONGEST_JOB = 7 * 86400  # seconds; a run of another place that began before is taken for dead
MOST_RUNS = 1000  # that are looked through for earlier gates
METRICS_A_REQUEST = 500  # MLflow takes at most 1,000
_BY_CHANCE = re.compile(r"[a-z]+-[a-z]+-\d+")  # the names that MLflow makes up
FINAL = ("passed", "failed", "inconclusive", "alias_moved", "not_promoted")


def job_key(
    ref: ModelRef, digests: Sequence[str], datasets: Sequence[str], config: Config, earlier: Sequence[str] = ()
) -> str:
    """sha256 that names a job: model version, batch digests, train, clean and validation set, configuration.

    earlier: digests of the batches whose failures are replayed.
    """
    parts = [ref.name, ref.version, *sorted(digests), *datasets, config.digest(), *sorted(earlier)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def work_folder(key: str) -> Path:
    """Where a job keeps its checkpoints."""
    return home_folder("jobs", key[:16])


def place_of(folder: Path) -> str:
    """A random name of the folder, kept in it: runs with the same one have held the same lock, so one at a time."""
    import uuid

    file = folder / PLACE
    name = file.read_text(encoding="utf-8") if file.exists() else ""
    if not name:  # nor did a full disk take it
        name = uuid.uuid4().hex
        file.write_text(name, encoding="utf-8")
    return name


@contextlib.contextmanager
def job_lock(key: str, folder: Path) -> Iterator[None]:
    """Holds the job's lock on this machine; the system lets go of it when the process dies. Raises JobRunning."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise JobRunning(key, lock.lock_file) from error
    try:
        place_of(folder)  # what a full disk forbids is known before a run is opened
        yield
    finally:
        lock.release()


@dataclass(frozen=True, eq=False)
class JobRun:
    """The MLflow run of a job; everything that the pipeline logs goes through here."""

    client: MlflowClient
    run_id: str

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = _now()
        entries = [Metric(name, float(value), now, step) for name, value in metrics.items()]
        with talking("log the metrics"):
            self.client.log_batch(self.run_id, metrics=entries)

    def log_figures(
        self, figures: Sequence[Measured], sets: Mapping[str, tuple[str, str]], model_id: str | None = None
    ) -> None:
        """What the job came to, as metrics of the run, and of the logged model that it is about where there is one.

        sets: name and digest of the data sets, by what a figure was measured on.
        """
        from mlflow.entities import Metric

        now = _now()
        with talking("log the metrics"):
            for start in range(0, len(figures), METRICS_A_REQUEST):
                entries = [
                    Metric(each.name, each.value, now, 0, model_id, *sets.get(each.on, (None, None)))
                    for each in figures[start : start + METRICS_A_REQUEST]
                ]
                self.client.log_batch(self.run_id, metrics=entries)

    def log_parameters(self, parameters: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        with talking("log the parameters"):
            self.client.log_batch(self.run_id, params=[Param(name, value) for name, value in parameters.items()])

    def rename(self, name: str) -> None:
        """Names the run by MLFLOW_RUN_NAME, else so, unless the user has named it: a name of `run_name`'s or one that
        MLflow made up is replaced.
        """
        with talking("name the run"):
            found = self.client.get_run(self.run_id).info.run_name or ""
            if found == name.partition(" -> ")[0] or _BY_CHANCE.fullmatch(found):
                self.client.update_run(self.run_id, name=os.environ.get("MLFLOW_RUN_NAME") or name)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        with talking("tag the run"):
            self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def tag(self, name: str) -> str:
        """A tag of the run, '' where it has none."""
        with talking("read the run"):
            return str(self.client.get_run(self.run_id).data.tags.get(name, ""))

    def log_folder(self, folder: Path, name: str | None = None) -> None:
        with talking("store the artifacts"):
            self.client.log_artifacts(self.run_id, str(folder), name)

    def log_file(self, file: Path, name: str | None = None) -> None:
        with talking("store the artifacts"):
            self.client.log_artifact(self.run_id, str(file), name)


def run_name(ref: ModelRef, version: str = "") -> str:
    """'repair cls 1', and 'repair cls 1 -> 2' when version 2 is registered."""
    return f"repair {ref.name} {ref.version}" + (f" -> {version}" if version else "")


def _now() -> int:
    return int(time.time() * 1000)


def job_tags(key: str, folder: Path, config: Config) -> dict[str, str]:
    """What a job's run has from its start, so that one which dies at once is found by the next run of the job."""
    return {JOB_TAG: key, PLACE_TAG: place_of(folder), "repairops.config_digest": config.digest()}


@contextlib.contextmanager
def job_run(client: MlflowClient, ref: ModelRef, tags: Mapping[str, str] | None = None) -> Iterator[JobRun]:
    """The run that `mlflow run` opened, or a new one in the experiment repairops/repairs/<model>, with `tags`.

    MLFLOW_EXPERIMENT_NAME and MLFLOW_RUN_NAME name another experiment and the run, as for all of MLflow's runs.
    Ends as FINISHED, as KILLED where it is stopped, or FAILED where another exception passes.
    """
    import mlflow

    what = {"repairops.kind": "repair", "repairops.model": ref.name, "repairops.model_version": ref.version}
    start: dict[str, Any] = {"log_system_metrics": False}
    if mlflow.active_run() is not None or not os.environ.get("MLFLOW_RUN_ID"):
        with talking("open the repairs' experiment"):
            given = os.environ.get("MLFLOW_EXPERIMENT_NAME")
            experiment = experiment_id(client, given or f"repairops/repairs/{ref.name}")
        name = os.environ.get("MLFLOW_RUN_NAME") or run_name(ref)
        start = {"experiment_id": experiment, "run_name": name, "nested": True}
    with talking("open the run"):
        run = mlflow.start_run(**start, tags={**what, **(tags or {})})
    status, lost = "FAILED", False
    try:
        yield JobRun(client, run.info.run_id)
        status = "FINISHED"
    except RegistryUnreachable:
        lost = True
        raise
    except KeyboardInterrupt:  # also what SIGTERM is inside a job
        status = "KILLED"
        raise
    finally:
        with contextlib.suppress(Exception), tried_once(lost):  # a lost server must not hide or delay the first error
            mlflow.end_run(status)


def runs_of_job(client: MlflowClient, key: str) -> list[Run]:
    """The runs of a job, newest first, in every experiment."""
    with talking("look for earlier runs of the job"):
        experiments = [e.experiment_id for e in client.search_experiments(max_results=1000)]
        return list(
            client.search_runs(experiments, f"tags.`{JOB_TAG}` = '{key}'", order_by=["attributes.start_time DESC"])
        )


def gates_decided_by(client: MlflowClient, model: str, clean_set: str, key: str) -> list[str]:
    """Runs of other jobs of a model whose gate came to a verdict on the clean set of this digest, oldest first."""
    with talking("look for earlier gates"):
        experiments = [e.experiment_id for e in client.search_experiments(max_results=1000)]
        runs = client.search_runs(
            experiments,
            f"tags.`repairops.kind` = 'repair' and tags.`repairops.model` = '{model}'",
            order_by=["attributes.start_time ASC"],
            max_results=MOST_RUNS,
        )
    jobs: dict[str, str] = {}
    for run in runs:
        tags, inputs = run.data.tags, run.inputs.dataset_inputs if run.inputs else []
        judged = any(entry.dataset.digest == clean_set[:36] for entry in inputs)
        if judged and tags.get(OUTCOME_TAG) in FINAL and tags.get(JOB_TAG) != key:
            jobs.setdefault(tags.get(JOB_TAG, run.info.run_id), run.info.run_id)
    return list(jobs.values())


def earlier_outcome(client: MlflowClient, runs: Sequence[Run]) -> Outcome | None:
    """The outcome of the newest run of the job that came to a verdict, with its run's id; else None.

    The outcome's tag is set last, so it alone says that a run is whole: `mlflow run` marks a run FAILED for every
    exit code but 0, a failed or inconclusive gate's too.
    """
    import tempfile

    import mlflow

    for run in runs:
        if run.data.tags.get(OUTCOME_TAG) in FINAL:
            with tempfile.TemporaryDirectory() as folder, talking("hand over the earlier outcome"):
                path = mlflow.artifacts.download_artifacts(
                    run_id=run.info.run_id, artifact_path="outcome.json", dst_path=folder
                )
                found = read_outcome(path, f"outcome.json of run {run.info.run_id}")
            return Outcome({**found.values, "earlier_run": run.info.run_id})
    return None


def close_interrupted(client: MlflowClient, runs: Sequence[Run], folder: Path) -> int:
    """Marks other runs of the same job that died without an end as KILLED; call it with the job's lock held.

    A run that another machine began may be alive, unless no job lasts so long.
    """
    oldest, place = (time.time() - LONGEST_JOB) * 1000, place_of(folder)
    running = [run for run in runs if run.info.status == "RUNNING"]
    dead = [run for run in running if run.data.tags.get(PLACE_TAG) == place or run.info.start_time < oldest]
    for run in dead:
        with talking("close an interrupted run"):
            client.set_terminated(run.info.run_id, "KILLED")
    return len(dead)
