"""Bad input at the level of the job: each kind has its answer, and nothing is registered."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pipeline_helpers import (
    NAMES,
    Scene,
    Undecided,
    context_fixture,  # noqa: F401
    environment,
    log_champion,
    options,
    scene_fixture,  # noqa: F401
    shell_options,
    start_command,
    template_fixture,  # noqa: F401
)

from repairops import log_failures
from repairops.data.decoding import encode_png
from repairops.errors import (
    ChampionAtChance,
    DatasetNotFound,
    DeviceNotAvailable,
    FailureBatchRejected,
    InvalidOption,
    ModelNotFound,
    PatternNotUsable,
    RegistryUnreachable,
    RepairError,
    StyleWeightsMissing,
    UsageError,
)
from repairops.pipeline import repair

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext


def encoded(array: np.ndarray, kind: str = "PNG", mode: str | None = None, **arguments: object) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(file, kind, **arguments)
    return file.getvalue()


@pytest.mark.parametrize(
    ("reference", "tried"),
    [
        ("prod/nothing", "alias 'prod' of 'nothing'"),
        ("staging/cls", "stage 'staging' of 'cls'"),
        ("cls@staging", "alias 'staging' of 'cls'"),
        ("models:/cls/7", "models:/cls/7"),
        ("models:/m-0123456789abcdef", "versions made from m-0123456789abcdef"),
    ],
)
def test_a_missing_model_is_an_error_that_lists_what_exists(scene: Scene, reference: str, tried: str) -> None:
    with pytest.raises(ModelNotFound) as raised:
        repair(reference, config=options())
    message = str(raised.value)
    assert f"No model version answers to {reference!r}" in message
    assert tried in message
    assert "The registry has: cls (prod -> 1)." in message
    assert scene.repairs() == []


def test_automatic_promotion_needs_an_alias(scene: Scene) -> None:
    with pytest.raises(UsageError, match="promote=auto needs an alias") as raised:
        repair("models:/cls/1", config=options("register.promote=auto"))
    assert raised.value.exit_code == 2
    assert scene.repairs() == []


@pytest.mark.parametrize(
    ("model", "alias", "says"),
    [
        ("prod/cls", "", "neither 'latest' nor"),
        ("prod/cls", "a/b", "neither 'latest' nor"),
        ("prod/cls", "Latest", "neither 'latest' nor"),
        ("prod/cls", "v2", "neither 'latest' nor"),
        ("prod/cls", "prod", "the model is found by it"),
        ("models:/cls/1", "prod", "it was promoted or logged"),
        ("prod/cls", "live", "it is at version 1, and no repair put it there"),
    ],
)
def test_an_alias_that_no_repair_may_move_is_refused_before_a_run_is_opened(
    scene: Scene, model: str, alias: str, says: str
) -> None:
    scene.client.set_registered_model_alias("cls", "live", "1")
    with pytest.raises(InvalidOption, match=rf"Option register\.alias is '{alias}'.*{says}") as raised:
        repair(model, config=options(f"register.alias={alias}"))
    assert raised.value.exit_code == 2
    assert scene.repairs() == []
    assert (scene.versions(), scene.version_at("prod"), scene.version_at("live")) == (["1"], "1", "1")


def test_a_data_set_that_is_not_there_is_named(scene: Scene, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(DatasetNotFound, match=rf"The train set was not found: {missing}"):
        repair(config=options(), train_set=missing)
    with pytest.raises(DatasetNotFound, match=rf"The clean set was not found: {missing}"):
        repair(config=options(), clean_set=missing)
    assert scene.repairs() == []


def test_a_model_without_data_sets_says_how_to_give_them(scene: Scene) -> None:
    import mlflow

    network = mlflow.pytorch.load_model("models:/cls/1")
    assert log_champion(network, scene.data, train_set=None, clean_set=None) == "2"
    with pytest.raises(DatasetNotFound, match=r"--train-set PATH \(-P train_set=PATH\)"):
        repair(config=options())
    assert scene.repairs() == []


@pytest.mark.parametrize(
    "mistake",
    [f"model.class_names={','.join(reversed(NAMES))}", "model.mean=-9", "model.value_range=0,1e-6"],
    ids=["class order", "mean", "range"],
)
def test_wrong_class_order_or_preprocessing_is_a_champion_at_chance(scene: Scene, mistake: str) -> None:
    with pytest.raises(ChampionAtChance, match=r"The class order of the clean set or the preprocessing") as raised:
        repair(config=options(mistake))
    run = scene.repairs()[0]
    assert run.info.status == "FAILED"
    assert run.data.tags["repairops.outcome"] == "error"
    assert scene.outcome(run.info.run_id)["message"] == str(raised.value)
    assert f"of {len(scene.data.clean)} clean images" in str(raised.value)
    assert scene.versions() == ["1"]


def test_one_batch_with_every_kind_of_unusable_row_is_refused_with_all_reasons(scene: Scene) -> None:
    sound = scene.logged.part(0, 8)
    pixels = [encode_png(image) for image in sound.pixels]
    truth = [NAMES[label] for label in sound.labels]
    digit = scene.logged.pixels[8, 0].numpy()
    colours = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    others = [Image.fromarray(np.roll(digit, i, axis=1)) for i in range(1, 3)]
    clean, train = scene.data.clean, scene.data.train
    field_right = _answered_right(scene)
    bad: list[tuple[bytes, str, str]] = [
        (b"", "one", "does_not_decode"),
        (pixels[0][:60], "one", "does_not_decode"),
        (b"not an image at all", "one", "does_not_decode"),
        (_bomb(), "one", "too_large"),
        (encoded(digit, "GIF", save_all=True, append_images=others), "one", "animated"),
        (encoded(colours, "JPEG", mode="CMYK"), "one", "wrong_mode"),
        (encoded(digit.astype(np.uint16) * 257), "one", "wrong_mode"),
        (encoded(colours), "one", "wrong_mode"),
        (encoded(np.kron(digit, np.ones((2, 2), np.uint8))), "one", "wrong_size"),
        (encode_png(scene.logged.pixels[9]), "eleven", "unknown_label"),
        (encode_png(scene.logged.pixels[10]), "10", "unknown_label"),
        (encode_png(scene.logged.pixels[11]), "", "unknown_label"),
        (pixels[1], truth[1], "duplicate"),
        (encode_png(clean.pixels[0]), _another(clean.labels[0]), "in_clean_set"),
        (encode_png(train.pixels[0]), _another(train.labels[0]), "in_train_set"),
        (encode_png(clean.pixels[1] // 2 * 2), _another(clean.labels[1]), "near_copy"),
        (encode_png(train.pixels[1] // 2 * 2), _another(train.labels[1]), "near_copy"),
        (encode_png(field_right[0]), NAMES[field_right[1]], "stale"),
    ]
    batch = log_failures(
        "prod/cls",
        pixels + [image for image, _, _ in bad],
        truth + [label for _, label, _ in bad],
        confidences=[0.5] * (len(pixels) + len(bad)),
    )
    with pytest.raises(FailureBatchRejected) as raised:
        repair(failures=batch.digest, config=options("validation.min_rows=30"))

    run = scene.repairs()[0]
    message = str(raised.value)
    assert f"validation/quarantine.parquet of run {run.info.run_id}" in message
    assert "30" in message
    assert run.info.status == "FAILED"
    assert run.data.tags["repairops.outcome"] == "error"
    quarantine = pd.read_parquet(scene.artifact(run.info.run_id, "validation/quarantine.parquet"))
    expected = {len(pixels) + i: rule for i, (_, _, rule) in enumerate(bad)}
    assert dict(zip(quarantine.index, quarantine["rule"], strict=True)) == expected
    assert quarantine["detail"].str.len().min() > 10
    assert quarantine["image"].tolist() == [image for image, _, _ in bad]  # kept as it came
    validation = scene.outcome(run.info.run_id)["validation"]
    assert (validation["rows"], validation["accepted"]) == (len(pixels) + len(bad), len(pixels))
    assert sum(validation["quarantined"].values()) == len(bad)
    assert json.loads(scene.artifact(run.info.run_id, "validation/result.json").read_text())
    assert scene.versions() == ["1"]


def _answered_right(scene: Scene) -> tuple[torch.Tensor, int]:
    """A scan of the field that the champion has right, and its class."""
    import mlflow

    from repairops.model.evaluation import predict
    from repairops.model.network import Classifier

    field = scene.data.field
    network = mlflow.pytorch.load_model("models:/cls/1").eval()
    answers = predict(Classifier(network, scene.data.spec), field.pixels, field.labels)
    i = int(np.flatnonzero(answers.right)[0])
    return field.pixels[i], int(field.labels[i])


def _another(label: int) -> str:
    return NAMES[(label + 1) % len(NAMES)]


def _bomb() -> bytes:
    """A small file that announces 65,000 x 65,000 pixels."""
    data = bytearray(encoded(np.zeros((16, 16), np.uint8), "BMP"))
    data[18:26] = (65_000).to_bytes(4, "little") * 2
    return bytes(data)


@pytest.mark.long
def test_labels_by_name_and_by_index_and_fewer_failures_than_clusters(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    few = scene.logged.part(0, 40)
    labels = [NAMES[label] if i % 2 else int(label) for i, label in enumerate(few.labels)]
    batch = log_failures("prod/cls", few.pixels, labels, groups=few.groups)
    with caplog.at_level(logging.INFO, logger="repairops"):
        pixels = ("clustering.by=pixels", "clustering.clusters=64")
        outcome = repair(failures=batch.digest, config=options(*pixels, "training.epochs=1"))

    assert outcome.values["validation"] == {"rows": 40, "accepted": 40, "quarantined": {}, "broken": []}
    sizes = [cluster["size"] for cluster in outcome.values["clusters"]]
    assert sum(sizes) == outcome.values["split"]["repair"] < 40
    assert len(sizes) < 64
    said = [r.getMessage() for r in caplog.records if "64" in r.getMessage() and "clusters" in r.getMessage()]
    assert len(said) == 1
    named = {name: count for cluster in outcome.values["clusters"] for name, count in cluster["labels"].items()}
    assert named.keys() <= set(NAMES)


def test_a_network_that_cannot_be_exported_fails_the_gate_with_the_exporters_reason(scene: Scene) -> None:
    import mlflow

    network = Undecided(mlflow.pytorch.load_model("models:/cls/1"))
    assert log_champion(network, scene.data) == "2"
    outcome = repair(config=options("training.epochs=1", "gate.repair_rate=off"))

    assert (outcome.kind, outcome.exit_code, outcome.version) == ("failed", 3, "")
    assert scene.versions() == ["1", "2"]
    checks = {check["name"]: check for check in outcome.values["verdict"]["checks"]}
    assert checks["onnx_parity"]["result"] == "FAIL"
    reason = outcome.values["evidence"]["parity"]["reason"]
    assert "data-dependent" in reason
    assert reason in checks["onnx_parity"]["summary"]
    run = scene.repairs()[0]
    assert run.data.tags["repairops.outcome"] == "failed"
    assert "data-dependent" in scene.artifact(run.info.run_id, "report.html").read_text(encoding="utf-8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_an_error(scene: Scene) -> None:
    with pytest.raises(DeviceNotAvailable, match="'cuda' cannot be used") as raised:
        repair(config=options("training.device=cuda"))
    assert "training.device=auto or cpu" in str(raised.value)
    assert scene.repairs() == []  # known before a run is opened


@pytest.mark.parametrize(
    ("option", "error", "said"),
    [
        ("method.name=magic", InvalidOption, r"method\.name is 'magic'.*style_guided.*auto"),
        ("style.name=magic", InvalidOption, r"style\.name is 'magic'.*fitted_degradation.*auto"),
        ("style.name=wct2", StyleWeightsMissing, r"style\.weights"),
        ("method.known_patterns=magic", PatternNotUsable, "magic"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_before_a_run_is_opened(
    scene: Scene, option: str, error: type[RepairError], said: str
) -> None:
    with pytest.raises(error, match=said):
        repair(config=options(option))
    assert not scene.repairs()


def test_a_server_that_does_not_answer_is_an_error(scene: Scene) -> None:
    with pytest.raises(RegistryUnreachable, match=r"MLflow at http://127\.0\.0\.1:9 did not look up the model"):
        repair(config=options(), tracking_uri="http://127.0.0.1:9")  # port 9: discard, where nothing listens


def test_an_error_is_one_line_and_an_exit_code(scene: Scene, tmp_path: Path, context: ForkServerContext) -> None:
    command = ["repair", "--model=prod/nothing", *shell_options()]
    process = start_command(context, command, environment(scene), tmp_path / "log")
    process.join(200)
    assert process.exitcode == 1
    (line,) = (tmp_path / "log").read_text(encoding="utf-8").splitlines()  # stdout and stderr: no traceback either
    assert line.startswith("Error: No model version answers to 'prod/nothing'.")
