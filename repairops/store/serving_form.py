"""The form of a version that is asked with pictures: an MLflow model of its own around the version's ONNX file."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from repairops.config import ImagesConfig
from repairops.data import picture
from repairops.data.decoding import encode_png
from repairops.data.records import InputSpec
from repairops.model.guarded import Guarded
from repairops.store import served

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from torch import nn

PACKAGES = {"mlflow": "mlflow", "numpy": "numpy", "pandas": "pandas", "pillow": "PIL", "onnxruntime": "onnxruntime"}


def write_serving_form(folder: Path, network: nn.Module, spec: InputSpec, example: np.ndarray | None = None) -> None:
    """Makes the folder of an ONNX file, `served.MODEL`, an MLflow model of its own, which follows the version's alias:
    `mlflow models serve -m models:/cls@prod/onnx`.

    example: an image, uint8 (C, H, W), for its input example; else a grey one.
    """
    import mlflow.pyfunc
    import pandas as pd

    limits = ImagesConfig()
    about = {
        **spec.to_dict(),
        "max_pixels": limits.max_image_pixels,
        "max_bytes": limits.max_image_bytes,
        "limits": network.limits.tolist() if isinstance(network, Guarded) else None,
    }
    pixels = example if example is not None else np.full((spec.channels, spec.height, spec.width), 128, np.uint8)
    text = base64.b64encode(encode_png(torch.from_numpy(pixels))).decode()
    with tempfile.TemporaryDirectory() as name:
        sources = {served.SHIPPED: served.__file__, served.SHIPPED_PICTURE: picture.__file__}
        code = [shutil.copyfile(source, Path(name) / f"{module}.py") for module, source in sources.items()]
        made = Path(name) / "model"
        mlflow.pyfunc.save_model(
            made,
            loader_module=served.SHIPPED,
            code_paths=[str(file) for file in code],
            signature=_signature(guarded=about["limits"] is not None),
            input_example=pd.DataFrame({served.COLUMN: [text]}),
            pip_requirements=[f"{name}=={import_module(module).__version__}" for name, module in PACKAGES.items()],
        )
        shutil.copytree(made, folder, dirs_exist_ok=True)
    (folder / served.DESCRIPTION).write_text(json.dumps(about, indent=1), encoding="utf-8")


def _signature(guarded: bool) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Map

    answers = [
        ColSpec(DataType.string, "label"),
        ColSpec(DataType.double, "confidence"),
        ColSpec(Map(DataType.double), "probabilities"),
    ]
    if guarded:
        answers += [ColSpec(DataType.double, "guard"), ColSpec(DataType.string, "answered_by")]
    return ModelSignature(inputs=Schema([ColSpec(AnyType(), served.COLUMN)]), outputs=Schema(answers))
