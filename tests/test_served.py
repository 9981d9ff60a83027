"""The form of a version for people: every way to give an image, the evaluation's own answers, and what is refused."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from guard_helpers import images, pair
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc import scoring_server
from PIL import Image
from store_helpers import CLASSES, COLOUR_SPEC, SPEC, TinyNet, digits
from without_helpers import output_without

from repairops import log_model
from repairops.cli import main
from repairops.data.decoding import encode_png
from repairops.data.records import InputSpec
from repairops.model.evaluation import guard_answers, logits
from repairops.model.network import Classifier
from repairops.model.onnx import export_onnx
from repairops.store.served import FOLDER, MODEL
from repairops.store.serving_form import write_serving_form

COLOUR = torch.from_numpy(digits(6, channels=3)).permute(0, 3, 1, 2)


def written(folder: Path, network: torch.nn.Module, spec: InputSpec = COLOUR_SPEC) -> Path:
    """The network's form in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    export_onnx(network, spec, folder / MODEL)
    write_serving_form(folder, network, spec)
    return folder


@pytest.fixture(scope="module", name="folder")
def folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("served") / "onnx", TinyNet(channels=3).eval())


@pytest.fixture(scope="module", name="model")
def model_fixture(folder: Path) -> Any:
    return mlflow.pyfunc.load_model(str(folder))


def asked(model: Any, *images: Any) -> pd.DataFrame:
    found: pd.DataFrame = model.predict(pd.DataFrame({"image": list(images)}))
    return found


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def test_answers_are_those_of_the_network(model: Any) -> None:
    outputs = logits(Classifier(TinyNet(channels=3).eval(), COLOUR_SPEC), COLOUR)
    found = asked(model, *map(encode_png, COLOUR))
    assert found["label"].tolist() == [CLASSES[i] for i in outputs.argmax(1)]
    wanted = torch.from_numpy(outputs).softmax(1).numpy()
    assert np.allclose([list(row.values()) for row in found["probabilities"]], wanted, atol=1e-4)
    assert np.allclose(found["confidence"], wanted.max(1), atol=1e-4)
    assert list(found["probabilities"][0]) == list(CLASSES)


def test_every_form_of_an_image_is_the_same_image(model: Any, tmp_path: Path) -> None:
    image = COLOUR[0].numpy().transpose(1, 2, 0)
    file = tmp_path / "digit.png"
    file.write_bytes(png(image))
    text = base64.b64encode(png(image)).decode()
    forms = [png(image), bytearray(png(image)), file, text, f"data:image/png;base64,{text}", image, image.tolist(),
             image.astype(np.float64), COLOUR[0].numpy(), image[..., 0]]  # fmt: skip
    found = asked(model, *forms)
    assert found["confidence"].nunique() == 1
    assert found["label"].nunique() == 1


def test_a_batch_of_many_keeps_its_order(model: Any) -> None:
    files = [*map(encode_png, COLOUR)]
    once, often = (asked(model, *many)["confidence"].tolist() for many in (files, files * 15))
    assert often == pytest.approx(once * 15, abs=1e-5)
    assert len(asked(model)) == 0


def test_other_sizes_are_scaled(model: Any) -> None:
    """Twice the size by whole pixels, scaled back, is nearly the image itself; the network takes 8x8 alone."""
    image = COLOUR[0].numpy().transpose(1, 2, 0)
    small, large = asked(model, image, image.repeat(4, 0).repeat(4, 1))["probabilities"]
    assert max(abs(small[name] - large[name]) for name in CLASSES) < 0.2


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (b"no image", "Image 2 cannot be used: 8 bytes that start with 6e 6f 20 69"),
        (b"", "the file is empty"),
        ("/etc/passwd", "is no base64. Send the file's bytes in base64; a path is given as file:NAME"),
        ("file:/etc/passwd", "REPAIROPS_SERVED_FOLDER is not set on the server, so it reads no files"),
        (np.full((8, 8), 300), "not in 0..255"),
        (np.full((8, 8), 0.5), "in 0..1. Multiply them by 255"),
        (np.full((8, 8), np.nan), "not in 0..255"),
        (np.zeros((8, 8, 2)), "give numbers (H, W)"),
        (None, "give numbers (H, W)"),
        (Path("/nowhere.png"), "No such file"),
    ],
)
def test_what_cannot_be_used_is_named(model: Any, image: Any, said: str) -> None:
    with pytest.raises(MlflowException) as raised:
        asked(model, png(digits(1)[0]), image)
    assert said in str(raised.value)
    assert str(raised.value).startswith("Image 2 cannot be used: ")
    assert raised.value.get_http_status_code() == 400


def test_a_server_reads_one_folder_and_nothing_else(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = tmp_path / "images", tmp_path / "secret.png"
    inside.mkdir()
    for file in (inside / "a.png", outside):
        file.write_bytes(encode_png(COLOUR[0]))
    (inside / "link.png").symlink_to(outside)
    monkeypatch.setenv(FOLDER, str(inside))
    assert len(asked(model, "file:a.png")) == 1
    for name in ("file:../secret.png", f"file:{outside}", "file:link.png"):
        with pytest.raises(MlflowException, match="is not below the folder"):
            asked(model, name)


def test_a_request_of_mlflow_s_server(model: Any) -> None:
    """What the server makes of the bodies that people send."""
    texts = [base64.b64encode(encode_png(image)).decode() for image in COLOUR[:2]]
    wanted = asked(model, *texts).to_dict("records")
    bodies: list[dict[str, Any]] = [
        {"dataframe_records": [{"image": text} for text in texts]},
        {"dataframe_split": {"columns": ["image"], "data": [[text] for text in texts]}},
        {"inputs": texts},
        {"dataframe_records": [{"image": image.permute(1, 2, 0).tolist()} for image in COLOUR[:2]]},
    ]
    for body in bodies:
        given = model.metadata.get_input_schema()
        answer = scoring_server.invocations(json.dumps(body), "application/json", model, given)
        assert answer.status == 200
        assert json.loads(answer.response) == {"predictions": wanted}


@pytest.mark.long
def test_a_guard_says_who_answers(tmp_path: Path) -> None:
    classifier, given = pair(low=0.4, high=0.6), images(0.1, 0.5, 0.9)
    form = mlflow.pyfunc.load_model(str(written(tmp_path / "onnx", classifier.network, SPEC)))
    found = asked(form, *map(encode_png, given))
    answers = guard_answers(classifier, given)
    assert np.allclose(found["guard"], answers.probability, atol=1e-4)
    assert found["answered_by"].tolist() == ["champion", "both", "repaired"]


def test_the_form_says_what_it_takes(folder: Path) -> None:
    described = Model.load(str(folder))
    assert [(column.name, column.required) for column in described.signature.inputs] == [("image", True)]
    assert described.signature.outputs.input_names() == ["label", "confidence", "probabilities"]
    example = described.load_input_example(str(folder))
    assert base64.b64decode(example["image"][0]).startswith(b"\x89PNG")


@pytest.mark.long
def test_it_loads_where_repairops_is_not_installed(folder: Path, tmp_path: Path) -> None:
    code = f"""
import pandas as pd, mlflow
answer = mlflow.pyfunc.load_model({str(folder)!r}).predict(pd.DataFrame({{"image": [{encode_png(COLOUR[0])!r}]}}))
print(answer["label"][0])
"""
    outputs = logits(Classifier(TinyNet(channels=3).eval(), COLOUR_SPEC), COLOUR[:1])
    assert output_without({"repairops", "torch"}, code, folder=tmp_path) == CLASSES[int(outputs.argmax())]


def export(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


@pytest.mark.long
def test_a_version_that_no_repair_made_is_exported(registry: str, tmp_path: Path) -> None:
    """Logged by us or by MLflow alone; where the registry says nothing of the input, the options do."""
    network = TinyNet(channels=3).eval()
    log_model(network, "cls", COLOUR_SPEC)
    result = export("prod/cls", tmp_path / "form")
    assert result.exit_code == 0, result.output
    assert f"mlflow models serve -m {tmp_path / 'form'} --env-manager local" in result.stdout
    wanted = asked(mlflow.pyfunc.load_model(str(tmp_path / "form")), *map(encode_png, COLOUR))
    outputs = logits(Classifier(network, COLOUR_SPEC), COLOUR)
    assert wanted["label"].tolist() == [CLASSES[i] for i in outputs.argmax(1)]

    mlflow.pytorch.log_model(network, name="other", registered_model_name="theirs", serialization_format="pickle")
    bare = export("models:/theirs/1", tmp_path / "theirs")
    assert bare.exit_code == 1
    assert "model.image_size" in bare.stderr
    assert not (tmp_path / "theirs").exists()
    said = [f"model.{name}={value}" for name, value in (
        ("image_size", COLOUR_SPEC.height), ("channels", 3), ("class_names", ",".join(CLASSES)),
        ("mean", ",".join(map(str, COLOUR_SPEC.mean))), ("std", ",".join(map(str, COLOUR_SPEC.std))),
    )]  # fmt: skip
    result = export(
        "models:/theirs/1", tmp_path / "theirs", *(word for text in said for word in ("--set", text)), "--json"
    )
    assert json.loads(result.stdout) == {"model": "models:/theirs/1", "folder": str(tmp_path / "theirs")}
    found = asked(mlflow.pyfunc.load_model(str(tmp_path / "theirs")), *map(encode_png, COLOUR))
    assert found["confidence"].tolist() == pytest.approx(wanted["confidence"].tolist(), abs=1e-6)


def test_what_cannot_be_exported_leaves_nothing(registry: str, tmp_path: Path) -> None:
    log_model(TinyNet(channels=3).eval(), "cls", COLOUR_SPEC)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    result = export("prod/cls", tmp_path / "full")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "is no empty folder" in result.stderr
    result = export("prod/cls", tmp_path / "form", "--set", "gate.parity_tolerance=0")
    assert result.exit_code == 1
    assert "has no form that takes image files: the logits of its ONNX file differ by up to" in result.stderr
    assert not (tmp_path / "form").exists()
