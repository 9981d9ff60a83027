"""What nobody says of a champion's input: one line names the options to pass, and they work as they are printed."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from test_store_models import client, plain_model  # noqa: F401
from torch import Tensor, nn
from training_helpers import SPEC, champion, digits

from repairops.config import ModelConfig, load_config
from repairops.data.records import InputSpec
from repairops.errors import MissingInputSpec
from repairops.model.network import Classifier
from repairops.model.preprocessing import better_input
from repairops.stages.pull import warn_of_another_input
from repairops.store.champion import Champion, fetch_champion
from repairops.store.models import ModelRef, resolve_model

UNSAID = InputSpec(1, 8, 8, SPEC.class_names)


def printed(message: str) -> ModelConfig:
    """The model's options that a message says to pass."""
    return load_config(overrides=re.findall(r"--set (\S+)", message)).model


def accuracy(classifier: Classifier) -> float:
    images = digits()[0]
    with torch.no_grad():
        answers = classifier(images.pixels.float() / 255).argmax(1)
    return float((answers == torch.from_numpy(images.labels)).float().mean())


class Centred(nn.Module):
    """Before a champion that takes 0..1: makes it one that takes -1..1."""

    def forward(self, images: Tensor) -> Tensor:
        return images / 2 + 0.5


def test_a_champion_that_is_better_otherwise_normalised_is_told_what_to_pass(caplog: pytest.LogCaptureFixture) -> None:
    network, ref = nn.Sequential(Centred(), champion()), ModelRef("cls", "1", "", "")
    raw = Classifier(network, UNSAID)
    found = Champion(ref, raw, Path(), "pickle", {})
    with caplog.at_level(logging.WARNING, "repairops"):
        warn_of_another_input(found, ModelConfig(), digits()[0], "cpu")
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.count("\n") == 0
    given = printed(said)
    better = Classifier(network, replace(UNSAID, mean=given.mean, std=given.std))
    assert accuracy(better) > accuracy(raw) + 0.1

    caplog.clear()
    warn_of_another_input(found, given, digits()[0], "cpu")
    warn_of_another_input(replace(found, metadata={"input": {"mean": [0.0]}}), ModelConfig(), digits()[0], "cpu")
    assert not caplog.records  # somebody has said it


def test_nothing_is_said_where_no_other_normalisation_is_clearly_better() -> None:
    assert better_input(champion(), digits()[0]) is None


class Answers(dict[str, Tensor]):
    """What Hugging Face's models return, in short."""


class Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, pixel_values: Tensor) -> Answers:
        return Answers(logits=self.head(pixel_values.flatten(1)))


@pytest.mark.usefixtures("registry")
def test_a_model_without_a_shape_is_told_what_to_pass_and_that_works(client: MlflowClient, tmp_path: Path) -> None:  # noqa: F811
    plain_model(Vit())
    ref = resolve_model("models:/plain/1", client)
    with pytest.raises(MissingInputSpec) as raised:
        fetch_champion(ref, ModelConfig(), tmp_path / "m", SPEC.class_names, (1, 8, 8))
    message = str(raised.value)
    assert message.count("\n") == 0
    assert "--set model.channels=1 --set model.image_size=8,8 (as the images at hand are)" in message
    champion = fetch_champion(ref, printed(message), tmp_path / "m", SPEC.class_names)
    assert champion.classifier(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert mlflow.get_tracking_uri() == str(client.tracking_uri)
