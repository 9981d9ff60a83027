"""Saving a classifier as an MLflow model: the pytorch flavor, and the onnx flavor beside it."""

from __future__ import annotations

import contextlib
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from repairops.data.records import InputSpec
from repairops.errors import NotTraceable, one_line
from repairops.model import guarded
from repairops.model.network import from_input
from repairops.model.traced import followable
from repairops.store.runs import file_sha256
from repairops.store.served import MODEL
from repairops.store.serving_form import write_serving_form

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature
    from torch import nn

METADATA_KEY = "repairops"
ONNX_FILE = f"onnx/{MODEL}"
LARGEST_EXAMPLE = 3 * 64 * 64  # numbers of an image: an example is kept as text, twice
_WEIGHTS = ("data/model.pth", "data/model.pt2")


@dataclass(frozen=True, eq=False)
class ClassifierFlavors:
    """What `mlflow.models.Model.log` takes as a flavor: it saves `network`, and `onnx_file` where there is one.

    serialization_format: 'pickle' keeps the class; 'pt2' traces the network in eval mode with a batch of 2.
    pip_requirements: none = `default_requirements`.
    example: two images or more as the network takes them, float32 (n, C, H, W): the model's input example, where they
        are small. Without it a traced model has images of the mean colour, and a pickle none.
    digests: filled when the files are written, before they are uploaded; see `model_digests`.
    """

    network: nn.Module
    spec: InputSpec
    serialization_format: str
    pip_requirements: Sequence[str] = ()
    code_paths: Sequence[str] = ()
    onnx_file: Path | None = None
    example: np.ndarray | None = None
    digests: dict[str, str] = field(default_factory=dict)

    def log(
        self,
        run_id: str,
        metadata: Mapping[str, Any],
        *,
        name: str = "model",
        tags: Mapping[str, str] | None = None,
        step: int = 0,
    ) -> str:
        """Logs it as a model of the run, with what it expects of its input; returns the logged model's id.

        step: whose metrics MLflow takes for the model's.
        """
        from mlflow.models import Model

        logged = Model.log(
            None,  # the artifact path of MLflow 2
            name=name,
            flavor=self,
            run_id=run_id,
            metadata={METADATA_KEY: {**metadata, "input": self.spec.to_dict()}},
            tags=tags,
            step=step,
            flavor_name="pytorch",
            validate_serving_input=False,  # it would be loaded again, in a process of its own
        )
        return str(logged.model_id)

    def save_model(self, path: str, mlflow_model: Model, **_: Any) -> None:
        """Called by MLflow with the folder to write. Raises NotTraceable."""
        import mlflow.pytorch

        example, traced = self.example, self.serialization_format == "pt2"
        if example is not None and example[0].size > LARGEST_EXAMPLE:
            example = None
        if example is None and traced:
            example = np.zeros((2, self.spec.channels, self.spec.height, self.spec.width), np.float32)
        try:
            with quiet_mlflow(), followable():
                mlflow.pytorch.save_model(
                    self.network,
                    path,
                    mlflow_model=mlflow_model,
                    code_paths=list(self.code_paths) or None,
                    signature=signature(self.spec),
                    input_example=example,
                    pip_requirements=list(self.pip_requirements) or default_requirements(),
                    serialization_format=self.serialization_format,
                )
        except Exception as error:  # torch.export's errors share no base class
            if traced and (type(error).__module__.startswith("torch") or isinstance(error, RuntimeError)):
                raise NotTraceable(f"{type(error).__name__}: {one_line(error)}") from error
            raise
        if self.onnx_file:
            self._add_onnx(Path(path), mlflow_model)
        self.digests.update(model_digests(Path(path)))

    def _add_onnx(self, folder: Path, mlflow_model: Model) -> None:
        import onnx

        target = folder / ONNX_FILE
        target.parent.mkdir()
        shutil.copyfile(str(self.onnx_file), target)
        mlflow_model.add_flavor(
            "onnx",
            onnx_version=onnx.__version__,
            data=ONNX_FILE,
            providers=["CPUExecutionProvider"],
            onnx_session_options=None,
            code=None,
        )
        mlflow_model.save(str(folder / "MLmodel"))
        shown = None if self.example is None else from_input(torch.from_numpy(self.example[:1]), self.spec)[0].numpy()
        write_serving_form(target.parent, self.network, self.spec, shown)


def input_example(folder: Path) -> np.ndarray | None:
    """The input example of an MLflow model in `folder`, float32 (n, C, H, W), n of 2 or more; None where it has none
    of that kind.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    try:
        found = Model.load(str(folder)).load_input_example(str(folder))
    except (MlflowException, OSError, ValueError):  # a champion that was logged otherwise may have any
        return None
    fits = isinstance(found, np.ndarray) and found.ndim == 4 and len(found) > 1 and found.dtype.kind == "f"
    return found.astype(np.float32) if fits else None


def guard_code(network: nn.Module, serialization_format: str, folder: Path) -> list[str]:
    """What a pickle of a guarded network needs to be loaded where repairops is not installed, copied into `folder`."""
    if not isinstance(network, guarded.Guarded) or serialization_format != "pickle":
        return []
    file = folder / f"{guarded.SHIPPED}.py"
    shutil.copyfile(guarded.__file__, file)
    return [str(file)]


def model_digests(folder: Path) -> dict[str, str]:
    """sha256 of the weights' file and of the ONNX file of an MLflow model in `folder`; '' where there is none."""
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    onnx = folder / ONNX_FILE
    return {
        "weights": file_sha256(weights) if weights else "",
        "onnx": file_sha256(onnx) if onnx.is_file() else "",
    }


def signature(spec: InputSpec) -> ModelSignature:
    """float32 (-1, C, H, W) to float32 (-1, classes)."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    kind = np.dtype(np.float32)
    return ModelSignature(
        inputs=Schema([TensorSpec(kind, (-1, spec.channels, spec.height, spec.width))]),
        outputs=Schema([TensorSpec(kind, (-1, spec.classes))]),
    )


def default_requirements() -> list[str]:
    """What loading the pytorch flavor needs: the versions at hand."""
    import mlflow
    import torch

    return [f"mlflow=={mlflow.__version__}", f"torch=={torch.__version__.partition('+')[0]}"]


def inherited_requirements(folder: Path) -> list[str]:
    """A parent model's requirements, with onnx and onnxruntime added where they are not named."""
    import onnx
    import onnxruntime

    file = folder / "requirements.txt"
    lines = file.read_text(encoding="utf-8").split("\n") if file.exists() else default_requirements()
    lines = [line for line in lines if line.strip()]
    if not any(line.split("=")[0].strip() == "onnx" for line in lines):
        lines.append(f"onnx=={onnx.__version__}")
    if not any(line.startswith("onnxruntime") for line in lines):
        lines.append(f"onnxruntime=={onnxruntime.__version__}")
    return lines


@contextlib.contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Keeps MLflow's pickle warning and torch's export chatter out of our users' logs."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
