"""The subject networks of the paper, and small forms that a CPU trains in minutes.

Each takes float images (N, C, H, W) to logits (N, classes); the recurrent ones those of the size they were built for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repairops.data.records import InputSpec
from repairops.errors import InvalidOption, listing


class Pooled(nn.Module):
    """Convolutions, one figure for each of their channels, and a linear layer of these."""

    def __init__(self, features: list[nn.Module], width: int, classes: int, *, brightest: bool = False) -> None:
        super().__init__()
        self.features, self.brightest = nn.Sequential(*features), brightest
        self.classifier = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)
        logits: Tensor = self.classifier(maps.amax((2, 3)) if self.brightest else maps.mean((2, 3)))
        return logits


def all_conv_net(channels: int, classes: int, width: int = 96, dropout: float = 0.5) -> Pooled:
    """AugMix's form of the All-CNN (1,409,674 parameters at width 96, for 3 channels and 10 classes).

    Differs from AugMix's code: its 1x1 layers are padded and only a corner of what results is averaged.
    """
    wide = 2 * width
    features = [
        *_gelu_layer(channels, width, 3, 1),
        *_gelu_layer(width, width, 3, 1),
        *_gelu_layer(width, width, 3, 1),
        nn.MaxPool2d(2),
        nn.Dropout(dropout),
        *_gelu_layer(width, wide, 3, 1),
        *_gelu_layer(wide, wide, 3, 1),
        *_gelu_layer(wide, wide, 3, 1),
        nn.MaxPool2d(2),
        nn.Dropout(dropout),
        *_gelu_layer(wide, wide, 3, 0),
        *_gelu_layer(wide, wide, 1, 0),
        *_gelu_layer(wide, wide, 1, 0),
    ]
    return Pooled(features, wide, classes)


def _gelu_layer(inputs: int, outputs: int, kernel: int, padding: int, *, bias: bool = True) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=bias), nn.BatchNorm2d(outputs), nn.GELU()


def pooled_conv_net(channels: int, classes: int, widths: tuple[int, ...] = (64, 256, 256)) -> Pooled:
    """Not the paper's: convolutions alone, like `all_conv_net`, that halve the side early (1,972,802 parameters).

    Each stage pools right behind its first convolution, so nine tenths of the computing happen at half of the side or
    below, where a CPU gets through many more images.
    """
    width = 24
    parts: list[nn.Module] = [nn.Conv2d(channels, width, 2), nn.GELU()]
    for outputs in widths:
        parts += [nn.Conv2d(width, outputs, 3, padding=1, bias=False), nn.MaxPool2d(2)]
        parts += [nn.BatchNorm2d(outputs), nn.GELU(), *_gelu_layer(outputs, outputs, 3, 1, bias=False)]
        width = outputs
    return Pooled(parts, width, classes, brightest=True)


def dense_net(channels: int, classes: int, depth: int = 40, growth: int = 12) -> Pooled:
    """DenseNet of three blocks without bottlenecks (1,059,298 parameters at depth 40 and growth 12)."""
    layers, width = (depth - 4) // 3, 2 * growth
    parts: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=False)]
    for block in range(3):
        for _ in range(layers):
            parts.append(DenseLayer(width, growth))
            width += growth
        if block < 2:
            parts += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1, bias=False), nn.AvgPool2d(2)]
    return Pooled([*parts, nn.BatchNorm2d(width), nn.ReLU()], width, classes)


class DenseLayer(nn.Module):
    """Its input with `growth` more channels."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.convolution = nn.Conv2d(width, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.convolution(F.relu(self.norm(x)))), 1)


def wide_res_net(channels: int, classes: int, depth: int = 40, width: int = 2) -> Pooled:
    """Wide residual network with pre-activation (2,243,546 parameters at depth 40 and width 2)."""
    blocks, inputs = (depth - 4) // 6, 16
    parts: list[nn.Module] = [nn.Conv2d(channels, inputs, 3, padding=1, bias=False)]
    for stage in range(3):
        outputs = 16 * width * 2**stage
        for block in range(blocks):
            parts.append(WideBlock(inputs, outputs, 2 if stage and not block else 1))
            inputs = outputs
    return Pooled([*parts, nn.BatchNorm2d(inputs), nn.ReLU()], inputs, classes)


class WideBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.convolution_1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.convolution_2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        changes = inputs != outputs or stride != 1
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm_1(x))
        residual: Tensor = self.convolution_2(F.relu(self.norm_2(self.convolution_1(active))))
        return residual + (x if self.shortcut is None else self.shortcut(active))


def small_res_net(channels: int, classes: int, width: int = 32) -> Pooled:
    """Not the paper's: three stages at a half, a quarter and an eighth of the side, one residual block in each.

    0.48 million parameters at width 32: the network on which a CPU tries things out.
    """
    features = [
        *_relu_layer(channels, width, 4, 2),
        SmallBlock(width),
        *_relu_layer(width, 2 * width, 3, 2),
        SmallBlock(2 * width),
        *_relu_layer(2 * width, 4 * width, 3, 2),
        SmallBlock(4 * width),
    ]
    return Pooled(features, 4 * width, classes)


class SmallBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_relu_layer(width, width, 3, 1), *_relu_layer(width, width, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]


def _relu_layer(inputs: int, outputs: int, kernel: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, 1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()


class RowLstm(nn.Module):
    """One LSTM layer over an image's rows, and two fully-connected layers.

    The paper gives no widths. 232 and 384 without biases in the LSTM are the round ones that make up its count
    (397,706 parameters for 3 channels, 32 pixels and 10 classes).
    """

    def __init__(self, channels: int, width: int, classes: int, hidden: int = 232, dense: int = 384) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels * width, hidden, bias=False, batch_first=True)
        self.head = nn.Sequential(nn.Linear(hidden, dense), nn.ReLU(), nn.Linear(dense, classes))

    def forward(self, images: Tensor) -> Tensor:
        rows = images.transpose(1, 2).flatten(2)  # (N, H, C * W)
        logits: Tensor = self.head(self.lstm(rows)[0][:, -1])
        return logits


class ReNet(nn.Module):
    """Patches of 2x2 pixels, swept by two LSTMs in columns and two in rows, then two fully-connected layers.

    Source: Visin et al., ReNet (2015), with one sweep. The paper's count of 67,153,930 parameters is, to the last
    one, that of two fully-connected layers 16,384 -> 4,096 -> 10 alone: a sweep of 32 units each way gives those
    16,384 values at 32x32, but its own weights are not in the count. So with `trained_sweeps` unset they keep their
    random initial values, which makes the count that of all trained parameters.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        classes: int,
        hidden: int = 32,
        dense: int = 4096,
        trained_sweeps: bool = False,
    ) -> None:
        super().__init__()
        self.patches = nn.PixelUnshuffle(2)
        self.vertical = nn.LSTM(4 * channels, hidden, batch_first=True, bidirectional=True)
        self.horizontal = nn.LSTM(2 * hidden, hidden, batch_first=True, bidirectional=True)
        for sweep in (self.vertical, self.horizontal):
            sweep.requires_grad_(trained_sweeps)
        values = (height // 2) * (width // 2) * 2 * hidden
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(values, dense), nn.ReLU(), nn.Linear(dense, classes))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images)  # (N, 4 * C, H / 2, W / 2)
        count, _, height, width = patches.shape
        columns = patches.permute(0, 3, 2, 1).flatten(0, 1)
        down = self.vertical(columns)[0].view(count, width, height, -1)
        rows = down.transpose(1, 2).flatten(0, 1)
        logits: Tensor = self.head(self.horizontal(rows)[0].reshape(count, -1))
        return logits


@dataclass(frozen=True)
class Subject:
    """build: from the input specification to a fresh network. parameters: trained ones, at 3x32x32 and 10 classes.

    learning_rate: the peak of the one-cycle schedule that trains a champion, for batches of 128 images. The first five
    stand in the paper's tables by these names.
    """

    build: Callable[[InputSpec], nn.Module]
    parameters: int
    learning_rate: float


NETWORKS: dict[str, Subject] = {
    "allconvnet": Subject(lambda s: all_conv_net(s.channels, s.classes), 1_409_674, 0.1),
    "densenet": Subject(lambda s: dense_net(s.channels, s.classes), 1_059_298, 0.2),
    "wideresnet": Subject(lambda s: wide_res_net(s.channels, s.classes), 2_243_546, 0.2),
    "lstm": Subject(lambda s: RowLstm(s.channels, s.width, s.classes), 397_706, 0.1),
    "renet": Subject(lambda s: ReNet(s.channels, s.height, s.width, s.classes), 67_153_930, 0.02),
    "resnet_small": Subject(lambda s: small_res_net(s.channels, s.classes), 483_402, 0.25),
    "resnet_tiny": Subject(lambda s: small_res_net(s.channels, s.classes, 8), 31_002, 0.25),
    "allconvnet_small": Subject(lambda s: all_conv_net(s.channels, s.classes, 24, 0.1), 89_770, 0.1),
    "allconvnet_pooled": Subject(lambda s: pooled_conv_net(s.channels, s.classes), 1_972_802, 0.2),
    "densenet_small": Subject(lambda s: dense_net(s.channels, s.classes, 16, 8), 64_026, 0.2),
    "wideresnet_16": Subject(lambda s: wide_res_net(s.channels, s.classes, 16), 691_674, 0.2),
    "wideresnet_16_8": Subject(lambda s: wide_res_net(s.channels, s.classes, 16, 8), 10_961_370, 0.2),
    "wideresnet_small": Subject(lambda s: wide_res_net(s.channels, s.classes, 10, 1), 77_850, 0.2),
    "lstm_small": Subject(lambda s: RowLstm(s.channels, s.width, s.classes, 96, 64), 80_586, 0.1),
    "renet_small": Subject(
        lambda s: ReNet(s.channels, s.height, s.width, s.classes, 16, 64, trained_sweeps=True), 535_242, 0.05
    ),
}


def build_network(name: str, spec: InputSpec, seed: int) -> nn.Module:
    """A fresh network with initial weights of this seed. Raises InvalidOption for an unknown name."""
    if name not in NETWORKS:
        raise InvalidOption("network", name, f"one of {listing(NETWORKS, 20)}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return NETWORKS[name].build(spec)
