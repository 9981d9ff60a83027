"""A WCT2 network of one's own: an encoder from VGG-19 or trained along, a decoder trained to reconstruct images.

The '+I' of the transform (whitening.py) assumes features of large variance, as VGG's are; a small-scaled encoder would
only tint. The network is positively homogeneous, so its features are scaled up without changing what it reconstructs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from repairops.errors import StyleWeightsDamaged
from repairops.style.wct2 import prepare
from repairops.style.wct2_network import ENCODER, Unpooling, Wct2Network

VGG_FEATURES = dict(zip(ENCODER, (0, 2, 5, 7, 10, 12, 14, 16, 19), strict=True))  # torchvision's places of the layers
VGG_MEAN, VGG_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WANTED_VARIANCE = 100.0  # least mean variance of the features at any level, against the I that is added
LEVELS = 4
RATE = 1e-3


def new_network(unpooling: Unpooling, generator: Generator) -> Wct2Network:
    """A network with He-initialised weights, all of it to be trained."""
    network = Wct2Network(unpooling)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            else:
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(drawn * math.sqrt(2 / parameter[0].numel()))
        convolution(network.encoder, "conv0").weight.copy_(torch.eye(3)[:, :, None, None])
    return network


def take_vgg_encoder(network: Wct2Network, weights: Mapping[str, Tensor]) -> None:
    """Copies torchvision's VGG-19 into the encoder and fixes it; conv0 becomes the normalisation of its input.

    weights: the state of `torchvision.models.vgg19`, or of its `features` alone.
    """
    with torch.no_grad():
        for name, place in VGG_FEATURES.items():
            for part in ("weight", "bias"):
                found = next(
                    (weights[k] for k in (f"features.{place}.{part}", f"{place}.{part}") if k in weights), None
                )
                target = getattr(network.encoder[name], part)
                if found is None or found.shape != target.shape:
                    raise StyleWeightsDamaged("VGG-19", f"features.{place}.{part} is missing or of another shape")
                target.copy_(found)
        std = torch.tensor(VGG_STD)
        convolution(network.encoder, "conv0").weight.copy_(torch.diag(1 / std)[:, :, None, None])
        bias = convolution(network.encoder, "conv0").bias
        assert bias is not None
        bias.copy_(-torch.tensor(VGG_MEAN) / std)
    network.encoder.requires_grad_(False)


def convolution(layers: nn.ModuleDict, name: str) -> nn.Conv2d:
    layer = layers[name]
    assert isinstance(layer, nn.Conv2d)
    return layer


def train_reconstruction(
    network: Wct2Network, images: Tensor, steps: int, batch: int, generator: Generator,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> None:  # fmt: skip
    """Trains what requires gradients to reconstruct uint8 images (N, C, H, W) through all levels, in place."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, RATE, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=max(steps, 2), pct_start=0.1)
    device = parameters[0].device
    for step in range(steps):
        index = torch.randint(len(images), (batch,), generator=generator)
        wanted = prepare(images[index].to(device).float() / 255, LEVELS)
        with torch.enable_grad():
            loss = F.mse_loss(network(wanted, LEVELS), wanted)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        on_step(step + 1, loss.item())
    network.requires_grad_(False).eval()


@torch.no_grad()
def scale_features(network: Wct2Network, images: Tensor) -> float:
    """Scales all features up until their mean variance at every level is WANTED_VARIANCE; the factor, at least 1.

    images: uint8 (N, C, H, W). ReLU networks are positively homogeneous: the first convolution and all biases times
    the factor, the last convolution divided by it, and every feature is that much larger and the output the same.
    """
    x: Tensor = prepare(images.to(next(network.parameters()).device).float() / 255, LEVELS)
    variances = []
    for level in range(1, LEVELS + 1):
        x, _ = network.encode(x, level)
        variances.append(float(x.flatten(2).var(2).mean()))
    factor = max(1.0, math.sqrt(WANTED_VARIANCE / max(min(variances), 1e-12)))
    convolution(network.encoder, "conv1_1").weight.mul_(factor)
    for layers in (network.encoder, network.decoder):
        for name in layers:
            bias = convolution(layers, name).bias
            if bias is not None and name != "conv0" and not (layers is network.decoder and name == "conv1_1"):
                bias.mul_(factor)
    convolution(network.decoder, "conv1_1").weight.div_(factor)
    return factor


@torch.no_grad()
def reconstruction_psnr(network: Wct2Network, images: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of the reconstruction of uint8 images (N, C, H, W)."""
    device = next(network.parameters()).device
    errors = []
    for chunk in torch.split(images, 64):
        wanted = prepare(chunk.to(device).float() / 255, LEVELS)
        errors.append((network(wanted, LEVELS).clamp(0, 1) - wanted).square().mean((1, 2, 3)))
    return -10 * math.log10(max(float(torch.cat(errors).mean()), 1e-12))
