"""A version as people ask it: pictures in, class names out. MLflow's pyfunc around the version's ONNX file.

Stands alone on MLflow, Pillow and ONNX Runtime: a copy of this file lies beside the ONNX file of each repaired version,
as `repairops_served.py`, with one of `data/picture.py`; repairops itself need not be installed where it serves.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import pandas as pd

SHIPPED, SHIPPED_PICTURE = "repairops_served", "repairops_picture"  # the modules' names beside a version
MODEL, DESCRIPTION = "model.onnx", "served.json"
COLUMN = "image"
FOLDER = "REPAIROPS_SERVED_FOLDER"  # of the environment: the only folder that a served model reads files from
BATCH = 64  # images that go through the network at a time

picture: Any = importlib.import_module(SHIPPED_PICTURE if __name__ == SHIPPED else "repairops.data.picture")


class Served:
    """What MLflow asks: `predict` of a frame with the column `image`, one row an image, to a frame with one row each.

    An image is an encoded file (bytes, or base64 text, also as a data: URI), a `pathlib.Path`, or an array or nested
    list of values in 0..255, (H, W), (H, W, C) or (C, H, W) with C of 1 or 3. It may have any size: it is brought to
    the network's as the version's specification says, and stretched where that takes images of one size alone.
    A text `file:NAME` is a file below the folder that REPAIROPS_SERVED_FOLDER names; without it no text is a path, so
    that a request reads nothing of the server's disk.

    Answers: `label`; `confidence`, its probability; `probabilities` by class; of a guarded version also `guard`, the
    probability that the image has the look of the failures, and `answered_by`: champion, repaired or both.
    Raises MlflowException, which a server answers as a bad request: which image, why, and what can be sent instead.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        self.about: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        self.session = onnxruntime.InferenceSession(str(folder / MODEL), providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        import pandas as pd

        images = model_input[COLUMN].tolist()
        if len(images) == 1 and isinstance(images[0], list) and all(isinstance(part, str) for part in images[0]):
            images = images[0]  # {"inputs": [text, text]} comes as one cell
        found = [part for start in range(0, len(images), BATCH) for part in self._answers(images, start)]
        return pd.DataFrame(found, columns=None if found else ["label", "confidence", "probabilities"])

    def _answers(self, images: list[Any], start: int) -> list[dict[str, Any]]:
        pixels = [self._pixels(image, number) for number, image in enumerate(images[start : start + BATCH], start + 1)]
        outputs = dict(zip(self.outputs, self.session.run(None, {"input": self._normalised(pixels)}), strict=True))
        logits = outputs["logits"].astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = powers / powers.sum(axis=1, keepdims=True)
        guard = outputs.get("guard", [None] * len(pixels))
        return [self._answer(row, chance) for row, chance in zip(probabilities, guard, strict=True)]

    def _answer(self, probabilities: np.ndarray, guard: float | None) -> dict[str, Any]:
        names, best = self.about["class_names"], int(probabilities.argmax())
        found = {
            "label": names[best],
            "confidence": float(probabilities[best]),
            "probabilities": dict(zip(names, map(float, probabilities), strict=True)),
        }
        if guard is None:
            return found
        low, high = self.about["limits"]
        who = "champion" if guard < low else "repaired" if guard >= high else "both"
        return {**found, "guard": float(guard), "answered_by": who}

    def _normalised(self, pixels: list[np.ndarray]) -> np.ndarray:
        """uint8 (C, H, W) each to float32 (N, C, H, W) as the network takes them."""
        low, high = self.about["value_range"]
        mean, std = (np.asarray(self.about[name], np.float32).reshape(1, -1, 1, 1) for name in ("mean", "std"))
        scaled: np.ndarray = (low + np.stack(pixels).astype(np.float32) / 255 * (high - low) - mean) / std
        return scaled.astype(np.float32)

    def _pixels(self, given: Any, number: int) -> np.ndarray:
        """uint8 (C, H, W) of the network's size."""
        from mlflow.exceptions import MlflowException

        about, limit = self.about, self.about["max_pixels"]
        try:
            if isinstance(given, str | bytes | bytearray | memoryview | os.PathLike):
                image = picture.decode(_encoded(given), max_pixels=limit, max_bytes=about["max_bytes"])
            else:
                image = _from_array(given)
            resize = "stretch" if about["resize"] == "exact" else about["resize"]
            scaled = picture.resized(image, about["height"], about["width"], resize, limit)
            return np.ascontiguousarray(picture.in_channels(scaled, about["channels"]))
        except (ValueError, TypeError, OSError) as error:
            why = getattr(error, "detail", error)  # of what `picture` cannot use
            raise MlflowException.invalid_parameter_value(f"Image {number} cannot be used: {why}.") from error


def _encoded(given: Any) -> bytes:
    """The bytes of an encoded image, however they are given. Raises ValueError, OSError."""
    if isinstance(given, os.PathLike):  # no request can hold one: whoever loads the model in Python made it
        return Path(given).read_bytes()
    if not isinstance(given, str):
        return bytes(given)
    if given.startswith("file:"):
        return _below(given.removeprefix("file:")).read_bytes()
    try:
        return base64.b64decode(given.partition(",")[2] if given.startswith("data:") else given, validate=True)
    except binascii.Error as error:
        raise ValueError(
            f"the text {given[:20]!r}... is no base64. Send the file's bytes in base64; a path is given as file:NAME, "
            f"below the folder that {FOLDER} names on the server"
        ) from error


def _below(name: str) -> Path:
    """The file of that name below the folder that may be read. Raises ValueError where it is none, or elsewhere."""
    allowed = os.environ.get(FOLDER)
    if not allowed:
        raise ValueError(f"{FOLDER} is not set on the server, so it reads no files. Send the image in base64")
    folder = Path(allowed).resolve()
    file = (folder / name).resolve()
    if not file.is_relative_to(folder):
        raise ValueError(f"{name!r} is not below the folder that {FOLDER} names")
    return file


def _from_array(given: Any) -> Image.Image:
    """A picture in mode L or RGB. Raises ValueError."""
    array = np.asarray(given)
    if array.ndim == 3 and array.shape[-1] not in (1, 3) and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.dtype.kind not in "uif" or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3)):
        raise ValueError(
            f"an array of {array.dtype} {array.shape}; give numbers (H, W), (H, W, C) or (C, H, W), C 1 or 3"
        )
    if not array.size or not 0 <= array.min() <= array.max() <= 255:
        raise ValueError("its values are not in 0..255")
    if array.dtype.kind == "f" and 0 < array.max() <= 1:
        raise ValueError("its values are in 0..1. Multiply them by 255")
    return Image.fromarray(
        np.ascontiguousarray(array.squeeze(-1) if array.shape[2:] == (1,) else array).round().astype(np.uint8)
    )


def _load_pyfunc(path: str) -> Served:
    """Called by MLflow with the folder of the model."""
    return Served(Path(path))
