"""ONNX: export, parity with PyTorch, latency. The only importer of onnx and onnxruntime."""

from __future__ import annotations

import contextlib
import io
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repairops.data.records import InputSpec
from repairops.errors import ExportImpossible, RepairError, foreseen, has_own_class, one_line
from repairops.gate.evidence import LatencyFigures, ParityCounts
from repairops.model.device import set_mode
from repairops.model.evaluation import at_once
from repairops.model.guarded import Guarded
from repairops.model.network import Classifier, own_copy, select_logits, to_input, to_unit
from repairops.model.onnx_guarded import INPUT, OUTPUT, PROBABILITY, WEIGHT, GuardAlone, compose
from repairops.model.routing import form_of
from repairops.model.traced import followable

logger = logging.getLogger("repairops")


class _LogitsOnly(Classifier):
    """Takes what the bare network takes, images that are normalised already."""

    def forward(self, images: Tensor) -> Tensor:
        return select_logits(self.network(images), self.spec.classes)


def export_onnx(network: nn.Module, spec: InputSpec, path: Path, *, guard: str = "conditional") -> None:
    """Writes the network in eval mode as one ONNX file, weights inside.

    Input "input": float32 (batch, C, H, W), normalised as `spec` says. Output "logits": float32 (batch, classes), also
    where the network returns a dict or tuple; of a guarded network also "guard": float32 (batch,), the probability of
    the failures' look. The batch axis is free. A copy on the CPU is exported, so the network itself stays as it is.
    guard: 'conditional' or 'both', of a guarded network: see `onnx_guarded.compose`.

    Raises ExportImpossible with the exporter's reason in one line; then no file is written.
    """
    if not isinstance(network, Guarded):
        model = exported(_LogitsOnly(network, spec), spec, [OUTPUT])
    else:
        parts = {
            "champion": exported(_LogitsOnly(network.champion, spec), spec, [OUTPUT]),
            "repaired": exported(_LogitsOnly(network.repaired, spec), spec, [OUTPUT]),
            "guard": exported(GuardAlone(network), spec, [WEIGHT, PROBABILITY]),
        }
        model = compose(parts, spec, conditional=guard == "conditional", hard=form_of(network) == "hard")
    path.write_bytes(model.SerializeToString())


def exported(module: nn.Module, spec: InputSpec, outputs: list[str]) -> Any:
    """The ONNX model of a module from images as the bare network takes them to `outputs`. Raises ExportImpossible."""
    example = torch.zeros(2, spec.channels, spec.height, spec.width)  # with 1, recurrent layers freeze the batch axis
    try:
        with _quiet(), followable():
            copied = own_copy(module).cpu()
            set_mode(copied, False)
            program = torch.onnx.export(
                copied,
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=outputs,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
            assert program is not None
            _check_shapes(program.model_proto)
            return program.model_proto
    except Exception as error:  # exporters fail in any class; all of them mean the same to the gate
        raise _refusal(error) from error


def run_onnx(path: Path, spec: InputSpec, pixels: Tensor, *, batch_size: int | None = None) -> np.ndarray:
    """Logits, float32 (N, K), of uint8 pixels (N, C, H, W) under ONNX Runtime, one batch in memory at a time.

    Raises ExportImpossible with the reason where it does not run the file.
    """
    outputs, batch_size = np.empty((len(pixels), spec.classes), np.float32), batch_size or at_once(pixels)
    try:
        session = _session(path)
        for start in range(0, len(pixels), batch_size):
            images = to_input(to_unit(pixels[start : start + batch_size]), spec)
            outputs[start : start + batch_size] = session.run([OUTPUT], {INPUT: images.numpy()})[0]
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise _refusal(error, "ONNX Runtime does not run it: ") from error
    return outputs


def compare(
    expected: Sequence[np.ndarray], found: Sequence[np.ndarray], ties: Sequence[np.ndarray] = (), *, tolerance: float
) -> ParityCounts:
    """PyTorch's logits, float32 (N, K) of each set of images, against the ONNX file's.

    Decisions differ where the two choose different classes and PyTorch's own logits of these classes are more than
    `tolerance` apart: a closer pair is a tie that rounding may break either way. So is an image at a limit of the guard
    (ties: bool (N,) of each set, `routing.at_a_limit`), which is counted and not compared. The largest difference is
    NaN where either side's outputs are not finite.
    """
    differ, largest = 0, 0.0
    for ours, theirs, near in zip_longest(expected, found, ties):
        settled = slice(None) if near is None else ~near
        ours, theirs = ours[settled], theirs[settled]
        differ += decisions_differ(ours, theirs, tolerance)
        if len(ours):
            with np.errstate(invalid="ignore"):
                largest = float(np.maximum(largest, np.abs(ours - theirs).max()))  # maximum keeps NaN
    return ParityCounts(sum(map(len, expected)), differ, largest)


def decisions_differ(expected: np.ndarray, found: np.ndarray, tolerance: float) -> int:
    """Rows of logits (N, K) that decide differently, ties within `tolerance` of the expected logits left out."""
    if not len(expected):
        return 0
    rows, ours, theirs = np.arange(len(expected)), expected.argmax(axis=1), found.argmax(axis=1)
    with np.errstate(invalid="ignore"):
        apart = ~(expected[rows, ours] - expected[rows, theirs] <= tolerance)
    return int(((ours != theirs) & apart).sum())


def measure_latency(
    champion: Path,
    challenger: Path,
    spec: InputSpec,
    pixels: Tensor,
    *,
    batch_sizes: Sequence[int] = (1, 32),
    runs: int = 100,
    max_seconds: float = 20.0,
) -> tuple[LatencyFigures, ...]:
    """Times calls of two ONNX files on the same images, in turn, so that a busy machine slows both alike.

    pixels: uint8 (N, C, H, W), N at least 1; the first of them make each batch, over and over where they are too few.
    For each batch size a tenth of `runs`, at least 3, warms both up first and is not counted. Measuring one batch size
    ends early after `max_seconds`, with 20 runs at least. Copies from and to the CPU are included. On a CPU each
    session has one thread: two pools of threads on the same cores get in each other's way, one of them at random more.
    """
    sessions = _session(champion, threads=1), _session(challenger, threads=1)
    return tuple(
        _time(sessions, to_input(to_unit(pixels[torch.arange(size) % len(pixels)]), spec), runs, max_seconds)
        for size in batch_sizes
    )


def _time(sessions: tuple[Any, Any], images: Tensor, runs: int, max_seconds: float) -> LatencyFigures:
    feed = {INPUT: images.numpy()}
    warm_up, began = max(3, runs // 10), time.perf_counter()
    rows: list[list[float]] = []
    while len(rows) < warm_up + runs:
        if len(rows) >= warm_up + 20 and time.perf_counter() - began > max_seconds:
            break
        row = [0.0, 0.0]
        for which in (0, 1) if len(rows) % 2 else (1, 0):
            start = time.perf_counter()
            sessions[which].run([OUTPUT], feed)
            row[which] = 1000 * (time.perf_counter() - start)
        rows.append(row)
    times = np.array(rows[warm_up:])
    medians, p99s = np.median(times, axis=0), np.percentile(times, 99, axis=0)
    return LatencyFigures(
        len(images), float(medians[0]), float(p99s[0]), float(medians[1]), float(p99s[1]), runs=len(times)
    )


def _session(path: Path, threads: int = 0) -> Any:
    """A session on the GPU where PyTorch has one, without TF32, else on CPU threads; 0 = as many as PyTorch uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others may want the core
    providers: list[Any] = ["CPUExecutionProvider"]
    if torch.cuda.is_available():
        onnxruntime.preload_dlls()  # CUDA's libraries that torch came with
        providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": "0"}))
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    if len(providers) > 1 and "CUDAExecutionProvider" not in session.get_providers():
        logger.warning(
            "ONNX Runtime cannot use the GPU, so it runs on the CPU; torch and onnxruntime-gpu must be of one CUDA "
            "generation, or install onnxruntime-gpu[cuda,cudnn]."
        )
    return session


def _check_shapes(model: Any) -> None:
    for value in (model.graph.input[0], *model.graph.output):
        batch = value.type.tensor_type.shape.dim[0]
        if not batch.dim_param:
            raise ExportImpossible(f"the exporter froze the batch axis of {value.name!r} to {batch.dim_value}")


def _refusal(error: BaseException, what: str = "") -> RepairError:
    """ExportImpossible with the innermost cause, unless that has a class of its own: a full disk is no verdict."""
    while error.__cause__ is not None:
        error = error.__cause__
    if has_own_class(error):
        return foreseen(error)
    return ExportImpossible(f"{what}{type(error).__name__}: {one_line(error)}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's progress, warnings and logs to itself."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir")
    ]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
