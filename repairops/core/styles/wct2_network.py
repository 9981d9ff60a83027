"""WCT2's network: VGG-19 to conv4_1 with Haar wavelet pooling, and its mirror ('cat5' unpooling).

Yoo et al. 2019, section 3; parameter names and shapes are those of the public checkpoints wave_encoder_cat5_l4 and
wave_decoder_cat5_l4. At each of the levels 2, 3, 4 pooling passes LL on and hands LH, HL, HH and the feature before
pooling to the decoder, which concatenates them (cat5).
"""

from __future__ import annotations

import copy
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repairops.core.styles.haar import Bands, analyse, haar_filters, unpool
from repairops.core.styles.whitening import StyleStatistics, concatenate, style_statistics, whiten_colour

Site = Literal["encoder", "skip", "decoder"]
Unpooling = Literal["cat5", "sum"]
SITES: tuple[Site, ...] = get_args(Site)
Statistics = dict[str, StyleStatistics]  # by place, e.g. 'encoder2', 'skip3.HL', 'decoder1'
Skip = tuple[Bands, Tensor]  # bands of a feature, and the feature before pooling

ENCODER = {
    "conv1_1": (3, 64), "conv1_2": (64, 64), "conv2_1": (64, 128), "conv2_2": (128, 128), "conv3_1": (128, 256),
    "conv3_2": (256, 256), "conv3_3": (256, 256), "conv3_4": (256, 256), "conv4_1": (256, 512),
}  # fmt: skip
DECODER = {
    "conv4_1": (512, 256), "conv3_4_2": (256, 256), "conv3_3": (256, 256), "conv3_2": (256, 256),
    "conv3_1": (256, 128), "conv2_2_2": (128, 128), "conv2_1": (128, 64), "conv1_2_2": (64, 64), "conv1_1": (64, 3),
}  # fmt: skip
CAT5 = 5  # 'cat5' unpooling gives the convolution after it the four bands and the feature before pooling
# By level: the encoder's convolutions before pooling, and the one after it.
ENCODE = {2: (["conv1_2"], "conv2_1"), 3: (["conv2_2"], "conv3_1"), 4: (["conv3_2", "conv3_3", "conv3_4"], "conv4_1")}
# By level: the decoder's convolution before unpooling, and those after it.
DECODE = {
    2: ("conv2_1", ["conv1_2_2"]),
    3: ("conv3_1", ["conv2_2_2"]),
    4: ("conv4_1", ["conv3_4_2", "conv3_3", "conv3_2"]),
}


class Wct2Network(nn.Module):
    """`encoder` and `decoder` hold the public checkpoints' parameters; images float32 (B, 3, H, W) in 0..1.

    Sides are multiples of 2**(levels - 1) with at least 2 positions at the deepest level (`wct2.prepare`).

    unpooling: 'cat5' concatenates the unpooled bands and the feature before pooling; 'sum' adds the bands up, which is
    the inverse Haar transform. quick: convolutions and features in bfloat16; roots of covariances in float32.
    """

    def __init__(self, unpooling: Unpooling = "cat5", quick: bool = False) -> None:
        super().__init__()
        self.unpooling, self.quick = unpooling, quick
        wider = {name: CAT5 for name in ("conv3_4_2", "conv2_2_2", "conv1_2_2") if unpooling == "cat5"}
        self.encoder = nn.ModuleDict({"conv0": nn.Conv2d(3, 3, 1)})
        self.encoder.update({name: nn.Conv2d(*shape, 3) for name, shape in ENCODER.items()})
        self.decoder = nn.ModuleDict(
            {name: nn.Conv2d(fed * wider.get(name, 1), out, 3) for name, (fed, out) in DECODER.items()}
        )

    def frozen(self) -> Wct2Network:
        """A copy for inference alone: what `forward` makes of the weights in each call is made once."""
        copied = copy.deepcopy(self).eval().requires_grad_(False).to(memory_format=torch.channels_last)
        for layers in (copied.encoder, copied.decoder):
            for name, layer in layers.items():
                if isinstance(layer, nn.Conv2d) and name != "conv0":
                    weight, bias = copied._weights(layers, name)
                    layer.weight, layer.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        if self.unpooling == "cat5":
            for _, after in DECODE.values():
                kernels = unpooled_kernels(copied._weights(copied.decoder, after[0])[0])
                copied.register_buffer(f"{after[0]}_unpooled", kernels, persistent=False)
        return copied

    def forward(self, images: Tensor, levels: int = 4) -> Tensor:
        """Reconstruction without a transfer."""
        return self.transfer(images, {}, levels, (), 1.0)

    def encode(self, x: Tensor, level: int) -> tuple[Tensor, Skip | None]:
        """Features of one level from those of the level above (the image, for level 1), and the skip."""
        if level == 1:
            return self._relu_conv(self.encoder, "conv1_1", self.encoder["conv0"](x)), None
        before, after = ENCODE[level]
        for name in before:
            x = self._relu_conv(self.encoder, name, x)
        bands = analyse(x)
        return self._relu_conv(self.encoder, after, bands.LL), (bands, x)

    def decode(self, x: Tensor, level: int, skip: Skip | None) -> Tensor:
        """The reverse of `encode`."""
        if level == 1 or skip is None:
            return self._conv(self.decoder, "conv1_1", x)
        before, after = DECODE[level]
        bands, feature = skip
        low = self._relu_conv(self.decoder, before, x)
        pooled = Bands(low, bands.LH, bands.HL, bands.HH)
        if self.unpooling == "cat5":
            x = F.relu(self._unpooled_conv(after[0], pooled, feature))
        else:
            x = self._relu_conv(self.decoder, after[0], torch.stack(unpool(pooled)).sum(0))
        for name in after[1:]:
            x = self._relu_conv(self.decoder, name, x)
        return x

    def _unpooled_conv(self, name: str, bands: Bands, feature: Tensor) -> Tensor:
        """The convolution of the unpooled bands and the feature, without unpooling them.

        A pixel of an unpooled band is its coefficient times one of two filter taps, so a 3x3 convolution of it is a
        2x2 convolution of the coefficients, another one for each of the four positions in a block: 4 products instead
        of 9. Reflected borders of the unpooled band are repeated borders of the coefficients.
        """
        weight, bias = self._weights(self.decoder, name)
        kernels = getattr(self, f"{name}_unpooled", None)
        if kernels is None:
            kernels = unpooled_kernels(weight)
        joined = F.pad(torch.cat(bands, 1), (1, 1, 1, 1), mode="replicate")
        whole = F.conv2d(F.pad(feature, (1, 1, 1, 1), mode="reflect"), weight[:, -feature.shape[1] :], bias)
        for place, kernel in enumerate(kernels):
            row, column = divmod(place, 2)
            part = joined[..., row : joined.shape[2] - 1 + row, column : joined.shape[3] - 1 + column]
            whole[..., row::2, column::2] += F.conv2d(part, kernel)
        return whole

    def _conv(self, layers: nn.ModuleDict, name: str, x: Tensor) -> Tensor:
        """3x3 convolution with borders reflected."""
        weight, bias = self._weights(layers, name)
        return F.conv2d(F.pad(x.to(weight.dtype), (1, 1, 1, 1), mode="reflect"), weight, bias)

    def _weights(self, layers: nn.ModuleDict, name: str) -> tuple[Tensor, Tensor]:
        """In bfloat16 where `quick`, but for the layer that makes the image: its 8 bits would not outlive it."""
        layer = layers[name]
        assert isinstance(layer, nn.Conv2d)
        assert layer.bias is not None
        last = layers is self.decoder and name == "conv1_1"
        dtype = torch.bfloat16 if self.quick and not last else layer.weight.dtype
        return layer.weight.to(dtype), layer.bias.to(dtype)

    def _relu_conv(self, layers: nn.ModuleDict, name: str, x: Tensor) -> Tensor:
        return F.relu(self._conv(layers, name, x))

    def statistics(self, references: Tensor, levels: int, sites: tuple[Site, ...]) -> Statistics:
        """What the transfer at `sites` needs of references (R, 3, H, W)."""
        found: Statistics = {}
        skips: dict[int, Skip | None] = {}
        x = references
        for level in range(1, levels + 1):
            x, skips[level] = self.encode(x, level)
            if "encoder" in sites:
                found[f"encoder{level}"] = style_statistics(x)
            if "skip" in sites and (skip := skips[level]) is not None:
                for name in ("LH", "HL", "HH"):
                    found[f"skip{level}.{name}"] = style_statistics(getattr(skip[0], name))
        if "decoder" in sites:
            for level in range(levels, 1, -1):
                x = self.decode(x, level, skips[level])
                found[f"decoder{level - 1}"] = style_statistics(x)
        return found

    def transfer(
        self, content: Tensor, styles: Statistics, levels: int, sites: tuple[Site, ...], alpha: float
    ) -> Tensor:
        """Content (B, 3, H, W) in the styles of B references, not clamped to 0..1."""

        def restyle(x: Tensor, place: str) -> Tensor:
            return whiten_colour(x, styles[place], alpha) if place in styles else x

        skips: dict[int, Skip | None] = {}
        x = content
        for level in range(1, levels + 1):
            x, skip = self.encode(x, level)
            if "encoder" in sites:
                x = restyle(x, f"encoder{level}")
            if skip is not None and "skip" in sites:
                bands = skip[0]
                details = (restyle(getattr(bands, name), f"skip{level}.{name}") for name in ("LH", "HL", "HH"))
                skip = (Bands(bands.LL, *details), skip[1])
            skips[level] = skip
        for level in range(levels, 0, -1):
            if "decoder" in sites:
                x = restyle(x, f"decoder{level}")
            x = self.decode(x, level, skips[level])
        return x


def unpooled_kernels(weight: Tensor) -> Tensor:
    """2x2 kernels (4, out, 4 C, 2, 2) on the coefficients of four bands, for each of the pixels of a 2x2 block.

    weight: (out, 5 C, 3, 3) on the unpooled bands LL, LH, HL, HH and a feature.
    """
    channels = weight.shape[1] // CAT5
    low, high = haar_filters()
    kernels = []
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        parts = []
        for number, (vertical, horizontal) in enumerate((a, b) for a in (low, high) for b in (low, high)):
            own = weight[:, number * channels : (number + 1) * channels]
            rows = torch.stack(_taps(own.unbind(2), vertical, row), 2)  # (out, C, 2, 3)
            parts.append(torch.stack(_taps(rows.unbind(3), horizontal, column), 3))
        kernels.append(torch.cat(parts, 1))
    return torch.stack(kernels)


def _taps(three: tuple[Tensor, ...], taps: tuple[float, float], place: int) -> list[Tensor]:
    """Three weights on pixels place - 1, place, place + 1 as two weights on the coefficients that these belong to."""
    first, second, third = three
    if place == 0:
        return [first * taps[1], second * taps[0] + third * taps[1]]
    return [first * taps[0] + second * taps[1], third * taps[0]]


def concatenate_sites(parts: list[Statistics]) -> Statistics:
    """Statistics of all references from those of their chunks."""
    return {place: concatenate([part[place] for part in parts]) for place in parts[0]}
