"""What a repair's run keeps, brought here: its outcome and its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from repairops.store.connection import is_absent, talking

if TYPE_CHECKING:
    from mlflow import MlflowClient


def fetch_artifact(client: MlflowClient, run_id: str, name: str, folder: Path) -> Path | None:
    """Downloads one artifact of a run into `folder`; None where the run or the artifact is not there."""
    from mlflow.exceptions import MlflowException

    with talking(f"hand over {name}"):
        try:
            if name not in [entry.path for entry in client.list_artifacts(run_id)]:
                return None
            return Path(client.download_artifacts(run_id, name, str(folder)))
        except MlflowException as error:
            if is_absent(error):
                return None
            raise


def links(client: MlflowClient, model: str, version: str, run_id: str) -> dict[str, str]:
    """Where to look: pages of MLflow's UI for a server; the run's artifact folder for a database."""
    import mlflow

    with talking("read the run"):
        info = client.get_run(run_id).info
    uri = mlflow.get_tracking_uri().rstrip("/")
    if not uri.startswith("http"):
        return {"artifacts": info.artifact_uri}
    return {
        "report": f"{uri}/#/experiments/{info.experiment_id}/runs/{run_id}/artifacts/report.html",
        "run": f"{uri}/#/experiments/{info.experiment_id}/runs/{run_id}",
        "version": f"{uri}/#/models/{model}/versions/{version}",
    }
