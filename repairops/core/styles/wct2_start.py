"""What the training of a WCT2 network starts from: an autoencoder that is nearly exact already, or VGG-19's encoder.

Plain He weights would reconstruct through the shallow skips alone, and not at all at fewer levels than trained. The
'looks-linear' start (Balduzzi et al. 2017, "The Shattered Gradients Problem", section 4) carries every signal as its
positive and its negative part, so that ReLU loses nothing, and uses orthogonal filters (Saxe et al. 2014): the first
layer is an orthonormal basis of 3x3 colour patches, whose covariance holds colours, contrast, blur and noise; the
other encoder layers embed; the decoder layers are their transposes. A share of He weights makes the features differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn

from repairops.core.styles.wct2_network import CAT5, DECODER, ENCODER, Unpooling, Wct2Network
from repairops.errors import StyleWeightsDamaged

VGG_FEATURES = dict(zip(ENCODER, (0, 2, 5, 7, 10, 12, 14, 16, 19), strict=True))  # torchvision's places of the layers
VGG_MEAN, VGG_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HE_SHARE = 0.1  # of the weights' energy


def new_network(unpooling: Unpooling, generator: Generator) -> Wct2Network:
    """A network that reconstructs before it is trained, but for the He weights that are mixed in; all to be trained."""
    network = Wct2Network(unpooling)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        convolution(network.encoder, "conv0").weight.copy_(torch.eye(3)[:, :, None, None])
        for (name, (fed, out)), mirror in zip(ENCODER.items(), reversed(DECODER), strict=True):
            decoding = convolution(network.decoder, mirror).weight
            if name == "conv1_1":
                forward = orthonormal(out // 2, 9 * fed, generator).view(out // 2, fed, 3, 3)
                back = forward.flip(2, 3).transpose(0, 1) / 9  # the mean of the 9 patches that hold a pixel
                encoding_start, decoding_start = torch.cat([forward, -forward]), torch.cat([back, -back], 1)
            else:
                basis = orthonormal(out // 2, fed // 2, generator)
                encoding_start, decoding_start = signed(centred(basis)), signed(centred(basis.T))
                if decoding.shape[1] == CAT5 * out:  # the four bands sum up; the feature before pooling adds nothing
                    decoding_start = torch.cat([*[decoding_start] * 4, torch.zeros_like(decoding_start)], 1)
            convolution(network.encoder, name).weight.copy_(mixed(encoding_start, generator))
            decoding.copy_(mixed(decoding_start, generator))
    return network


def orthonormal(rows: int, columns: int, generator: Generator) -> Tensor:
    """A random matrix (rows, columns), rows >= columns, whose columns are orthonormal."""
    basis: Tensor = torch.linalg.qr(torch.randn(rows, columns, generator=generator))[0]
    return basis


def centred(matrix: Tensor) -> Tensor:
    """(out, in) as 3x3 kernels that are zero but in the middle."""
    return nn.functional.pad(matrix[:, :, None, None], (1, 1, 1, 1))


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
        convolution(network.encoder, "conv0").weight.copy_(torch.diag(1 / std)[:, :, None, None])
        bias_of(network.encoder, "conv0").copy_(-torch.tensor(VGG_MEAN) / std)
    network.encoder.requires_grad_(False)


def convolution(layers: nn.ModuleDict, name: str) -> nn.Conv2d:
    layer = layers[name]
    assert isinstance(layer, nn.Conv2d)
    return layer


def bias_of(layers: nn.ModuleDict, name: str) -> Tensor:
    bias = convolution(layers, name).bias
    assert bias is not None
    return bias
