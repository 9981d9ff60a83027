"""LSTM and ReNet: float images (N, C, H, W) of the size they were built for, to logits (N, classes)."""

from __future__ import annotations

from torch import Tensor, nn


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
