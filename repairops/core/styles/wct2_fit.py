"""A WCT2 network of one's own: what its training starts from, and the training to reconstruct at all numbers of levels.

Plain He weights would reconstruct through the shallow skips alone, and not at all at fewer levels than trained. The
'looks-linear' start (Balduzzi et al. 2017, "The Shattered Gradients Problem", section 4) carries every signal as its
positive and its negative part, so that ReLU loses nothing, and uses orthogonal filters (Saxe et al. 2014): the first
layer is an orthonormal basis of 3x3 colour patches, whose covariance holds colours, contrast, blur and noise; the
other encoder layers embed; the decoder layers are their transposes. A share of He weights makes the features differ.

The '+I' of the transform (whitening.py) assumes features of large variance, as VGG's are; a small-scaled encoder would
only tint. The network is positively homogeneous, so its features are scaled up without changing what it reconstructs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from repairops.core.styles.wct2 import prepare
from repairops.core.styles.wct2_network import CAT5, DECODE, DECODER, ENCODE, ENCODER, Unpooling, Wct2Network
from repairops.errors import StyleWeightsDamaged

VGG_FEATURES = dict(zip(ENCODER, (0, 2, 5, 7, 10, 12, 14, 16, 19), strict=True))  # torchvision's places of the layers
VGG_MEAN, VGG_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HE_SHARE = 0.1  # of the weights' energy
WANTED_VARIANCE = 100.0  # least mean variance of the features at each level, against the I that is added
LEVELS = 4
TRAINED_LEVELS = (4, 2, 4, 1, 4, 3)  # step by step, so that any `style.levels` reconstructs
RATE = 1e-3
WARM_UP = 0.1  # of the training
CROP = 32  # pixels; larger images are trained on in random crops


def new_network(unpooling: Unpooling, generator: Generator) -> Wct2Network:
    """A network that reconstructs before it is trained, but for the He weights that are mixed in; all to be trained."""
    network = Wct2Network(unpooling)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.encoder.get_parameter("conv0.weight").copy_(torch.eye(3)[:, :, None, None])
        for (name, (fed, out)), mirror in zip(ENCODER.items(), reversed(DECODER), strict=True):
            decoding = network.decoder.get_parameter(f"{mirror}.weight")
            if name == "conv1_1":
                forward = orthonormal(out // 2, 9 * fed, generator).view(out // 2, fed, 3, 3)
                back = forward.flip(2, 3).transpose(0, 1) / 9  # the mean of the 9 patches that hold a pixel
                encoding_start, decoding_start = torch.cat([forward, -forward]), torch.cat([back, -back], 1)
            else:
                basis = orthonormal(out // 2, fed // 2, generator)
                encoding_start, decoding_start = signed(centred(basis)), signed(centred(basis.T))
                if decoding.shape[1] == CAT5 * out:  # the four bands sum up; the feature before pooling adds nothing
                    decoding_start = torch.cat([*[decoding_start] * 4, torch.zeros_like(decoding_start)], 1)
            network.encoder.get_parameter(f"{name}.weight").copy_(mixed(encoding_start, generator))
            decoding.copy_(mixed(decoding_start, generator))
    return network


def orthonormal(rows: int, columns: int, generator: Generator) -> Tensor:
    """A random matrix (rows, columns), rows >= columns, whose columns are orthonormal."""
    basis: Tensor = torch.linalg.qr(torch.randn(rows, columns, generator=generator))[0]
    return basis


def centred(matrix: Tensor) -> Tensor:
    """(out, in) as 3x3 kernels that are zero but in the middle."""
    return F.pad(matrix[:, :, None, None], (1, 1, 1, 1))


def signed(kernels: Tensor) -> Tensor:
    """Kernels (out, in, 3, 3) on signed features as (2 out, 2 in, 3, 3) on their positive and negative parts."""
    return torch.cat([torch.cat([kernels, -kernels], 1), torch.cat([-kernels, kernels], 1)])


def mixed(kernels: Tensor, generator: Generator) -> Tensor:
    """With HE_SHARE of He-initialised weights."""
    drawn = torch.randn(kernels.shape, generator=generator) * math.sqrt(2 / kernels[0].numel())
    return math.sqrt(1 - HE_SHARE) * kernels + math.sqrt(HE_SHARE) * drawn


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
        network.encoder.get_parameter("conv0.weight").copy_(torch.diag(1 / std)[:, :, None, None])
        network.encoder.get_parameter("conv0.bias").copy_(-torch.tensor(VGG_MEAN) / std)
    network.encoder.requires_grad_(False)


def train_reconstruction(
    network: Wct2Network, images: Tensor, steps: int, batch: int, generator: Generator,
    on_step: Callable[[int, float], None] = lambda step, loss: None, *, minutes: float = 0, quick: bool = False,
) -> int:  # fmt: skip
    """Trains what requires gradients to reconstruct uint8 images (N, C, H, W), in place; the steps that were made.

    minutes: ends there if that comes before `steps`, with the learning rate lowered in time; 0 = no limit. quick:
    convolves in bfloat16 while it trains. The squared error of the image in 0..1 is the loss.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, RATE, weight_decay=0)
    device, before, began = parameters[0].device, network.quick, time.monotonic()
    network.quick = quick
    made = 0
    while made < steps:
        elapsed = (time.monotonic() - began) / (60 * minutes) if minutes else 0.0
        if elapsed >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(max(made / steps, elapsed))
        levels = TRAINED_LEVELS[made % len(TRAINED_LEVELS)]
        wanted = prepare(draw_crops(images, batch, generator).to(device).float() / 255, LEVELS)
        with torch.enable_grad():
            loss = F.mse_loss(network(wanted, levels), wanted)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        made += 1
        on_step(made, loss.item())
    network.quick = before
    network.requires_grad_(False).eval()
    return made


def learning_rate(progress: float) -> float:
    """Rises over the first tenth, then falls to zero along a cosine. progress: 0..1."""
    if progress < WARM_UP:
        return RATE * (0.1 + 0.9 * progress / WARM_UP)
    return RATE * 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def draw_crops(images: Tensor, count: int, generator: Generator) -> Tensor:
    """`count` images, drawn with replacement, cut to at most CROP x CROP at one place drawn for them all."""
    index = torch.randint(len(images), (count,), generator=generator)
    top, left = (
        int(torch.randint(max(side - CROP, 0) + 1, (1,), generator=generator)) for side in images.shape[2:]
    )  # fmt: skip
    return images[index, :, top : top + CROP, left : left + CROP]


@torch.no_grad()
def scale_features(network: Wct2Network, images: Tensor) -> list[float]:
    """Scales each level's features until their mean variance is WANTED_VARIANCE; the factors, each at least 1.

    images: uint8 (N, C, H, W). ReLU networks are positively homogeneous: where a layer's weights and bias are
    multiplied by what its output shall grow by, and divided by what its input has grown by, the result is the same.
    Each level has its own factor: with one for all, the level of least variance would set it, and the others' would
    exceed what float32 can resolve beside the identity.
    """
    x: Tensor = prepare(images.to(next(network.parameters()).device).float() / 255, LEVELS)
    factors = []
    for level in range(1, LEVELS + 1):
        x, _ = network.encode(x, level)
        variance = float(x.flatten(2).var(2).mean())
        factors.append(max(1.0, math.sqrt(WANTED_VARIANCE / max(variance, 1e-12))))
    first, encoder, decoder = factors[0], network.encoder, network.decoder
    encoder.get_parameter("conv1_1.weight").mul_(first)
    encoder.get_parameter("conv1_1.bias").mul_(first)
    decoder.get_parameter("conv1_1.weight").div_(first)
    for level in range(2, LEVELS + 1):
        above, here = factors[level - 2 : level]
        up, down = ENCODE[level], DECODE[level]
        encoder.get_parameter(f"{up[1]}.weight").mul_(here / above)
        encoder.get_parameter(f"{up[1]}.bias").mul_(here)
        decoder.get_parameter(f"{down[0]}.weight").mul_(above / here)
        for layers, names in ((encoder, up[0]), (decoder, [down[0], *down[1]])):
            for name in names:
                layers.get_parameter(f"{name}.bias").mul_(above)
    return factors


@torch.no_grad()
def reconstruction_psnr(network: Wct2Network, images: Tensor, levels: int = LEVELS) -> float:
    """Peak signal-to-noise ratio in dB of the reconstruction of uint8 images (N, C, H, W) through `levels`."""
    device = next(network.parameters()).device
    errors = []
    for chunk in torch.split(images, 64):
        wanted = prepare(chunk.to(device).float() / 255, levels)
        errors.append((network(wanted, levels).clamp(0, 1) - wanted).square().mean((1, 2, 3)))
    return -10 * math.log10(max(float(torch.cat(errors).mean()), 1e-12))


def poorest_psnr(network: Wct2Network, images: Tensor) -> float:
    """The least of `reconstruction_psnr` over all numbers of levels, dB."""
    return min(reconstruction_psnr(network, images, levels) for levels in range(1, LEVELS + 1))
