"""A version's form for people in a folder, for versions that no repair has given one."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch

from repairops.config import Config, derive_seed
from repairops.errors import ExportImpossible, NoServingForm, UsageError
from repairops.model.evaluation import logits
from repairops.model.network import from_input
from repairops.model.onnx import compare, export_onnx, run_onnx
from repairops.store.champion import fetch_champion
from repairops.store.connection import connect
from repairops.store.flavors import input_example
from repairops.store.models import ModelRef, resolve_model
from repairops.store.served import MODEL
from repairops.store.serving_form import write_serving_form

NOISE = 64  # images by which PyTorch and ONNX Runtime are compared, beside the model's input example


def export_form(model: str, folder: Path, config: Config, tracking_uri: str | None = None) -> ModelRef:
    """Writes a version as an MLflow model that takes images as people have them, see `store.served.Served`.

    Nothing in the registry changes. The ONNX file must answer as the network does, on images of noise and on the
    version's input example, within `gate.parity_tolerance`.

    folder: made; it must be empty where it exists, and nothing stays there where this fails. config: `model.*` says
    what the registry does not. Raises UsageError, NoServingForm, ModelNotFound and what `fetch_champion` raises.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is no empty folder. Name another one.")
    client = connect(tracking_uri)
    ref = resolve_model(model, client)
    with tempfile.TemporaryDirectory() as scratch:
        champion = fetch_champion(ref, config.model, Path(scratch) / "model")
        classifier, spec, written = champion.classifier, champion.spec, Path(scratch) / "form"
        written.mkdir()
        size = (NOISE, spec.channels, spec.height, spec.width)
        noise = torch.Generator().manual_seed(derive_seed(config.seed, "serving form"))
        images = torch.randint(256, size, generator=noise, dtype=torch.uint8)
        given = input_example(champion.folder)
        shown = from_input(torch.from_numpy(given), spec) if given is not None and given.shape[1:] == size[1:] else None
        if shown is not None:
            images = torch.cat([shown, images])
        try:
            export_onnx(classifier.network, spec, written / MODEL, guard=config.export.guard)
            answers = [logits(classifier, images)], [run_onnx(written / MODEL, spec, images)]
        except ExportImpossible as error:
            raise NoServingForm(ref, error) from error
        parity = compare(*answers, tolerance=config.gate.parity_tolerance)
        if not parity.max_difference <= config.gate.parity_tolerance:  # NaN is no parity either
            apart = f"the logits of its ONNX file differ by up to {parity.max_difference:.2g}"
            raise NoServingForm(ref, f"{apart}, gate.parity_tolerance is {config.gate.parity_tolerance:g}")
        write_serving_form(written, classifier.network, spec, None if shown is None else shown[0].numpy())
        shutil.copytree(written, folder, dirs_exist_ok=True)
    return ref
