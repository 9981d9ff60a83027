"""What a network sees at several depths: pooled features, for comparing sets of images through the network's eyes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

DEPTHS = 4
BATCH = 128


@torch.no_grad()
def see(network: nn.Module, images: Tensor, layers: list[nn.Module]) -> tuple[list[Tensor], Tensor]:
    """Features (N, F) of each layer, and logits (N, classes), for float images (N, C, H, W) in 0..1.

    Of a layer's output (N, F, ...) the mean and the deviation over all positions are kept, (N, 2 F).
    """
    found: list[list[Tensor]] = [[] for _ in layers]
    logits = []
    with _watching(layers, found):
        for batch in torch.split(images, BATCH):
            logits.append(network(batch).float())
    return [torch.cat(parts) for parts in found], torch.cat(logits)


@torch.no_grad()
def choose_layers(network: nn.Module, images: Tensor, depths: int = DEPTHS) -> list[nn.Module]:
    """Up to `depths` of the network's innermost modules, evenly spaced in the order in which they are called.

    images: a few, to see which modules are called once and give one float tensor a batch. A network without inner
    modules (a traced graph) gives none: only its logits can be compared.
    """
    called: list[nn.Module] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        fits = isinstance(output, Tensor) and output.is_floating_point() and output.ndim >= 2
        if fits and len(output) == len(images):  # type: ignore[arg-type]
            called.append(module)

    inner = [module for module in network.modules() if not any(True for _ in module.children())]
    hooks = [module.register_forward_hook(note) for module in inner]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    once = [module for module in called if called.count(module) == 1]
    places = torch.linspace(0, len(once) - 1, min(depths + 1, len(once)) or 1).long().tolist() if once else []
    return [once[place] for place in dict.fromkeys(places[1:] or places)]


@contextmanager
def _watching(layers: list[nn.Module], found: list[list[Tensor]]) -> Iterator[None]:
    def keep(into: list[Tensor]) -> object:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            into.append(pooled(output.detach().float()))

        return hook

    hooks = [layer.register_forward_hook(keep(into)) for layer, into in zip(layers, found, strict=True)]  # type: ignore[arg-type]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def pooled(features: Tensor) -> Tensor:
    """(N, F) as it is; (N, F, ...) as mean and deviation over the positions, (N, 2 F)."""
    if features.ndim == 2:
        return features
    flat = features.flatten(2)
    return torch.cat([flat.mean(2), flat.std(2, correction=0)], 1)
