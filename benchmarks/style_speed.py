"""Speed of all styles in one run, and of WCT2 against a form that takes one image at a time.

    OMP_NUM_THREADS=1 python benchmarks/style_speed.py [--side 32] [--batch 64] [--repeats 3] [--device cpu] [--wct2]

Random smooth images; WCT2 with random weights, four levels, all sites. On the CPU times are CPU time of the process,
so that other load does not count; on a GPU they are wall time after synchronising. The best of the repeats counts.
Prints one JSON line for each form: images a second.

The one-image form of WCT2 takes the same network: statistics of the reference anew for each image, whole covariances
with their singular values, as published. `convolutions` is the network without any transfer: the floor. The last lines
are microseconds for one inverse root (I + G)^(-1/2), by `eigh` (the product's way on a CPU) and by Newton-Schulz (on a
GPU).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad, relu

from repairops.config import StyleConfig
from repairops.core.styles import STYLES, Style, fit_style
from repairops.core.styles.haar import Bands, unpool
from repairops.core.styles.wct2 import Wct2, build_wct2, prepare
from repairops.core.styles.wct2_network import DECODE, Skip, Wct2Network
from repairops.core.styles.whitening import inverse_root_by_eigenvalues, inverse_root_by_newton_schulz


def images(count: int, side: int, seed: int) -> Tensor:
    draw = Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=draw)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    return (smooth + 0.05 * torch.randn(count, 3, side, side, generator=draw)).clamp(0, 1)


def random_network() -> Wct2Network:
    network, draw = Wct2Network(), Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            drawn = torch.randn(parameter.shape, generator=draw) * (2 / parameter[0].numel()) ** 0.5
            parameter.copy_(torch.zeros_like(parameter) if name.endswith("bias") else drawn)
        network.encoder["conv0"].weight.mul_(3)  # type: ignore[operator]
    return network.eval().requires_grad_(False)


def published(content: Tensor, style: Tensor) -> Tensor:
    """Whitening and colouring of one feature (1, C, H, W) by singular values of whole covariances."""

    def parts(features: Tensor, power: float) -> tuple[Tensor, Tensor, Tensor]:
        flat = features[0].flatten(1)
        mean = flat.mean(1, keepdim=True)
        covariance = (flat - mean) @ (flat - mean).T / (flat.shape[1] - 1)
        left, values, _ = torch.linalg.svd(covariance + torch.eye(len(flat), device=flat.device))
        return flat - mean, mean, left * values.pow(power) @ left.T

    centred, _, whitening = parts(content, -0.5)
    _, mean, colouring = parts(style, 0.5)
    moved = colouring @ (whitening @ centred) + mean
    return moved.clamp(content.min(), content.max()).view_as(content)


def decode(network: Wct2Network, x: Tensor, level: int, skip: Skip | None) -> Tensor:
    """As published: bands unpooled and concatenated."""
    if level == 1 or skip is None:
        return network.decode(x, level, None)
    before, after = DECODE[level]
    low = relu(conv(network.decoder[before], x))
    x = torch.cat([*unpool(Bands(low, *skip[0][1:])), skip[1]], 1)
    for name in after:
        x = relu(conv(network.decoder[name], x))
    return x


def conv(layer: torch.nn.Module, x: Tensor) -> Tensor:
    filtered: Tensor = layer(pad(x, (1, 1, 1, 1), mode="reflect"))
    return filtered


@torch.no_grad()
def one_image(network: Wct2Network, content: Tensor, reference: Tensor, levels: int = 4) -> Tensor:
    x, y = content, reference
    skips = {}
    for level in range(1, levels + 1):
        (x, skip), (y, other) = network.encode(x, level), network.encode(y, level)
        x = published(x, y)
        if skip is not None and other is not None:
            details = [published(a, b) for a, b in zip(skip[0][1:], other[0][1:], strict=True)]
            skip = (Bands(skip[0].LL, *details), skip[1])
        skips[level] = (skip, other)
    for level in range(levels, 0, -1):
        x = published(x, y) if level < levels else x
        x, y = decode(network, x, level, skips[level][0]), decode(network, y, level, skips[level][1])
    return x.clamp(0, 1)


def roots(size: int, condition: float, repeats: int, device: torch.device) -> dict[str, object]:
    """Microseconds a matrix and largest error against float64, for 32 matrices with eigenvalues from 1 to condition."""
    draw = Generator().manual_seed(size)
    basis = torch.linalg.qr(torch.randn(32, size, size, generator=draw, dtype=torch.float64))[0]
    values = torch.logspace(0, math.log10(condition), size, dtype=torch.float64)
    matrices = ((basis * values) @ basis.transpose(1, 2)).float().to(device)
    exact = ((basis * values.rsqrt()) @ basis.transpose(1, 2)).to(device)
    line: dict[str, object] = {"root_of": size, "condition": condition}
    for name, solve in (
        ("by_eigenvalues", inverse_root_by_eigenvalues),
        ("by_newton_schulz", inverse_root_by_newton_schulz),
    ):
        line[name] = round(1e6 / rate(partial(solve, matrices), 32, repeats, device), 1)
        line[f"{name}_error"] = float((solve(matrices) - exact).abs().max())
    return line


def apply(style: Style, content: Tensor, order: Tensor) -> Tensor:
    return style.apply(content, order, Generator().manual_seed(0))


@torch.no_grad()
def convolve(style: Wct2, content: Tensor) -> None:
    """The network without a transfer, in the chunks that the style takes."""
    for chunk in content.split(style.images_at_once(content)):
        style.network(prepare(chunk, style.levels), style.levels)


def rate(work: Callable[[], object], count: int, repeats: int, device: torch.device) -> float:
    """Images a second, the best of the repeats after one warm-up."""
    work()
    best = float("inf")
    for _ in range(repeats):
        began = now(device)
        work()
        best = min(best, now(device) - began)
    return count / best


def now(device: torch.device) -> float:
    """Seconds: of CPU time on the CPU, by the clock on a GPU, once it has done what it was given."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--wct2", action="store_true", help="Only WCT2.")
    given = parser.parse_args()
    device = torch.device(given.device)
    kind = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{platform.machine()}, {torch.get_num_threads()} thread"
    )
    content, references = (images(given.batch, given.side, seed).to(device) for seed in (1, 2))
    order = torch.arange(given.batch, device=device)

    def say(form: str, value: float, **more: object) -> None:
        line = {
            "form": form,
            "images_per_second": round(value, 1),
            "side": given.side,
            "batch": given.batch,
            "device": kind,
        }
        sys.stdout.write(json.dumps(line | more) + "\n")
        sys.stdout.flush()

    if not given.wct2:
        clean = images(400, given.side, 3).to(device)
        noisy = (
            0.6 * references + 0.1 * torch.randn(references.shape, generator=Generator().manual_seed(4)).to(device)
        ).clamp(0, 1)
        for name in STYLES:
            if name != "wct2":
                began = now(device)
                style = fit_style(name, noisy, clean, StyleConfig(), Generator().manual_seed(0))
                fitted = now(device) - began
                value = rate(partial(apply, style, content, order), given.batch, given.repeats, device)
                say(name, value, fit_seconds=round(fitted, 2))
    network = random_network().to(device)
    few = min(4, given.batch)
    alone = rate(
        lambda: [one_image(network, content[i : i + 1], references[i : i + 1]) for i in range(few)],
        few,
        given.repeats,
        device,
    )
    say("wct2, one image at a time", alone)
    exact = torch.cat([one_image(network, content[i : i + 1], references[i : i + 1]) for i in range(few)])
    for quick in (False, True):
        network.quick = quick
        style = build_wct2(network, references)
        value = rate(partial(apply, style, content, order), given.batch, given.repeats, device)
        floor = rate(partial(convolve, style, content), given.batch, given.repeats, device)
        difference = (style.apply(content[:few], order[:few], Generator()) - exact).abs().max()
        name = "bfloat16" if quick else "float32"
        say(f"wct2, batched, {name} convolutions", value, times=round(value / alone, 1), difference=float(difference))
        say(f"convolutions alone, {name}", floor, transfer_share=round(1 - value / floor, 2))
    for size in (16, 64, 128):
        for condition in (30.0, 1000.0):
            sys.stdout.write(json.dumps(roots(size, condition, given.repeats, device)) + "\n")


if __name__ == "__main__":
    main()
