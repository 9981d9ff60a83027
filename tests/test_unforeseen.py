"""What nobody foresaw: one line, exit code 1, and a run with its outcome, as for any other error."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from pipeline_helpers import (
    Scene,
    call,
    log_champion,
    scene_fixture,  # noqa: F401
    shell_options,
    template_fixture,  # noqa: F401
)
from torch import Tensor, nn

from repairops.cli import main
from repairops.cli.console import printable
from repairops.config import load_config
from repairops.errors import (
    ArtifactsRefused,
    ArtifactsUnreachable,
    FileUnusable,
    Interrupted,
    NoSpace,
    RankLost,
    RegistryRefused,
    RegistryUnreachable,
    RepairError,
    Unforeseen,
)
from repairops.outcome import read_outcome
from repairops.pipeline import repair
from repairops.stages.job import Job, stoppable
from repairops.store.connection import connect, talking
from repairops.store.jobs import job_run
from repairops.store.models import ModelRef


class Moody(nn.Module):
    """A network that raises anything where `log_model` does not try it: for more than two images, or in train mode."""

    def __init__(self, network: nn.Module, mode: str) -> None:
        super().__init__()
        self.network, self.mode = network, mode

    def forward(self, images: Tensor) -> Tensor:
        if self.training if self.mode == "train" else len(images) > 2:
            raise LookupError("no mood\nfor that")
        logits: Tensor = self.network(images)
        return logits


@pytest.mark.parametrize(("mode", "images"), [("eval", "256x1x16x16"), ("train", "2x1x16x16")])
def test_a_network_that_raises_anything_ends_in_one_line_and_an_outcome(
    scene: Scene, capsys: pytest.CaptureFixture[str], mode: str, images: str
) -> None:
    assert log_champion(Moody(mlflow.pytorch.load_model("models:/cls/1"), mode), scene.data) == "2"
    code, out = call("repair", *shell_options())
    lines = capsys.readouterr().err.splitlines()
    assert (code, out) == (1, "")
    assert [line for line in lines if "Error" in line] == [lines[-1]]
    assert f"The model raises LookupError in {mode} mode on images of {images}: no mood for that. A " in lines[-1]
    run = scene.repairs()[0]
    assert (run.info.status, run.data.tags["repairops.outcome"]) == ("FAILED", "error")
    assert f"Error: {scene.outcome(run.info.run_id)['message']}" == lines[-1]
    assert scene.versions() == ["1", "2"]
    assert not list(scene.home.glob("jobs/*/training.safetensors"))  # known before it is trained


@pytest.mark.parametrize("lost", ["log_parameters", "tag"])
def test_a_store_that_fails_at_the_first_request_leaves_an_outcome(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """It is read-only for a moment, just when the run is open; the run says from its start which job it is."""

    def fail(*_: object) -> None:
        raise RegistryUnreachable(scene.uri, "log the parameters", "attempt to write a readonly database")

    monkeypatch.setattr(f"repairops.store.jobs.JobRun.{lost}", fail)
    with pytest.raises(RegistryUnreachable):
        repair(config=load_config(overrides=["training.device=cpu"]))
    (run,) = scene.repairs()
    tags = run.data.tags
    assert (run.info.status, tags["repairops.outcome"]) == ("FAILED", "error")
    assert len(tags["repairops.job_key"]) == 64
    assert {"repairops.place", "repairops.config_digest", "repairops.model_version"} <= tags.keys()
    assert scene.outcome(run.info.run_id)["job_key"] == tags["repairops.job_key"]


def test_repair_raises_nothing_but_errors_of_ours(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a run is open too."""
    (scene.folder / "file").touch()
    monkeypatch.setenv("REPAIROPS_HOME", str(scene.folder / "file" / "home"))
    with pytest.raises(FileUnusable, match="file/home"):
        repair(config=load_config(overrides=["training.device=cpu"]))
    assert scene.repairs() == []


@pytest.fixture
def client(registry: str) -> MlflowClient:
    return connect()


def failing_job(client: MlflowClient, folder: Path, error: BaseException) -> tuple[Job, type[BaseException]]:
    """A job in whose run `error` was raised, and the class that left it."""
    ref = ModelRef("cls", "1", "prod", "")
    try:
        with job_run(client, ref) as run:
            job = Job(run, "k" * 64, folder, ref, [], load_config(overrides=["training.device=cpu"]))
            with job.errors_kept():
                raise error
    except BaseException as left:
        return job, type(left)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (ZeroDivisionError("by zero"), Unforeseen, "ZeroDivisionError: by zero. Nobody foresaw this"),
        (OSError(errno.ENOSPC, "No space left on device"), NoSpace, "No space is left on a disk"),
        (SystemExit(0), Unforeseen, "SystemExit: 0"),  # a pickle may do that
        (KeyboardInterrupt(), KeyboardInterrupt, "The job was interrupted (Ctrl-C)"),
        (RepairError("known"), RepairError, "known"),
        (
            RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"),
            RankLost,
            "Another process of this",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_whatever_is_raised_in_a_job_is_its_run_s_outcome(
    client: MlflowClient, tmp_path: Path, error: BaseException, kind: type[BaseException], says: str
) -> None:
    job, left = failing_job(client, tmp_path, error)
    assert left is kind
    run = client.get_run(job.run.run_id)
    assert run.info.status == ("KILLED" if kind is KeyboardInterrupt else "FAILED")
    assert (run.data.tags["repairops.outcome"], run.data.tags["repairops.exit_code"]) == ("error", "1")
    kept = read_outcome(client.download_artifacts(job.run.run_id, "outcome.json"))
    assert kept.kind == "error"
    assert kept.message.startswith(says)


def stop_job(client: MlflowClient, folder: Path, number: int, first: Exception | None) -> None:
    ref = ModelRef("cls", "1", "prod", "")
    with stoppable(), job_run(client, ref) as run:
        job = Job(run, "k" * 64, folder, ref, [], load_config(overrides=["training.device=cpu"]))
        with job.errors_kept():
            if first:
                log_folder = run.log_folder
                object.__setattr__(run, "log_folder", lambda *given: os.kill(os.getpid(), number) or log_folder(*given))
                raise first
            with contextlib.suppress(Exception):  # as a library may
                os.kill(os.getpid(), number)
            pytest.fail("it was not stopped")


@pytest.mark.parametrize(
    ("number", "first", "kind", "says"),
    [
        (signal.SIGTERM, None, Interrupted, "The job was interrupted (SIGTERM)"),
        (signal.SIGINT, None, Interrupted, "The job was interrupted (Ctrl-C)"),
        (signal.SIGTERM, RuntimeError("gloo: Connection closed"), RankLost, "Another process"),  # while that is kept
    ],
)
def test_a_job_that_is_stopped_keeps_its_outcome(
    client: MlflowClient, tmp_path: Path, number: int, first: Exception | None, kind: type[RepairError], says: str
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(kind):
        stop_job(client, tmp_path, number, first)
    assert signal.getsignal(signal.SIGTERM) is before
    (run,) = client.search_runs([client.get_experiment_by_name("repairops/repairs/cls").experiment_id])
    assert run.info.status == ("FAILED" if first else "KILLED")
    assert run.data.tags["repairops.outcome"] == "error"
    assert read_outcome(client.download_artifacts(run.info.run_id, "outcome.json")).message.startswith(says)


def test_the_tags_are_kept_where_no_file_can_be(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The temporary folder is on a full disk, or not there."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    job, left = failing_job(client, tmp_path, OSError(errno.ENOSPC, "No space left on device"))
    run = client.get_run(job.run.run_id)
    assert left is NoSpace
    assert run.data.tags["repairops.outcome"] == "error"
    assert run.data.tags["mlflow.note.content"].startswith("No space is left on a disk")
    assert client.list_artifacts(job.run.run_id) == []


def test_a_lost_server_neither_hides_nor_delays_the_first_error(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def lost(*_: object, **__: object) -> None:
        import os

        seen.append(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
        raise mlflow.MlflowException("gone")

    monkeypatch.setattr(MlflowClient, "log_artifacts", lost)
    job, left = failing_job(client, tmp_path, RegistryUnreachable("http://x", "store the artifacts", "gone"))
    assert (left, seen) == (RegistryUnreachable, ["0"])  # once, and without waiting
    assert client.get_run(job.run.run_id).info.status == "FAILED"


# What stores raise


def raised_by(module: str, name: str, text: str) -> Exception:
    """An exception of a client's package, which need not be installed here."""
    kind: type[Exception] = type(name, (Exception,), {"__module__": module})
    return kind(text)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (raised_by("botocore.exceptions", "NoCredentialsError", "Unable to locate credentials"), ArtifactsRefused),
        (raised_by("botocore.exceptions", "ClientError", "An error occurred (AccessDenied)"), ArtifactsRefused),
        (raised_by("boto3.exceptions", "S3UploadFailedError", "(NoSuchBucket)"), ArtifactsUnreachable),
        (raised_by("botocore.exceptions", "EndpointConnectionError", "Could not connect"), ArtifactsUnreachable),
        (raised_by("google.api_core.exceptions", "Forbidden", "403"), ArtifactsRefused),
        (raised_by("azure.core.exceptions", "ServiceRequestError", "no route"), ArtifactsUnreachable),
        (raised_by("sqlalchemy.exc", "OperationalError", "database or disk is full"), NoSpace),
        (raised_by("sqlalchemy.exc", "OperationalError", "attempt to write a readonly database"), RegistryUnreachable),
        (OSError(errno.EROFS, "Read-only file system", "/srv/mlartifacts"), RegistryUnreachable),
        (OSError(errno.ENOSPC, "No space left on device"), NoSpace),
        (ConnectionResetError("reset by peer"), RegistryUnreachable),
        (mlflow.MlflowException("not yours", error_code=PERMISSION_DENIED), RegistryRefused),
        (KeyError("not a store's"), KeyError),
        (RepairError("known"), RepairError),
    ],
)
def test_what_a_store_raises_gets_the_class_of_its_fact(registry: str, error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind) as raised, talking("store the batch"):
        raise error
    assert raised.type is kind
    if kind not in (KeyError, RepairError):
        assert "store the batch" in str(raised.value)


# The commands


def test_an_exception_in_a_command_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repairops.outcome.recompute", lambda _: {}["evidence"])
    (tmp_path / "outcome.json").write_text(json.dumps({"schema": 2, "outcome": "passed"}))
    command = ["gate", str(tmp_path / "outcome.json")]
    result = CliRunner().invoke(main, command)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith("Error: KeyError: 'evidence'. Nobody foresaw this: `repairops --traceback`")
    assert isinstance(CliRunner().invoke(main, ["--traceback", *command]).exception, KeyError)


def test_names_that_others_gave_cannot_reach_the_terminal() -> None:
    assert printable("a\x1b[31mred\r\n\u202egnp\udc80é 名") == "a\\x1b[31mred\\r\\n\\u202egnp\\udc80é 名"
    assert printable("one\ntwo", keep="\n") == "one\ntwo"
