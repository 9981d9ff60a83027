"""Whole jobs with a guard on champions of other kinds: two classes at 224 pixels, a thousand classes, a dict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mlflow import MlflowClient
from torch import Generator, Tensor, nn
from torchvision.models import mobilenet_v3_small

from repairops import InputSpec, load_config, log_failures, log_model, repair
from repairops.data.records import ImageSet
from repairops.data.sets import from_arrays
from repairops.model.evaluation import predict
from repairops.model.network import Classifier, from_unit, to_unit
from repairops.outcome import Outcome

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Prototypes(nn.Module):
    """The nearest of the classes' images, by the logits of a linear layer; answers with a dict."""

    def __init__(self, prototypes: Tensor) -> None:
        super().__init__()
        flat = prototypes.flatten(1)
        self.linear = nn.Linear(*reversed(flat.shape))
        self.linear.weight.data, self.linear.bias.data = flat, -0.5 * (flat * flat).sum(1)

    def forward(self, x: Tensor) -> Mapping[str, Tensor]:
        return {"logits": self.linear(x.flatten(1))}


class World:
    """Classes that are smooth pictures; an image is one of them, moved a little, with a little noise."""

    def __init__(self, classes: int, channels: int, side: int, detail: int, seed: int = 0) -> None:
        self.draw = Generator().manual_seed(seed)
        coarse = torch.rand(classes, channels, detail, detail, generator=self.draw)
        self.prototypes = F.interpolate(coarse, (side, side), mode="bilinear") * 0.7 + 0.15
        self.spec = InputSpec(channels, side, side, tuple(f"class {number}" for number in range(classes)))

    def images(self, labels: Tensor) -> Tensor:
        """uint8 (N, C, H, W)."""
        clean = self.prototypes[labels]
        light = 0.06 * torch.rand(len(labels), 1, 1, 1, generator=self.draw) - 0.03
        return from_unit((clean + light + 0.02 * torch.randn(clean.shape, generator=self.draw)).clamp(0, 1))

    def set(self, a_class: int) -> ImageSet:
        labels = torch.arange(self.spec.classes).repeat_interleave(a_class)
        return from_arrays(self.images(labels), labels, self.spec.class_names)

    def faded(self, images: Tensor) -> Tensor:
        """What the field does: little contrast, and the noise of a dark room."""
        unit = to_unit(images)
        pale = 0.5 + 0.25 * (unit - unit.mean((1, 2, 3), keepdim=True))
        return from_unit((pale + 0.06 * torch.randn(unit.shape, generator=self.draw)).clamp(0, 1))


def two_classes_at_224() -> tuple[World, nn.Module]:
    world = World(2, 3, 224, 4)
    torch.manual_seed(0)
    network = mobilenet_v3_small(num_classes=2).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.02, momentum=0.9)
    for _ in range(40):
        labels = torch.randint(0, 2, (16,), generator=world.draw)
        loss = F.cross_entropy(network(to_unit(world.images(labels))), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for _ in range(30):  # statistics of BatchNorm
        network(to_unit(world.images(torch.randint(0, 2, (16,), generator=world.draw))))
    return world, network.eval()


def a_thousand_classes() -> tuple[World, nn.Module]:
    world = World(1000, 1, 16, 8)
    return world, Prototypes(world.prototypes).eval()


@pytest.mark.parametrize(
    ("made", "images", "form"), [(two_classes_at_224, 60, "pt2"), (a_thousand_classes, 3, "pickle")]
)
def test_a_stranger_s_champion_is_repaired_behind_a_guard(
    made, images: int, form: str, migrated_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPAIROPS_HOME", str(tmp_path / "home"))
    (tmp_path / "mlflow.db").write_bytes(migrated_database.read_bytes())
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    world, network = made()
    train, clean, choosing, field = (world.set(images) for _ in range(4))
    served = Classifier(network, world.spec)
    assert predict(served, clean.pixels, clean.labels).right.mean() > 0.9
    log_model(
        network, "cls", world.spec, train_set=train, clean_set=clean, validation_set=choosing,
        serialization_format=form,
        code_paths=[] if form == "pt2" else [__file__],
    )  # fmt: skip
    faded = world.faded(field.pixels)
    wrong = np.flatnonzero(~predict(served, faded, field.labels).right)[:600]
    assert len(wrong) > 30
    log_failures("prod/cls", faded[torch.from_numpy(wrong)], field.labels[wrong].tolist())

    options = ["training.device=cpu", "training.epochs=2", "gate.corruptions=off", "guard.mode=on"]
    outcome = repair(config=load_config(overrides=options))
    assert_guarded(outcome)


def assert_guarded(outcome: Outcome) -> None:
    """A verdict, a guard that can tell, and most failures repaired at no clean loss."""
    record = outcome.record
    assert record.verdict is not None, record.message
    assert record.evidence is not None
    assert record.form is not None
    assert record.form.name in ("hard", "mixed")
    assert record.form.separation > 0.95
    assert record.evidence.heldout_repaired > record.evidence.heldout_total / 3
    lost = record.evidence.clean.champion_only - record.evidence.clean.challenger_only
    assert lost <= 0.01 * record.evidence.clean.n
    if record.registered:
        version = MlflowClient().get_model_version("cls", record.registered.version)
        assert version.tags["repairops.form"] == record.form.name
