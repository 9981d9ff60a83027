"""General corruptions that no repair was asked for: does the challenger still stand them as the champion does?

Milder and fewer than a benchmark's: five that a camera or a transport meets, each at one strength. Their counts are
evidence for the gate's check `corruptions`; they are no measure to compare with published tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from repairops.config import derive_seed
from repairops.data.records import ImageSet
from repairops.gate.evidence import PairedCounts
from repairops.model.evaluation import paired_counts, predict
from repairops.model.network import Classifier, from_unit, to_unit

_CHUNK = 512


def noise(images: Tensor, generator: Generator) -> Tensor:
    """Gaussian noise, standard deviation 0.04 of the range."""
    return images + 0.04 * torch.randn(images.shape, generator=generator)


def blur(images: Tensor, generator: Generator) -> Tensor:
    """A binomial kernel of 3x3 pixels (standard deviation 0.7 pixels), borders reflected."""
    channels = images.shape[1]
    line = torch.tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(line, line).expand(channels, 1, 3, 3)
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=channels)


def contrast(images: Tensor, generator: Generator) -> Tensor:
    """Three quarters of each image's contrast about its own mean."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + 0.75 * (images - mean)


def brightness(images: Tensor, generator: Generator) -> Tensor:
    """A tenth of the range brighter."""
    return images + 0.1


def resampled(images: Tensor, generator: Generator) -> Tensor:
    """Reduced to seven eighths of each side by averaging, and enlarged again bilinearly."""
    height, width = images.shape[2:]
    small = F.adaptive_avg_pool2d(images, (max(1, 7 * height // 8), max(1, 7 * width // 8)))
    return F.interpolate(small, (height, width), mode="bilinear", align_corners=False)


# Images float32 (N, C, H, W) in 0..1 and a generator to the same; the caller clamps to 0..1.
CORRUPTIONS: Mapping[str, Callable[[Tensor, Generator], Tensor]] = {
    "noise": noise,
    "blur": blur,
    "contrast": contrast,
    "brightness": brightness,
    "resampled": resampled,
}


def corrupted_counts(
    champion: Classifier,
    challenger: Classifier,
    images: ImageSet,
    *,
    limit: int,
    seed: int,
    device: str | torch.device = "cpu",
) -> dict[str, PairedCounts]:
    """Both networks on the same corrupted images, by corruption.

    limit: at most so many images, drawn without replacement; 0 = all. The cost is that of ten evaluations of these.
    """
    order = np.random.default_rng(derive_seed(seed, "corruptions")).permutation(len(images))
    part = images.subset(np.sort(order[: limit or None]))
    found = {}
    for name, corruption in CORRUPTIONS.items():
        generator = Generator().manual_seed(derive_seed(seed, "corruptions", name))
        chunks = torch.split(part.pixels, _CHUNK)
        pixels = torch.cat([from_unit(corruption(to_unit(chunk), generator)) for chunk in chunks])
        right = [predict(network, pixels, part.labels, device=device).right for network in (champion, challenger)]
        found[name] = paired_counts(*right)
    return found
