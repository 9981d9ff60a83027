"""Where a network runs: the device, mixed precision, train and eval mode, random state."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from repairops.errors import DeviceNotAvailable
from repairops.model.network import Classifier
from repairops.model.traced import set_graph_mode


def resolve_device(name: str) -> torch.device:
    """'auto' (CUDA where there is one, else the CPU), 'cpu', 'cuda' or 'cuda:N'. Raises DeviceNotAvailable."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceNotAvailable(name, "it is no device name of PyTorch") from error
    if device.type not in ("cpu", "cuda"):
        raise DeviceNotAvailable(name, "only cpu and cuda are supported")
    if device.type == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = torch.version.cuda is not None or torch.version.hip is not None
        raise DeviceNotAvailable(name, "PyTorch sees no GPU" if built else "this PyTorch is built without CUDA")
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise DeviceNotAvailable(name, f"the machine has {torch.cuda.device_count()} GPUs, counted from 0")
    return torch.device("cuda", index)


def device_name(device: torch.device) -> str:
    """For reports: the GPU's product name, or the CPU's architecture and thread count."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def use_bfloat16(amp: str, device: torch.device) -> bool:
    """amp 'on', 'off', or 'auto': on for a GPU that computes in bfloat16 itself."""
    if amp == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return amp == "on"


def cpu_has_bfloat16() -> bool:
    """Whether the CPU computes in bfloat16 itself (x86-64: AVX-512 BF16 or AMX); False where PyTorch does not say.

    Elsewhere autocast is slower than float32.
    """
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def fits_on(device: torch.device, size: int) -> bool:
    """Whether `size` bytes take at most half of the GPU's free memory."""
    return device.type == "cuda" and size <= torch.cuda.mem_get_info(device)[0] // 2


def set_mode(module: nn.Module, training: bool) -> None:
    """Train or eval mode for all that can change it.

    A module loaded from torch.export (MLflow's pt2) refuses the switch; its graph is changed instead. In train mode,
    a BatchNorm layer whose parameters are all frozen stays in eval mode, so its statistics are frozen with them.
    """
    try:
        module.train(training)
    except NotImplementedError:  # of a graph of torch.export, here or inside
        module.training = training
        for child in module.children():
            set_mode(child, training)
    for graph in module.modules():
        if isinstance(graph, GraphModule):
            set_graph_mode(graph, training)
    if training:
        for layer in module.modules():
            parameters = list(layer.parameters(recurse=False))
            frozen = parameters and not any(p.requires_grad for p in parameters)
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and frozen:
                layer.eval()


class MixedPrecision(Classifier):
    """The same network, run under bfloat16 autocast; takes and returns float32.

    Only the network's own operations are autocast, so that augmentations and losses keep float32.
    """

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return super().forward(images).float()


def device_generator(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """For draws of whole images: the CPU's generator itself there, elsewhere one on the device that it seeds.

    So nothing large is drawn on the CPU and copied; the values differ between devices, their law does not.
    """
    if device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Global random state (dropout uses it) seeded inside, and as it was before outside."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
