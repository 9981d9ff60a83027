"""One repair under way: its run, its folder, and the record that grows into outcome.json."""

from __future__ import annotations

import contextlib
import logging
import math
import platform
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from repairops import __version__
from repairops.config import Config
from repairops.data.contact_sheet import as_png
from repairops.errors import RegistryUnreachable, RepairError, foreseen
from repairops.model.device import resolve_device
from repairops.outcome import EXIT_CODES, Outcome, Record, write_outcome
from repairops.outcome.given import Batch, Environment, ModelVersion, Tracking
from repairops.outcome.logged import metrics, parameters
from repairops.outcome.plain import to_plain
from repairops.report import Pictures, render_markdown, render_page
from repairops.store.batches import LoggedBatch
from repairops.store.connection import tried_once
from repairops.store.jobs import OUTCOME_TAG, JobRun, run_name
from repairops.store.models import ModelRef

log = logging.getLogger("repairops")


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM stops what runs inside, once, as Ctrl-C does: the run is KILLED, with its outcome. Raises Interrupted.

    It is what torchrun sends where another rank died, and Kubernetes to a pod that must go. Inside it is no Exception,
    since libraries catch these: an exporter that was stopped would be taken for one that cannot.
    """

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt("SIGTERM")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        raise foreseen(error) from error
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def unstopped() -> Iterator[None]:
    """A process that listens to SIGTERM does not inside, where it is about to end already."""
    listens = callable(signal.getsignal(signal.SIGTERM)) and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN) if listens else None
    try:
        yield
    finally:
        if listens:
            signal.signal(signal.SIGTERM, before)


class Job:
    """State of one repair: `record` is what outcome.json will hold, `folder` keeps its files across restarts."""

    def __init__(
        self, run: JobRun, key: str, folder: Path, ref: ModelRef, batches: list[LoggedBatch], config: Config
    ) -> None:
        self.run, self.key, self.folder, self.ref, self.config = run, key, folder, ref, config
        self._began = time.perf_counter()
        self._said = ""
        self.model_id = ""  # of the repair's logged model
        self.judging: dict[str, tuple[str, str]] = {}  # the data sets' names and digests in MLflow, by `Measured.on`
        self.device = str(resolve_device(config.training.device))
        self.record = Record(
            job_key=key,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            model=ModelVersion(ref.name, ref.version, ref.alias, ref.uri, ref.run_id),
            config=config.to_dict(),
            config_digest=config.digest(),
            seed=config.seed,
            batches=tuple(_describe(batch) for batch in batches),
            environment=_environment(),
            tracking=Tracking(run.run_id),
        )

    def begin(self) -> None:
        """Says in the run what the job starts from."""
        self.run.rename(run_name(self.ref))
        self.record = replace(self.record, commit=self.run.tag("mlflow.source.git.commit"))
        self.run.log_parameters(parameters(self.record))

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage and logs a line when it is done, with what was `say`d in it."""
        start = time.perf_counter()
        self._said = ""
        yield
        seconds = time.perf_counter() - start
        self.record = replace(self.record, stages={**self.record.stages, name: round(seconds, 3)})
        log.info("%-10s %s (%.1f s)", name, self._said, seconds)

    def say(self, text: str) -> None:
        self._said = text

    def log_picture(self, name: str, picture: np.ndarray) -> bytes:
        """Logs a picture, uint8 (H, W, 3), as a PNG, which is also returned."""
        file, png = self.folder / name, as_png(picture)
        file.write_bytes(png)
        self.run.log_file(file)
        return png

    def log_role(self, role: str, sample_ids: np.ndarray) -> None:
        """Logs which images have a role, roles/ROLE.txt: a sample id a line, sorted, so that files can be compared."""
        folder = self.folder / "roles"
        folder.mkdir(exist_ok=True)
        file = folder / f"{role}.txt"
        file.write_text("".join(f"{i}\n" for i in sorted(sample_ids.tolist())), encoding="utf-8")
        self.run.log_file(file, "roles")

    def log_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """The training loop's figures of an epoch, as metrics of the run."""
        self.run.log_metrics(epoch, {name: value for name, value in figures.items() if math.isfinite(value)})

    def scratch(self, name: str) -> Path:
        """An empty folder for artifacts of this attempt."""
        import shutil

        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    @contextlib.contextmanager
    def errors_kept(self) -> Iterator[None]:
        """Whatever is raised inside is the run's outcome 'error', with what was found so far, and a RepairError.

        A killed process keeps nothing; Ctrl-C stays what it is. torchrun sends SIGTERM right after a rank's error.
        """
        try:
            yield
        except BaseException as error:
            known = foreseen(error)
            with unstopped(), tried_once(isinstance(known, RegistryUnreachable)):
                self._keep_error(str(known))
            if known is error or isinstance(error, KeyboardInterrupt):
                raise
            raise known from error

    def _keep_error(self, message: str) -> None:
        """The outcome 'error' with its files, else (a full disk, a page that fails) by its tags alone."""
        try:
            self.conclude("error", message)
        except Exception:
            with contextlib.suppress(RepairError):  # a lost server must not hide the first error
                self._tag("error", EXIT_CODES["error"], message)

    def conclude(self, outcome: str, message: str, pictures: Pictures | None = None) -> Outcome:
        """Writes outcome.json and report.html, logs both, and only then tags the run with its outcome."""
        seconds = round(time.perf_counter() - self._began, 3)
        record = replace(self.record, outcome=outcome, exit_code=EXIT_CODES[outcome], message=message, seconds=seconds)
        self.run.log_figures(metrics(record), self.judging, self.model_id or None)
        page = render_page(record, pictures or Pictures())
        return self._log(Outcome(to_plain(record)), render_markdown(record)[:5000], page)

    def repeat(self, earlier: Outcome, changed: Mapping[str, Any]) -> Outcome:
        """The earlier outcome of the same job: nothing is repaired again.

        changed: fields of its record that a promotion, made or refused just now, has changed.
        """
        version = f" and registered version {earlier.version}" if earlier.version else ""
        start, refusal, run_id = "Nothing to do", str(changed.get("not_moved", "")), earlier.record.earlier_run
        if refusal or changed.get("promoted"):
            start = f"The alias {self.ref.alias!r} " + ("was not moved" if refusal else "moved to it now")
        refusal = f" {refusal}" if refusal else ""
        message = (
            f"{start}: this repair of {self.ref} came to '{earlier.kind}'{version} in run {run_id}.{refusal} "
            "New failures or another configuration make a new repair; --rerun repeats it."
        )
        values = {**earlier.values, **changed, "message": message}
        values["exit_code"] = EXIT_CODES[values["outcome"]]
        return self._log(Outcome(values, repeated=True), message, "")

    def _log(self, outcome: Outcome, note: str, page: str) -> Outcome:
        """Logs the outcome's files, and only then tags the run with it."""
        with tempfile.TemporaryDirectory(prefix="repairops-") as name:  # the job's own disk may be full
            folder = Path(name)
            write_outcome(outcome.values, folder / "outcome.json")
            if page:
                (folder / "report.html").write_text(page, encoding="utf-8")
            self.run.log_folder(folder)
        earlier = {"repairops.earlier_run": str(outcome.record.earlier_run)} if outcome.repeated else {}
        kind = f"repeated:{outcome.kind}" if outcome.repeated else outcome.kind
        self._tag(kind, outcome.exit_code, note, **earlier)
        return outcome

    def _tag(self, outcome: str, exit_code: int, note: str, **more: str) -> None:
        tags = {"repairops.exit_code": str(exit_code), "mlflow.note.content": note, **more}
        self.run.set_tags({**tags, OUTCOME_TAG: outcome})


def _describe(batch: LoggedBatch) -> Batch:
    logged = datetime.fromtimestamp(batch.logged_at / 1000, UTC).isoformat(timespec="seconds")
    return Batch(batch.digest, batch.run_id, batch.rows, logged)


def _environment() -> Environment:
    import mlflow
    import torch

    on_gpu = torch.cuda.is_available()
    return Environment(
        repairops=__version__,
        mlflow=mlflow.__version__,
        torch=str(torch.__version__),  # a class of its own
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        device=torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} CPU threads",
    )
