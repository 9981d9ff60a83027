"""Fits a WCT2 network to a train set as `repairops style fit` does, and measures what it reconstructs and carries.

    OMP_NUM_THREADS=1 python benchmarks/style_network.py TRAIN CLEAN WEIGHTS [--steps 1000] [--minutes 6.5] [--amp on]
    OMP_NUM_THREADS=1 python benchmarks/style_network.py TRAIN CLEAN WEIGHTS --measure [--levels 4] [--picture PNG]

The first form writes WEIGHTS, a safetensors file for `style.weights`; with --measure it is only read. One JSON line
has the reconstruction of 128 clean images in dB, at 1 to 4 levels; then one for each corruption: clean images in the
style of other clean images that have the corruption at severity 4. Three figures say what of it arrives: mean
brightness, contrast (standard deviation in an image), detail (root mean square of the diagonal Haar band), each for the
content, the references and the styled images. --picture: content, then references and styled of each corruption.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from torch import Generator, Tensor

from repairops.bench.corruptions import corrupt
from repairops.config import ImagesConfig, derive_seed
from repairops.core.styles.haar import analyse
from repairops.core.styles.wct2 import build_wct2, load_weights, save_weights
from repairops.core.styles.wct2_fit import new_network, reconstruction_psnr, scale_features, train_reconstruction
from repairops.core.styles.wct2_network import Wct2Network
from repairops.data.decoding import encode_png
from repairops.data.records import ImageSet, InputSpec
from repairops.data.sets import load_image_set
from repairops.data.sources import peek_class_names
from repairops.model.device import use_bfloat16

CORRUPTIONS = ("gaussian_noise", "contrast", "fog", "defocus_blur", "motion_blur", "snow", "jpeg_compression")
SEVERITY, IMAGES, SHOWN = 4, 128, 12


def load(path: Path) -> ImageSet:
    """CIFAR-10 as a parquet file or ImageFolder."""
    spec = InputSpec(3, 32, 32, tuple(peek_class_names(path) or ()))
    return load_image_set(path, spec, ImagesConfig())


def fit(pixels: Tensor, given: argparse.Namespace) -> Wct2Network:
    """As stages/style_network.py fits it, without the registry."""
    generator = Generator().manual_seed(derive_seed(given.seed, "style network"))
    order = torch.randperm(len(pixels), generator=generator)
    network, began = new_network("cat5", generator), time.process_time()

    def say(step: int, loss: float) -> None:
        if step % 100 == 0:
            sys.stderr.write(f"step {step}, mean squared error {loss:.6f}\n")

    quick = use_bfloat16(given.amp, torch.device("cpu"))
    seen, unseen = pixels[order[IMAGES:]], pixels[order[:IMAGES]]
    steps = train_reconstruction(
        network, seen, given.steps, given.batch, generator, say, minutes=given.minutes, quick=quick
    )
    factors = scale_features(network, unseen)
    line = {
        "steps": steps,
        "batch": given.batch,
        "bfloat16": quick,
        "cpu_seconds": round(time.process_time() - began, 1),
        "factors": [round(factor, 1) for factor in factors],
    }
    sys.stdout.write(json.dumps(line) + "\n")
    return network


def figures(images: Tensor) -> list[float]:
    """Mean, contrast and detail of float (B, C, H, W) in 0..1."""
    detail = analyse(images).HH.square().mean().sqrt()
    return [round(float(value), 4) for value in (images.mean(), images.flatten(1).std(1).mean(), detail)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("train", type=Path)
    parser.add_argument("clean", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--measure", action="store_true", help="WEIGHTS are there; fit nothing.")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=0, help="Of training at most; 0 = no limit.")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--amp", choices=["auto", "on", "off"], default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    if not given.measure:
        save_weights(fit(load(given.train).pixels, given), given.weights)
    clean = load(given.clean)
    network = load_weights(str(given.weights))
    order = torch.randperm(len(clean), generator=Generator().manual_seed(given.seed))
    pixels = clean.pixels[order[: 2 * IMAGES]]
    psnr = [round(reconstruction_psnr(network, pixels[:IMAGES], levels), 2) for levels in (1, 2, 3, 4)]
    sys.stdout.write(json.dumps({"psnr": psnr, "images": IMAGES}) + "\n")
    content, others = torch.split(pixels.float() / 255, IMAGES)
    rows = [content[:SHOWN]]
    for name in CORRUPTIONS:
        references = corrupt(others, name, SEVERITY, Generator().manual_seed(given.seed))
        style = build_wct2(network, references, given.levels)
        styled = style.apply(content, torch.arange(IMAGES), Generator())
        of = {"content": figures(content), "references": figures(references), "styled": figures(styled)}
        sys.stdout.write(json.dumps({"corruption": name, "levels": given.levels} | of) + "\n")
        rows += [references[:SHOWN], styled[:SHOWN]]
    if given.picture:
        grid = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
        given.picture.write_bytes(encode_png((grid.clamp(0, 1) * 255).round().byte()))


if __name__ == "__main__":
    main()
