import copy
import errno
import functools
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torchvision.transforms import Normalize, _functional_tensor
from torchvision.transforms.functional import normalize

from repairops.data.records import InputSpec
from repairops.errors import ExportImpossible, NoMemory, NoSpace, RepairError
from repairops.model.evaluation import logits
from repairops.model.network import Classifier
from repairops.model.onnx import compare, decisions_differ, export_onnx, measure_latency, run_onnx

SPEC = InputSpec(1, 8, 8, ("a", "b", "c"), mean=(0.3,), std=(0.4,))


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(144, 3)
        )

    def forward(self, x):
        return self.layers(x)


class OverRows(nn.Module):
    """An LSTM that reads the image row by row; its answer is in a dict beside another tensor."""

    def __init__(self):
        super().__init__()
        self.rows = nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        state = self.rows(x[:, 0])[0][:, -1]
        return {"logits": self.head(state), "state": state}


class Branching(nn.Module):
    def forward(self, x):
        y = x.flatten(1)[:, :3]
        return y if y.sum().item() > 0 else -y


class TwoImagesOnly(nn.Module):
    def forward(self, x):
        return x.reshape(2, 64)[:, :3]


def pixels(n, seed=0):
    return torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@functools.cache
def exported(kind):
    """(network in train mode with used BatchNorm statistics, its ONNX file); exporting takes seconds."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = kind()
        for seed in range(3):
            network((pixels(16, seed).float() / 255 - 0.3) / 0.4)
    path = Path(tempfile.mkdtemp()) / "model.onnx"
    export_onnx(network, SPEC, path)
    return network, path


@pytest.mark.parametrize("kind", [Convolutional, OverRows])
def test_any_batch_size_gives_pytorchs_logits(kind):
    network, path = exported(kind)
    images = pixels(7)
    normalised = (images.float() / 255 - 0.3) / 0.4
    with torch.no_grad():
        out = copy.deepcopy(network).eval()(normalised)
    expected = (out["logits"] if isinstance(out, dict) else out).numpy()
    for batch_size in (1, 3, 7, 100):
        assert run_onnx(path, SPEC, images, batch_size=batch_size) == pytest.approx(expected, abs=1e-5)
    assert run_onnx(path, SPEC, images[:0]).shape == (0, 3)


def test_the_file_takes_the_native_input_and_has_free_batch_and_named_ends():
    _, path = exported(Convolutional)
    graph = onnx.load(path, load_external_data=False).graph
    assert [value.name for value in graph.input] == ["input"]
    assert [value.name for value in graph.output] == ["logits"]
    dims = graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param
    assert [d.dim_value for d in dims[1:]] == [1, 8, 8]
    assert len(list(path.parent.iterdir())) == 1  # weights are inside


def test_exporting_is_silent_and_leaves_the_network_as_it_was(capfd, tmp_path):
    network = Convolutional().train()
    network.layers[1].eval()
    modes = [part.training for part in network.modules()]
    state = copy.deepcopy(network.state_dict())
    export_onnx(network, SPEC, tmp_path / "m.onnx")
    assert [part.training for part in network.modules()] == modes
    assert all((network.state_dict()[k] == v).all() for k, v in state.items())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("network", "reason"), [(Branching(), "data-dependent"), (TwoImagesOnly(), "froze the batch axis")]
)
def test_an_export_that_is_impossible_says_why_in_one_line(network, reason, tmp_path):
    with pytest.raises(ExportImpossible, match=reason) as caught:
        export_onnx(network, SPEC, tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def parity(network, path, *sets, tolerance):
    expected = [logits(Classifier(network, SPEC), images) for images in sets]
    return compare(expected, [run_onnx(path, SPEC, images) for images in sets], tolerance=tolerance)


def test_a_traced_network_exports(tmp_path):
    network = copy.deepcopy(exported(Convolutional)[0]).eval()
    shapes = ({0: torch.export.Dim("batch")},)
    traced = torch.export.export(network, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=shapes).module()
    export_onnx(traced, SPEC, tmp_path / "m.onnx")
    found = parity(traced, tmp_path / "m.onnx", pixels(5), tolerance=1e-4)
    assert (found.n, found.decisions_differ) == (5, 0)


class Normalised(Convolutional):
    def forward(self, x):
        return self.layers(normalize(x, (0.3,), (0.4,)))


@pytest.mark.parametrize(
    "network", [nn.Sequential(Normalize((0.3,), (0.4,)), Convolutional()), Normalised()], ids=["module", "function"]
)
def test_a_network_that_normalises_its_input_by_torchvision_exports(network, tmp_path):
    own = _functional_tensor.normalize
    export_onnx(network.eval(), SPEC, tmp_path / "m.onnx")
    found = parity(network, tmp_path / "m.onnx", pixels(5), tolerance=1e-4)
    assert (found.n, found.decisions_differ) == (5, 0)
    assert found.max_difference < 1e-4
    assert _functional_tensor.normalize is own


def test_parity_counts_over_several_sets():
    network, path = exported(Convolutional)
    found = parity(network, path, pixels(7), pixels(1, 1), pixels(0), tolerance=1e-4)
    assert (found.n, found.decisions_differ, found.reason) == (8, 0, "")
    assert found.max_difference < 1e-5


def test_parity_finds_another_networks_file():
    network, path = exported(Convolutional)
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.layers[5].bias += torch.tensor([0.0, 0.0, 9.0])
    found = parity(other, path, pixels(20), tolerance=1e-3)
    assert found.max_difference == pytest.approx(9, abs=1e-3)
    assert 0 < found.decisions_differ <= 20


def test_parity_keeps_nan():
    network, path = exported(Convolutional)
    broken = copy.deepcopy(network)
    with torch.no_grad():
        broken.layers[5].bias[0] = float("nan")
    found = parity(broken, path, pixels(3), pixels(3, 1), tolerance=1e-3)
    assert np.isnan(found.max_difference)


def test_parity_with_a_file_that_does_not_run_gives_the_reason(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(ExportImpossible, match="ONNX Runtime does not run it") as caught:
        run_onnx(tmp_path / "m.onnx", SPEC, pixels(2))
    assert "\n" not in str(caught.value)


def test_a_tie_within_tolerance_is_no_different_decision():
    ours = np.array([[1.0, 1.0005, 0], [1.0, 1.01, 0], [3, 1, 0]], np.float32)
    theirs = np.array([[1.0004, 1.0, 0], [1.02, 1.0, 0], [3, 1, 0]], np.float32)
    assert decisions_differ(ours, theirs, tolerance=1e-3) == 1
    assert decisions_differ(ours, theirs, tolerance=0.0) == 2
    assert decisions_differ(ours[:0], theirs[:0], tolerance=0.0) == 0


def test_latency_figures_are_ordered_and_of_the_right_batch():
    path = exported(Convolutional)[1]
    one, three = measure_latency(path, path, SPEC, pixels(2), batch_sizes=(1, 3), runs=30)
    assert (one.batch_size, three.batch_size, one.runs) == (1, 3, 30)
    for found in (one, three):
        assert 0 < found.champion_median_ms <= found.champion_p99_ms
        assert 0 < found.challenger_median_ms <= found.challenger_p99_ms
    (cut,) = measure_latency(path, path, SPEC, pixels(2), batch_sizes=(1,), runs=1000, max_seconds=0.0)
    assert cut.runs == 20


@pytest.mark.parametrize(("fact", "kind"), [(OSError(errno.ENOSPC, "full"), NoSpace), (MemoryError(), NoMemory)])
def test_a_machine_that_fails_is_no_network_that_cannot_be_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fact: Exception, kind: type[RepairError]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to export the model") from fact  # as the exporter words it

    monkeypatch.setattr("torch.onnx.export", fail)
    with pytest.raises(kind):
        export_onnx(Convolutional(), SPEC, tmp_path / "model.onnx")
    monkeypatch.setattr("repairops.model.onnx._session", fail)
    with pytest.raises(kind):
        run_onnx(tmp_path / "model.onnx", SPEC, pixels(2))
