"""Digests of what is served: recorded when the gate judged it, compared again before it is promoted."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from repairops.errors import PromotionRefused
from repairops.store.connection import talking

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

WEIGHTS_TAG = "repairops.weights_sha256"
ONNX_TAG = "repairops.onnx_sha256"
ONNX_FILE = "onnx/model.onnx"
_WEIGHTS = ("data/model.pth", "data/model.pt2")


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_digests(folder: Path) -> dict[str, str]:
    """sha256 of the weights' file and of the ONNX file of an MLflow model in `folder`; '' where there is none."""
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    onnx = folder / ONNX_FILE
    return {
        "weights": file_sha256(weights) if weights else "",
        "onnx": file_sha256(onnx) if onnx.is_file() else "",
    }


def refuse_changed(version: ModelVersion) -> None:
    """Raises PromotionRefused where the version's files are not, byte by byte, those of its digests' tags.

    Downloads the version. The job that made it writes the tags when it uploads what its gate has judged.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    recorded = {"weights": version.tags.get(WEIGHTS_TAG, ""), "onnx": version.tags.get(ONNX_TAG, "")}
    again = "Repair again with --rerun (-P rerun=true), or give --force with a reason."
    if not all(recorded.values()):
        why = "it does not say which files its gate judged (no digests)"
        raise PromotionRefused(version.name, version.version, why, again)
    with tempfile.TemporaryDirectory() as folder, talking("hand over the version's files"):
        uri = f"models:/{version.name}/{version.version}"
        try:
            found = model_digests(Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)))
        except (MlflowException, OSError) as error:
            if isinstance(error, MlflowException) and error.get_http_status_code() not in (404, 500):
                raise
            found = dict.fromkeys(recorded, "")
    for part, digest in recorded.items():
        if found[part] != digest:
            state = f"sha256 {found[part][:12]}, not {digest[:12]}" if found[part] else "it is not there"
            file = "weights are" if part == "weights" else "ONNX file is"
            why = f"its {file} not what its gate judged ({state})"
            raise PromotionRefused(version.name, version.version, why, again)
