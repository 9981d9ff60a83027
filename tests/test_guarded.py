"""A guarded network: who answers, in PyTorch and in every form that is served."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from guard_helpers import brightness_guard, images, pair
from store_helpers import SPEC, DictNet
from torch import nn
from without_helpers import output_without

from repairops.config import ModelConfig
from repairops.model.device import set_mode
from repairops.model.evaluation import guard_answers, logits
from repairops.model.guarded import Guarded, look_statistics
from repairops.model.network import Classifier, to_input, to_unit
from repairops.model.onnx import compare, export_onnx, run_onnx
from repairops.model.routing import at_a_limit, by_who_answers, guarded, guarded_from, networks_of
from repairops.outcome.plain import to_plain
from repairops.store.champion import open_champion
from repairops.store.flavors import METADATA_KEY, ClassifierFlavors, guard_code
from repairops.store.models import ModelRef

DARK, BRIGHT = (0.2, 0.3, 0.35), (0.7, 0.8)
pytestmark = pytest.mark.filterwarnings("ignore")


@functools.cache
def folder_of_files() -> Path:
    """pair.onnx, both.onnx (no control flow), champion.onnx and repaired.onnx of `pair()`; exporting takes seconds."""
    folder, served = Path(tempfile.mkdtemp()), pair()
    first, second = parts(served)
    for name, classifier in (("pair", served), ("champion", first), ("repaired", second)):
        export_onnx(classifier.network, SPEC, folder / f"{name}.onnx")
    export_onnx(served.network, SPEC, folder / "both.onnx", guard="both")
    return folder


def parts(classifier: Classifier) -> list[Classifier]:
    return list(networks_of(classifier))


def test_statistics_are_as_many_whatever_the_size_and_have_gradients() -> None:
    found = {}
    for channels in (1, 3):
        for size in ((8, 8), (9, 13), (32, 32), (224, 224), (3, 200)):
            given = torch.rand(2, channels, *size, requires_grad=True)
            values = look_statistics(given)
            values.sum().backward()
            assert values.isfinite().all()
            assert given.grad is not None
            assert given.grad.isfinite().all()
            found.setdefault(channels, set()).add(values.shape)
    assert len(found[1]) == len(found[3]) == 1
    flat = torch.full((1, 3, 16, 16), 0.25, requires_grad=True)
    look_statistics(flat).sum().backward()
    assert look_statistics(flat).isfinite().all()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_statistics_are_of_images_in_the_unit_range_however_the_network_takes_them() -> None:
    given = torch.rand(3, 3, 40, 60)
    scale, shift = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1), torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    found = look_statistics((given - shift) / scale, scale, shift)
    assert torch.allclose(found, look_statistics(given), atol=1e-4)


def test_without_a_flagged_image_the_champion_answers_bit_for_bit() -> None:
    served = pair()
    first, second = parts(served)
    pixels = images(*DARK)
    assert np.array_equal(logits(served, pixels), logits(first, pixels))
    assert not np.array_equal(logits(served, pixels), logits(second, pixels))
    assert np.array_equal(logits(served, images(*BRIGHT)), logits(second, images(*BRIGHT)))


def test_each_image_of_a_mixed_batch_gets_the_answer_of_its_network() -> None:
    served = pair()
    first, second = parts(served)
    pixels = images(0.2, 0.7, 0.3, 0.8, 0.9, 0.1)
    wanted = np.where(np.array([0, 1, 0, 1, 1, 0])[:, None], logits(second, pixels), logits(first, pixels))
    assert logits(served, pixels) == pytest.approx(wanted, abs=1e-6)
    assert logits(served, pixels, batch_size=1) == pytest.approx(wanted, abs=1e-6)
    assert len(logits(served, pixels[:0])) == 0


def test_between_the_limits_both_answer_by_the_guards_probability() -> None:
    served = pair(low=0.2, high=0.8)
    first, second = parts(served)
    pixels = images(0.3, 0.49, 0.51, 0.7)
    probability, weight = guard_answers(served, pixels)
    assert weight == pytest.approx([0, probability[1], probability[2], 1])
    assert 0.2 < probability[1] < 0.5 < probability[2] < 0.8

    def softmax(values: np.ndarray) -> np.ndarray:
        return torch.from_numpy(values).softmax(1).numpy()

    found = softmax(logits(served, pixels))
    part = weight[:, None]
    assert found == pytest.approx(
        (1 - part) * softmax(logits(first, pixels)) + part * softmax(logits(second, pixels)), abs=1e-5
    )


def test_the_guard_keeps_full_precision_under_autocast() -> None:
    network = pair().network
    given = to_input(to_unit(images(0.2, 0.49, 0.52, 0.8)), SPEC)
    with torch.autocast("cpu", torch.bfloat16):
        found = network.probability(given)
    assert torch.equal(found, network.probability(given))


def test_an_image_at_a_limit_is_a_tie() -> None:
    served = pair()
    probability = guard_answers(served, images(0.6, 0.2)).probability
    for shift, tie in ((0.0, True), (1e-8, True), (0.01, False)):
        served.network.limits.fill_(float(probability[0]) + shift)
        assert at_a_limit(served.network, probability).tolist() == [tie, False]


def test_only_routed_images_can_flip() -> None:
    served = pair()
    pixels = torch.randint(0, 256, (400, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    pixels[::2] //= 2
    labels = logits(parts(served)[0], pixels).argmax(1)
    wrong = logits(served, pixels).argmax(1) != labels
    routed = guard_answers(served, pixels)[1] > 0
    assert wrong.any()
    assert not (wrong & ~routed).any()
    sets = pixels[:10], pixels[10:]
    answered, away = by_who_answers([guard_answers(served, part) for part in sets], sets, limit=20)
    assert len(answered) == len(away) == 20
    assert (guard_answers(served, answered)[1] == 0).all()
    assert (guard_answers(served, away)[1] == 1).all()


def test_the_onnx_file_decides_as_pytorch_does() -> None:
    served, pixels = pair(), images(0.1, 0.45, 0.7, 0.55, 0.3, 0.95)
    for name in ("pair", "both"):
        file = folder_of_files() / f"{name}.onnx"
        for size in (1, 2, 6):
            assert run_onnx(file, SPEC, pixels, batch_size=size) == pytest.approx(logits(served, pixels), abs=1e-5)
        given = pixels, pixels[:0]
        expected, answered = [logits(served, part) for part in given], [run_onnx(file, SPEC, part) for part in given]
        found = compare(expected, answered, tolerance=1e-4)
        assert (found.n, found.decisions_differ, found.reason) == (6, 0, "")
        nodes = {node.op_type for node in onnx.load(file).graph.node}
        assert ("If" in nodes) == (name == "pair")


@pytest.mark.long
def test_the_onnx_file_mixes_both_answers_between_the_limits(tmp_path: Path) -> None:
    served, pixels = pair(low=0.2, high=0.8), images(0.3, 0.49, 0.51, 0.7)
    export_onnx(served.network, SPEC, tmp_path / "m.onnx")
    assert run_onnx(tmp_path / "m.onnx", SPEC, pixels) == pytest.approx(logits(served, pixels), abs=1e-5)


def test_in_a_batch_of_one_kind_the_onnx_file_is_that_networks_bit_for_bit() -> None:
    for pixels, name in ((images(*DARK), "champion"), (images(*BRIGHT), "repaired")):
        for size in (1, 3):
            found, wanted = (
                run_onnx(folder_of_files() / f"{each}.onnx", SPEC, pixels, batch_size=size) for each in ("pair", name)
            )
            assert np.array_equal(found, wanted)


def test_the_onnx_file_has_the_guards_probability_as_a_second_output() -> None:
    served, pixels = pair(), images(0.2, 0.49, 0.52, 0.8)
    file = str(folder_of_files() / "pair.onnx")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == ["logits", "guard"]
    (found,) = session.run(["guard"], {"input": to_input(to_unit(pixels), SPEC).numpy()})
    assert found == pytest.approx(guard_answers(served, pixels)[0], abs=1e-5)


def test_networks_that_return_a_dict_give_logits(tmp_path: Path) -> None:
    served = pair(Classifier(DictNet(seed=0).eval(), SPEC))
    pixels = images(0.2, 0.8, 0.3)
    assert logits(served, pixels).shape == (3, 4)
    export_onnx(served.network, SPEC, tmp_path / "m.onnx")
    assert run_onnx(tmp_path / "m.onnx", SPEC, pixels) == pytest.approx(logits(served, pixels), abs=1e-5)


LOADED = """
import json, sys
import mlflow.pytorch, numpy, onnxruntime, torch
folder = sys.argv[1]
network = mlflow.pytorch.load_model(folder)
images = torch.from_numpy(numpy.load(folder + ".npy"))
with torch.no_grad():
    out = network(images)
pyfunc = mlflow.pyfunc.load_model(folder).predict(images.numpy())
keys = sorted({key.partition(".")[0] for key in network.state_dict()})
print(json.dumps({"torch": out.tolist(), "pyfunc": pyfunc.tolist(), "keys": keys}))
"""


@pytest.mark.parametrize("kind", ["pickle", pytest.param("pt2", marks=pytest.mark.long)])
def test_plain_mlflow_loads_it_where_repairops_is_not_installed(kind: str, tmp_path: Path) -> None:
    from mlflow.models import Model

    first, second = (nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval() for _ in range(2))
    served, pixels = guarded(Classifier(first, SPEC), second, brightness_guard(), 0.5, 0.5), images(0.2, 0.8, 0.3, 0.9)
    folder, shipped = tmp_path / "model", tmp_path / "shipped"
    shipped.mkdir()
    flavors = ClassifierFlavors(served.network, SPEC, kind, ["torch"], guard_code(served.network, kind, shipped))
    folder.mkdir()
    flavors.save_model(str(folder), Model())
    np.save(tmp_path / "model.npy", to_input(to_unit(pixels), SPEC).numpy())
    found = json.loads(output_without({"repairops"}, LOADED, str(folder), folder=tmp_path))
    assert np.array(found["torch"]) == pytest.approx(logits(served, pixels), abs=1e-6)
    assert np.array(found["pyfunc"]) == pytest.approx(logits(served, pixels), abs=1e-6)
    assert {"champion", "guard", "repaired"} <= {*found["keys"]}


def test_a_pt2_graph_is_taken_apart_by_a_network_of_its_class() -> None:
    served, pixels = pair(), images(0.2, 0.8, 0.3, 0.9)
    served.network.guard.looks = torch.ones(3, served.network.guard.looks.shape[1], dtype=torch.half)
    shapes = ({0: torch.export.Dim("batch")},)
    example = (torch.zeros(2, 1, 8, 8),)
    graph = torch.export.export(served.network, example, dynamic_shapes=shapes).module()
    first, _ = networks_of(served)
    alone = torch.export.export(first.network, example, dynamic_shapes=shapes).module()
    found = guarded_from(Classifier(alone, SPEC), graph.state_dict())
    assert isinstance(found.network, Guarded)
    assert logits(found, pixels) == pytest.approx(logits(served, pixels), abs=1e-6)
    assert torch.equal(found.network.guard.looks, served.network.guard.looks)
    with pytest.raises((KeyError, RuntimeError)):
        guarded_from(Classifier(alone, SPEC), alone.state_dict())


@pytest.mark.long
def test_a_pt2_graph_whose_first_version_says_nothing_of_its_input_is_taken_apart(
    migrated_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain `mlflow.pytorch.log_model`, and a repair that got class names, mean and std by options and data sets."""
    import mlflow
    from mlflow.models import Model

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(migrated_database.read_bytes())
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    first, second = (nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval() for _ in range(2))
    served = guarded(Classifier(first, SPEC), second, brightness_guard(), 0.5, 0.5)
    example = np.zeros((2, 1, 8, 8), np.float32)
    mlflow.pytorch.log_model(
        first, name="model", serialization_format="pt2", input_example=example, registered_model_name="cls"
    )
    said = {"input": to_plain(SPEC), "guard": {"form": "hard", "unguarded": "models:/cls/1"}}
    folder = tmp_path / "guarded"
    folder.mkdir()
    ClassifierFlavors(served.network, SPEC, "pt2", ["torch"]).save_model(
        str(folder), Model(metadata={METADATA_KEY: said})
    )
    found = open_champion(ModelRef("cls", "2", "", ""), ModelConfig(), folder)
    assert found.spec == SPEC
    pixels = images(0.2, 0.8)
    assert logits(found.classifier, pixels) == pytest.approx(logits(served, pixels), abs=1e-6)


def test_in_training_mode_and_under_export_both_networks_answer_all_images() -> None:
    served = pair()
    set_mode(served.network, training=False)
    given = to_input(to_unit(images(0.2, 0.8)), SPEC)
    exported = torch.export.export(served.network, (given,)).module()
    assert torch.allclose(exported(given), served.network(given), atol=1e-6)
