"""Champions: subject networks trained on a train set, kept by the digest of everything that they come from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from repairops.bench.networks import NETWORKS, build_network
from repairops.config import derive_seed
from repairops.core.training.epoch import make_batch_source
from repairops.core.training.loop import make_jitter
from repairops.data.records import ImageSet, InputSpec
from repairops.data.sets import whole_file
from repairops.model.device import MixedPrecision, seeded
from repairops.model.network import Classifier, to_unit

logger = logging.getLogger("repairops")


@dataclasses.dataclass(frozen=True)
class ChampionConfig:
    """SGD with Nesterov momentum; the learning rate rises to the network's own peak and falls to 0 (one cycle)."""

    epochs: int = 12
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4
    rising: float = 0.2  # share of the steps
    horizontal_flip: bool = True
    max_train_images: int = 0  # 0 = all
    bfloat16: bool = True  # autocast


def input_spec(train_set: ImageSet) -> InputSpec:
    """The images' own size and classes; each channel's mean and deviation over at most 5,000 of the images."""
    count, channels, height, width = train_set.pixels.shape
    sample = to_unit(train_set.pixels[:: max(1, count // 5000)])
    mean = tuple(round(float(m), 3) for m in sample.mean((0, 2, 3)))
    std = tuple(max(round(float(s), 3), 0.001) for s in sample.std((0, 2, 3)))
    return InputSpec(channels, height, width, train_set.class_names, mean=mean, std=std)


def train_champion(
    network: str, train_set: ImageSet, config: ChampionConfig, *, seed: int, device: torch.device
) -> Classifier:
    """A network trained from its initial weights; the last epoch counts, nothing is chosen. On the CPU, eval mode."""
    spec = input_spec(train_set)
    network_seed = derive_seed(seed, "network", network)
    classifier = Classifier(build_network(network, spec, network_seed), spec)
    classifier.to(device).to(memory_format=torch.channels_last)
    running = MixedPrecision(classifier.network, spec) if config.bfloat16 else classifier
    generator = torch.Generator().manual_seed(derive_seed(seed, "champion"))
    used = torch.randperm(len(train_set), generator=generator)[: config.max_train_images or None]
    source = make_batch_source(train_set, used.numpy(), device)
    jitter = make_jitter(train_set, -1, config.horizontal_flip)
    optimizer = torch.optim.SGD(
        [p for p in classifier.parameters() if p.requires_grad],
        lr=1e-3, momentum=config.momentum, weight_decay=config.weight_decay, nesterov=True,
    )  # fmt: skip
    steps = max(1, len(used) // config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, NETWORKS[network].learning_rate, total_steps=config.epochs * steps, pct_start=config.rising
    )
    began = time.monotonic()
    running.train()
    with seeded(derive_seed(seed, "dropout"), device):
        for epoch in range(1, config.epochs + 1):
            order = torch.randperm(len(used), generator=generator)[: steps * config.batch_size]
            for images, labels in source.stream(torch.split(order, config.batch_size)):
                loss = _step(running, jitter(images, generator), labels, optimizer)
                schedule.step()
            logger.info(
                "champion %s: epoch %d/%d, loss %.3f, %.0f s",
                network, epoch, config.epochs, loss.item(), time.monotonic() - began,
            )  # fmt: skip
    classifier.to("cpu").to(memory_format=torch.contiguous_format)
    return classifier.eval()


def _step(running: Classifier, images: Tensor, labels: Tensor, optimizer: torch.optim.SGD) -> Tensor:
    """The loss, which is left on the device: to read it at each step would make a GPU wait for this process."""
    optimizer.zero_grad(set_to_none=True)
    loss = F.cross_entropy(running(images.contiguous(memory_format=torch.channels_last)), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def champion_arguments(network: str, train_set: ImageSet, config: ChampionConfig, seed: int) -> dict[str, Any]:
    """Everything that a champion comes from, as plain JSON values."""
    return {"network": network, "train_set": train_set.digest, "seed": seed, **dataclasses.asdict(config)}


def digest_of(arguments: Mapping[str, Any]) -> str:
    """The first 16 hexadecimal digits of the sha256 of the arguments as canonical JSON."""
    return hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()[:16]


def save_champion(folder: Path, classifier: Classifier, arguments: Mapping[str, Any]) -> Path:
    """Writes weights, input specification and arguments as one safetensors file, in one step."""
    from safetensors.torch import save_file

    path = folder / f"{digest_of(arguments)}.safetensors"
    header = {"spec": json.dumps(classifier.spec.to_dict()), "arguments": json.dumps(arguments)}
    tensors = {name: value.contiguous() for name, value in classifier.network.state_dict().items()}
    with whole_file(path) as part:
        save_file(tensors, part, metadata=header)
    return path


def load_champion(folder: Path, arguments: Mapping[str, Any]) -> Classifier | None:
    """The champion that comes from these arguments, in eval mode; None where the folder does not have it."""
    from safetensors import safe_open

    path = folder / f"{digest_of(arguments)}.safetensors"
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as stored:
        spec = InputSpec.from_dict(json.loads(stored.metadata()["spec"]))
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118  (not a dict)
    network = build_network(arguments["network"], spec, seed=0)
    network.load_state_dict(tensors)
    return Classifier(network, spec).eval()
