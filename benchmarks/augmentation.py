"""StyleAug's views per second: batched in torch against a PIL form, one image at a time, in the same run.

    OMP_NUM_THREADS=1 python benchmarks/augmentation.py [--images 512] [--repeats 5] [--side 32]

The PIL form is AugMix's published way: the same chains, operations and blend for one image after the other, with the
style applied to that one image. Prints one JSON line; times are CPU time of the process, medians over the repeats.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable

import click
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Generator, Tensor

from repairops.config import StyleConfig
from repairops.core.augment.mixing import DEPTH, STYLE, MixingDraws, draw_mixing, mix_chains
from repairops.core.augment.operations import OPERATIONS
from repairops.core.styles import fit_style
from repairops.core.styles.base import Style

BATCH = 128


def pil_operation(image: Image.Image, name: str, level: float, sign: float) -> Image.Image:
    """AugMix's operation `name` at a drawn level of 0..10."""
    size = image.size
    if name == "autocontrast":
        return ImageOps.autocontrast(image)
    if name == "equalize":
        return ImageOps.equalize(image)
    if name == "posterize":
        return ImageOps.posterize(image, 4 - int(level * 4 / 10))
    if name == "solarize":
        return ImageOps.solarize(image, 256 - int(level * 256 / 10))
    if name == "rotate":
        return image.rotate(sign * int(level * 30 / 10), resample=Image.Resampling.BILINEAR)
    amount = {"shear_x": level * 0.3 / 10, "shear_y": level * 0.3 / 10}
    amount |= {"translate_x": int(level * size[0] / 3 / 10), "translate_y": int(level * size[1] / 3 / 10)}
    matrix = [1.0, 0, 0, 0, 1, 0]
    matrix[{"shear_x": 1, "shear_y": 3, "translate_x": 2, "translate_y": 5}[name]] = sign * amount[name]
    return image.transform(size, Image.Transform.AFFINE, tuple(matrix), resample=Image.Resampling.BILINEAR)


def pil_view(
    image: np.ndarray, draws: MixingDraws, index: int, style: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """One view of one image, uint8 (H, W, C) to float32 in 0..1."""
    mixed = np.zeros(image.shape, np.float32)
    for chain in range(draws.weights.shape[1]):
        current = image
        for place in range(DEPTH):
            operation = int(draws.operations[index, chain, place])
            if operation == STYLE:
                current = style(current)
            elif operation >= 0:
                level, sign = float(draws.levels[index, chain, place]), float(draws.signs[index, chain, place])
                current = np.asarray(pil_operation(Image.fromarray(current), OPERATIONS[operation], level, sign))
        mixed += float(draws.weights[index, chain]) * current.astype(np.float32) / 255
    blend = float(draws.blend[index])
    return blend * mixed + (1 - blend) * image.astype(np.float32) / 255


def seconds(work: Callable[[], object], repeats: int) -> float:
    spent = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return statistics.median(spent)


@click.command()
@click.option("--images", default=512, show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--side", default=32, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(images: int, repeats: int, side: int, seed: int) -> None:
    torch.set_num_threads(1)
    generator = Generator().manual_seed(seed)
    content = torch.rand(images, 3, side, side, generator=generator)
    style: Style = fit_style("fitted_degradation", content[:64] * 0.5, content, StyleConfig(), generator)
    draws = draw_mixing(images, generator, styles=5)
    references = torch.randint(0, 64, (images * 3,), generator=generator)

    def batched() -> None:
        for rows in torch.arange(images).split(BATCH):
            part = MixingDraws(*(getattr(draws, name)[rows] for name in draws.__dataclass_fields__))
            mix_chains(content[rows], part, lambda x: style.apply(x, references[: len(x)], generator))

    def one(image: np.ndarray) -> np.ndarray:
        tensor: Tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float() / 255
        styled = style.apply(tensor, references[:1], generator)[0].mul(255).round().byte()
        return styled.numpy().transpose(1, 2, 0)

    pictures = content.mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    alone = seconds(lambda: [pil_view(pictures[i], draws, i, one) for i in range(images)], repeats)
    together = seconds(batched, repeats)
    figures = {
        "images": images,
        "side": side,
        "repeats": repeats,
        "seed": seed,
        "pil_views_per_second": round(images / alone),
        "batched_views_per_second": round(images / together),
        "ratio": round(alone / together, 2),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
