"""Fitted style networks in MLflow: one finished run each, the weights as one safetensors artifact, found by digest."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from repairops.config import Config
from repairops.errors import StyleNetworkNotFound, StyleWeightsDamaged
from repairops.store.connection import home_folder, talking
from repairops.store.runs import all_runs, file_sha256, kept_run

if TYPE_CHECKING:
    from mlflow import MlflowClient

KIND = "style"
EXPERIMENT = "repairops/styles"
PREFIX = "fitted:"
FILE = "wct2.safetensors"
TAGS = ("repairops.style_sha256", "repairops.style_psnr", "repairops.train_digest", "repairops.style_encoder")


@dataclass(frozen=True)
class LoggedStyle:
    """One fitted network. digest: sha256 of its file. psnr: of its reconstruction of images it did not see, dB."""

    run_id: str
    digest: str
    psnr: float
    train_digest: str
    encoder: str


def log_style(client: MlflowClient, file: Path, psnr: float, train_digest: str, encoder: str) -> LoggedStyle:
    """Keeps the weights in a run of their own; the same weights twice are one."""
    digest = file_sha256(file)
    earlier = [logged for logged in logged_styles(client) if logged.digest == digest]
    if earlier:
        return earlier[0]
    with talking("store the style network"):
        tags = {"repairops.kind": KIND, **dict(zip(TAGS, (digest, f"{psnr:.3f}", train_digest, encoder), strict=True))}
        with kept_run(client, EXPERIMENT, f"wct2-{digest[:8]}", tags) as run_id:
            client.log_artifact(run_id, str(file))
            client.log_metric(run_id, "psnr", psnr)
    return LoggedStyle(run_id, digest, psnr, train_digest, encoder)


def logged_styles(client: MlflowClient) -> list[LoggedStyle]:
    """All finished ones, newest first."""
    with talking("list the style networks"):
        runs = all_runs(client, EXPERIMENT, f"tags.`repairops.kind` = '{KIND}' and attributes.status = 'FINISHED'")
    found = []
    for run in reversed(runs):
        digest, psnr, train, encoder = (run.data.tags[tag] for tag in TAGS)
        found.append(LoggedStyle(run.info.run_id, digest, float(psnr), train, encoder))
    return found


def fetch_style(client: MlflowClient, digest: str) -> Path:
    """The weights whose digest starts so, below REPAIROPS_HOME or the user's cache; fetched once, checked each time."""
    import mlflow

    networks = logged_styles(client)
    fits = [logged for logged in networks if len(digest) >= 8 and logged.digest.startswith(digest.lower())]
    if not fits:
        raise StyleNetworkNotFound(digest, [f"{n.digest[:8]} ({n.psnr:.1f} dB)" for n in networks])
    folder = home_folder("weights", fits[0].digest)
    file = folder / FILE
    if not file.is_file():  # a download that breaks off leaves none
        with TemporaryDirectory(dir=folder) as part, talking("hand over the style network"):
            mlflow.artifacts.download_artifacts(run_id=fits[0].run_id, artifact_path=FILE, dst_path=part)
            (Path(part) / FILE).replace(file)
    found = file_sha256(file)
    if found != fits[0].digest:
        raise StyleWeightsDamaged(str(file), f"sha256 is {found} instead of {fits[0].digest}")
    return file


def with_fitted_weights(client: MlflowClient, config: Config) -> Config:
    """The configuration with `style.weights=fitted:DIGEST` as the path of the fetched file; any other as it is.

    A job's key is made before: the digest names the weights, the path is this machine's own.
    """
    if not config.style.weights.startswith(PREFIX):
        return config
    file = fetch_style(client, config.style.weights.removeprefix(PREFIX))
    return dataclasses.replace(config, style=dataclasses.replace(config.style, weights=str(file)))
