"""Fitting the network of the style wct2 to a train set, and keeping it in MLflow."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from repairops.config import Config, derive_seed
from repairops.core.styles.wct2 import save_weights
from repairops.core.styles.wct2_fit import (
    new_network,
    poorest_psnr,
    scale_features,
    take_vgg_encoder,
    train_reconstruction,
)
from repairops.core.styles.wct2_network import Unpooling
from repairops.errors import StyleNetworkPoor, StyleNotFittable, StyleWeightsDamaged
from repairops.model.device import resolve_device, use_bfloat16
from repairops.stages.field import fetch_trained
from repairops.store.connection import connect
from repairops.store.models import resolve_model
from repairops.store.styles import FILE, LoggedStyle, log_style

UNSEEN = 256  # images that only measure the reconstruction, at most a tenth
SAY_EVERY = 100  # steps

log = logging.getLogger("repairops")


@dataclass(frozen=True)
class NetworkFit:
    """How a network is fitted; the options of `repairops style fit`."""

    encoder: Literal["trained", "vgg19"]
    vgg: Path | None  # VGG-19's state, which then is the encoder; None: as torchvision fetches it
    unpooling: Unpooling
    steps: int
    minutes: float  # of the training at most; 0 = no limit
    batch_size: int
    amp: Literal["auto", "on", "off"]  # bfloat16, as `training.amp`
    least_psnr: float  # dB
    seed: int
    device: str


def fit_network(model: str, train_set: str | Path | None, fit: NetworkFit, tracking_uri: str | None) -> LoggedStyle:
    """An encoder and decoder that reconstruct the train set of `model`, logged as one safetensors file.

    Raises StyleNetworkPoor where images that it did not see are reconstructed at less than `fit.least_psnr` dB
    through any number of levels, StyleWeightsDamaged, and what loading a train set may.
    """
    encoder = "vgg19" if fit.vgg else fit.encoder
    client = connect(tracking_uri)
    _, images = fetch_trained(client, resolve_model(model, client), train_set, Config())
    if len(images) < 20:
        raise StyleNotFittable("train set", f"it has {len(images)} images", "Give at least 20")
    generator = torch.Generator().manual_seed(derive_seed(fit.seed, "style network"))
    order = torch.randperm(len(images), generator=generator)
    held = min(UNSEEN, len(images) // 10)
    network = new_network(fit.unpooling, generator)
    if encoder == "vgg19":
        take_vgg_encoder(network, vgg_weights(fit.vgg))
    on = resolve_device(fit.device)
    network.to(on)

    def say(step: int, loss: float) -> None:
        if step % SAY_EVERY == 0 or step == fit.steps:
            log.info("step %d of at most %d, mean squared error %.5f", step, fit.steps, loss)

    seen = images.pixels[order[held:]]
    quick = use_bfloat16(fit.amp, on)
    train_reconstruction(network, seen, fit.steps, fit.batch_size, generator, say, minutes=fit.minutes, quick=quick)
    unseen = images.pixels[order[:held]]
    scale_features(network, unseen)
    psnr = poorest_psnr(network, unseen)
    if not psnr >= fit.least_psnr:
        raise StyleNetworkPoor(psnr, fit.least_psnr)
    with tempfile.TemporaryDirectory() as folder:
        save_weights(network, Path(folder) / FILE)
        return log_style(client, Path(folder) / FILE, psnr, images.digest, encoder)


def vgg_weights(path: Path | None) -> dict[str, Tensor]:
    """The state of VGG-19, from a file or as torchvision fetches it; never unpickled."""
    try:
        if path is not None:
            found: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        else:
            from torchvision.models import VGG19_Weights

            found = VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # the readers raise many kinds; all mean that there are no weights
        why = " ".join(str(error).split())[:200]
        raise StyleWeightsDamaged(str(path or "torchvision"), f"VGG-19 cannot be loaded: {why}") from error
    return dict(found)
