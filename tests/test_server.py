"""The store on a real MLflow server: one life of a model, two writers, a server that is gone, refuses or dies."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import signal
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from conftest import new_database, running_server, stop_server
from mlflow import MlflowClient
from store_helpers import (
    SPEC,
    TinyNet,
    add_version,
    artifact_paths,
    champion_in_registry,
    digit_set,
    digits,
    load,
    register,
    unit_images,
)
from test_store_failures import check_two_writers

import repairops
from repairops.config import ImagesConfig
from repairops.data.sets import load_image_set
from repairops.errors import AliasMoved, ModelNotFound, NothingToRollBack, RegistryRefused, RegistryUnreachable
from repairops.model.network import to_input
from repairops.promotion.history import promotions
from repairops.promotion.log_model import log_model
from repairops.store.batches import fetch_rows, list_failures, log_failures, log_rows, logged_batches
from repairops.store.connection import connect
from repairops.store.datasets import Context, fetch_dataset, find_sets
from repairops.store.failure_rows import FailureRows, make_rows
from repairops.store.jobs import earlier_outcome, job_run, runs_of_job
from repairops.store.models import ModelRef, aliases_of, resolve_model, version_at
from repairops.store.registry import repaired_batches

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's hints on pickle and signatures

CONTEXTS: tuple[Context, Context] = ("training", "evaluation")  # what every repair needs


@pytest.fixture
def client(server_registry: str) -> MlflowClient:
    return connect()


def test_references(client: MlflowClient) -> None:
    add_version(client, "roads", "prod")
    add_version(client, "roads")
    client.transition_model_version_stage("roads", "2", "Production")
    add_version(client, "prod.lanes", "champion")
    forms = {
        "prod/roads": ("roads", "1"),
        "Production/roads": ("roads", "2"),
        "roads@prod": ("roads", "1"),
        "prod/lanes": ("prod.lanes", "1"),
        "models:/roads/2": ("roads", "2"),
        "models:/roads/latest": ("roads", "2"),
        "models:/roads/Production": ("roads", "2"),
    }
    for reference, expected in forms.items():
        ref = resolve_model(reference, client)
        assert (ref.name, ref.version) == expected, reference
    for reference in ("prod/nothing", "roads@nobody", "models:/roads/9", "a/b/c", "models:/m-0123456789abcdef"):
        with pytest.raises(ModelNotFound):
            resolve_model(reference, client)


def check_a_models_life(client: MlflowClient, tmp_path: Path) -> None:
    """Log, find again, repair, register, promote and roll back."""
    train, clean = digit_set(8), digit_set(8, start=100)
    champion = champion_in_registry("signs", tmp_path, train_set=train, clean_set=clean)
    ref = resolve_model("prod/signs", client)
    assert ref == champion.ref
    model_id = mlflow.models.get_model_info(ref.uri).model_id
    assert resolve_model(f"models:/{model_id}", client).version == ref.version
    with torch.no_grad():
        images = unit_images()
        assert torch.equal(champion.classifier.network(images), TinyNet().eval()(images))
    found = find_sets(client, ref.run_id, None, None)
    for context, logged in zip(CONTEXTS, (train, clean), strict=True):
        path = fetch_dataset(found[context], context, tmp_path / context)
        assert load_image_set(path, SPEC, ImagesConfig()).digest == logged.digest

    batch = log_failures("prod/signs", digits(6, 50), ["zero", 1, 2, "three", 0, "1"], sources="camera")
    assert not log_failures("signs", digits(6, 50), ["zero", 1, 2, "three", 0, "1"], sources="camera").created
    assert list_failures("prod/signs") == [batch]
    assert fetch_rows(client, [batch]).label == ["zero", "1", "2", "three", "0", "1"]

    tags = {
        "repairops.verdict": "PASS",
        "repairops.parent_version": "1",
        "repairops.batches": batch.digest[:16],
    }
    repaired = TinyNet(seed=5).eval()
    with job_run(client, ref) as job:
        version = register(client, champion, repaired, tmp_path, job.run_id, tags=tags)
        job.set_tags({"repairops.job_key": "s" * 64, "repairops.outcome": "passed"})
        (tmp_path / "outcome.json").write_text('{"schema": 2, "outcome": "passed"}')
        job.log_file(tmp_path / "outcome.json")
    runs = runs_of_job(client, "s" * 64)
    earlier = earlier_outcome(client, runs)
    assert earlier
    assert (earlier.kind, earlier.record.earlier_run) == ("passed", job.run_id)
    assert aliases_of(client, "signs") == {"prod": "1", "challenger": "2"}
    assert client.get_model_version("signs", "2").description.startswith("# Version 2")
    assert repaired_batches(client, ModelRef("signs", "2", "", "")) == {batch.digest[:16]}
    inputs = to_input(unit_images(count=7), SPEC)
    with torch.no_grad():
        expected = repaired(inputs).numpy()
    again = load(resolve_model("signs@challenger", client), tmp_path / "again")
    with torch.no_grad():
        np.testing.assert_array_equal(again.classifier.network(inputs).numpy(), expected)
    pyfunc = mlflow.pyfunc.load_model(f"models:/signs/{version.version}")
    np.testing.assert_allclose(pyfunc.predict(inputs.numpy()), expected, atol=1e-5)
    assert (again.folder / "onnx" / "model.onnx").is_file()

    move = repairops.promote("prod/signs", by="ann")
    assert (move.version_from, move.version_to) == ("1", "2")
    add_version(client, "signs", "challenger", tags={"repairops.verdict": "PASS", "repairops.parent_version": "1"})
    with pytest.raises(AliasMoved):
        repairops.promote("prod/signs")
    assert repairops.rollback("prod/signs").version_to == "1"
    with pytest.raises(NothingToRollBack):
        repairops.rollback("prod/signs")
    assert version_at(client, "signs", "prod") == "1"
    client.set_registered_model_alias("signs", "prod", "3")
    moves = repairops.history("signs")
    assert [m.kind for m in moves] == ["logged", "promotion", "rollback", "outside"]
    assert [m.version_to for m in moves] == ["1", "2", "1", "3"]


def test_a_models_life(client: MlflowClient, tmp_path: Path) -> None:
    check_a_models_life(client, tmp_path)


def test_two_thousand_images_are_three_uploads(client: MlflowClient) -> None:
    add_version(client, "many", "prod")
    images = np.random.default_rng(0).integers(0, 256, (2000, 32, 32, 3), dtype=np.uint8)
    batch = log_failures("many", images, (np.arange(2000) % 4).tolist())
    uploads = ["batch/manifest.json", "batch/part-00000.parquet", "contact_sheet.png"]
    assert artifact_paths(client, batch.run_id) == uploads
    assert fetch_rows(client, [batch]).sample_id == make_rows(images, [0] * 2000).sample_id


def test_two_processes_at_once_lose_nothing(client: MlflowClient, server_registry: str) -> None:
    add_version(client, "cls", "prod")
    check_two_writers(server_registry, client)


# A server that is not there, or refuses


def calls(uri: str) -> list[tuple[str, Callable[[], object]]]:
    """Everything that opens a connection, with the action that its error names."""
    client = connect(uri)
    ref = ModelRef("cls", "1", "prod", "")

    def run() -> None:
        with job_run(client, ref):
            pytest.fail("a run was opened without a server")

    return [
        ("look up the model", lambda: resolve_model("prod/cls", client)),
        ("look up the model", lambda: log_failures("prod/cls", digits(2), [0, 1])),
        ("look up the model", lambda: log_failures("cls", digits(2), [0, 1])),
        ("look up the model", lambda: list_failures("cls")),
        ("list the failure batches", lambda: logged_batches(client, "cls")),
        ("open the run", lambda: log_model(TinyNet(), "cls", SPEC)),
        ("experiment", run),
        ("look up the model", lambda: repairops.promote("prod/cls")),
        ("look up the model", lambda: repairops.rollback("prod/cls")),
        ("list the promotions", lambda: promotions(client, "cls")),
        ("look for earlier runs", lambda: runs_of_job(client, "k" * 64)),
    ]


def test_a_server_that_is_gone_is_named_with_the_action(registry: str) -> None:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
    for action, call in calls(uri):
        with pytest.raises(RegistryUnreachable) as caught:
            call()
        assert uri in str(caught.value)
        assert action in str(caught.value)
        assert len(str(caught.value)) < 800
        assert mlflow.active_run() is None


@contextmanager
def gateway(status: int) -> Iterator[str]:
    """A proxy that lets nobody through, as single sign-on in front of a server does."""

    class Refusing(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>sign in first</html>")

        do_GET = do_POST = do_PUT = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("status", [401, 403])
def test_a_user_without_rights_is_told_so(registry: str, status: int) -> None:
    with gateway(status) as uri:
        for action, call in calls(uri):
            with pytest.raises(RegistryRefused) as caught:
                call()
            assert uri in str(caught.value)
            assert action in str(caught.value)


# A server that is lost while a batch is stored


@contextmanager
def cut_line(uri: str, uploads: int) -> Iterator[str]:
    """A line to the server at `uri` that is cut for good when more than that many files are uploaded."""
    target = uri.removeprefix("http://").split(":")
    sent, cut = itertools.count(1), threading.Event()

    class Line(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((target[0], int(target[1]))) as server:
                back = threading.Thread(target=self.pump, args=(server, self.request))
                back.start()
                self.pump(self.request, server)
                back.join()

        def pump(self, source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    if data.startswith(b"PUT ") and next(sent) > uploads:
                        cut.set()
                    if cut.is_set():
                        break
                    target.sendall(data)
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Line) as line:
        thread = threading.Thread(target=line.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{line.server_address[1]}"
        finally:
            cut.set()
            line.shutdown()
            thread.join()
    assert next(sent) > uploads + 1


def test_a_cut_upload_leaves_no_finished_batch(client: MlflowClient, server_registry: str) -> None:
    add_version(client, "cut", "prod")
    images, labels = digits(8), [0, 1, 2, 3] * 2
    with cut_line(server_registry, uploads=1) as uri:
        with pytest.raises(RegistryUnreachable, match="store the failure batch"):
            log_failures("prod/cut", images, labels, tracking_uri=uri)
        mlflow.set_tracking_uri(server_registry)
    experiment = client.get_experiment_by_name("repairops/failures/cut")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "RUNNING"
    assert len(artifact_paths(client, run.info.run_id)) == 1
    assert list_failures("cut") == []
    batch = log_failures("prod/cut", images, labels)
    assert batch.created
    assert list_failures("cut") == [batch]
    assert len(fetch_rows(client, [batch])) == 8


def many_rows() -> FailureRows:
    """25,000 rows, which are three files to upload."""
    random = np.random.default_rng(0)
    images = [random.bytes(400) for _ in range(25_000)]
    return make_rows(images, ["zero"] * len(images))


def kill_at_first_upload(server: int, artifacts: Path, done: threading.Event) -> None:
    """Kills the server as soon as it has stored one file."""
    while not done.is_set():
        if any(path.is_file() for path in artifacts.rglob("batch/*")):
            stop_server(server, signal.SIGKILL)
            return


@pytest.mark.slow
def test_a_batch_survives_the_death_of_its_server(registry: str, migrated_database: Path, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    database = new_database(migrated_database, folder / "mlflow.db", "mlflow-artifacts:/0")
    rows, done = many_rows(), threading.Event()
    with running_server(database, folder) as (uri, server):
        add_version(connect(uri), "cls", "prod")
        watcher = threading.Thread(target=kill_at_first_upload, args=(server, folder / "artifacts", done))
        watcher.start()
        try:
            with pytest.raises(RegistryUnreachable, match="store the failure batch"):
                log_rows("prod/cls", rows, tracking_uri=uri)
        finally:
            done.set()
            watcher.join()
    stored = [path for path in (folder / "artifacts").rglob("batch/*") if path.is_file()]
    assert 1 <= len(stored) < 4
    with running_server(database, folder) as (uri, _):
        assert list_failures("cls", tracking_uri=uri) == []
        batch = log_rows("prod/cls", rows)
        assert batch.created
        assert list_failures("cls") == [batch]
        assert len(fetch_rows(connect(), [batch])) == 25_000
