"""The demo's production classifier: a small convolutional network, trained in seconds on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from repairops.config import derive_seed
from repairops.core.augment.geometry import random_crop_flip
from repairops.data.records import ImageSet, InputSpec
from repairops.model.network import Classifier, to_unit

EPOCHS = 30
BATCH = 64


def small_network(channels: int, classes: int) -> nn.Sequential:
    """Three convolutions with BatchNorm and a linear layer, made of torch's own modules: it loads anywhere."""

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *block(channels, 32, 1),
        *block(32, 64, 2),
        *block(64, 96, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, classes),
    )


def train_champion(train: ImageSet, spec: InputSpec, seed: int) -> nn.Module:
    """Trains `small_network` on clean images alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "demo", "champion") % 2**63)
        network = small_network(spec.channels, spec.classes)
    classifier = Classifier(network, spec).train()
    generator = torch.Generator().manual_seed(derive_seed(seed, "demo", "training"))
    labels = torch.from_numpy(train.labels)
    steps = EPOCHS * -(-len(train) // BATCH)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(train), generator=generator), BATCH):
            if len(batch) > 1:  # BatchNorm needs two
                images = random_crop_flip(to_unit(train.pixels[batch]), spec.height // 8, False, generator)
                loss = F.cross_entropy(classifier(images), labels[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            schedule.step()
    return network.eval()
