"""Networks of all kinds through clustering, the default method, training and export; small and large batches."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.fx import GraphModule, symbolic_trace
from torchvision.models import mobilenet_v3_small, resnet18
from training_helpers import digits, method_of, parts_of

from repairops.config import MethodConfig, TrainingConfig
from repairops.core.clustering import cluster_failures
from repairops.core.training import TrainingResult, train
from repairops.core.training.loop import check_trainable
from repairops.data.records import FailureBatch, FailureSplit, ImageSet, InputSpec
from repairops.data.split import split_failures
from repairops.errors import NetworkFails, NoGradient, NotAClassifier, NotCopyable, RepairError
from repairops.model.device import set_mode
from repairops.model.evaluation import logits
from repairops.model.network import Classifier, to_unit
from repairops.model.onnx import export_onnx, run_onnx
from repairops.model.traced import frozen_statistics, graph_mode

pytestmark = pytest.mark.usefixtures("few_trials")


class Rows(nn.Module):
    """An LSTM over the rows of a grey image."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, 32, batch_first=True)
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.squeeze(1))[0][:, -1])


class Tokens(nn.Module):
    """Patches, attention and LayerNorm: no BatchNorm, and a convolution whose features are reshaped."""

    def __init__(self, channels: int, side: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, 24, 4, 4)
        self.places = nn.Parameter(torch.zeros(1, (side // 4) ** 2, 24))
        self.block = nn.TransformerEncoderLayer(24, 4, 48, dropout=0.0, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.block(tokens)).mean(1))


class Viewing(nn.Module):
    """Calls `view` on its features, which channels_last refuses, and returns a dict."""

    def __init__(self, channels: int, side: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8 * (side // 2) ** 2, classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.features(x)
        return {"features": features, "logits": self.head(features.view(x.shape[0], -1))}


def weight_normed() -> nn.Module:
    """Of the old kind, whose weight is no parameter and is computed anew by each forward pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        normed = nn.utils.weight_norm(nn.Conv2d(1, 8, 3))  # type: ignore[no-untyped-call]
    return nn.Sequential(normed, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 10 * 10, 10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int, int]] = {  # network, channels, side, classes
    "mobilenet_v3_small": (lambda: mobilenet_v3_small(num_classes=3), 3, 64, 3),
    "resnet18 at 224": (lambda: resnet18(num_classes=4), 3, 224, 4),
    "grey": (lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 10 * 10, 10)), 1, 12, 10),
    "weight_norm": (weight_normed, 1, 12, 10),
    "LayerNorm": (lambda: Tokens(3, 16, 10), 3, 16, 10),
    "LSTM over rows": (lambda: Rows(16, 10), 1, 16, 10),
    "dict": (lambda: Viewing(3, 16, 10), 3, 16, 10),
    "two classes": (lambda: Viewing(1, 16, 2), 1, 16, 2),
    "1,000 classes": (lambda: Viewing(3, 16, 1000), 3, 16, 1000),
}
MARKS = {"resnet18 at 224": pytest.mark.slow, "mobilenet_v3_small": pytest.mark.slow, "LayerNorm": pytest.mark.long}
CONFIG = TrainingConfig(
    least_steps=0, epochs=2, batch_size=16, learning_rate=0.01, device="cpu", max_validation_images=8
)


def digit_set(channels: int, side: int, classes: int, count: int, seed: int) -> ImageSet:
    """Digits of the classes that there are, enlarged; more than ten classes are digits with other names."""
    images, _ = digits()
    rng = np.random.default_rng(seed)
    rows = rng.permutation(np.flatnonzero(images.labels < classes))[:count]
    rows = np.resize(rows, count)
    large = F.interpolate(to_unit(images.pixels[torch.from_numpy(rows)]), (side, side), mode="bilinear")
    noise = 0.02 * torch.randn(large.shape, generator=Generator().manual_seed(seed))
    pixels = (large + noise).clamp(0, 1).mul(255).round().byte().expand(-1, channels, -1, -1).contiguous()
    labels = images.labels[rows] if classes <= 10 else rng.integers(0, classes, count)
    names = tuple(f"class {i}" for i in range(classes))
    return ImageSet(pixels, labels, names, np.array([f"{seed}-{i:06d}" for i in range(count)]))


def failures_of(images: ImageSet) -> FailureBatch:
    """The images at a third of their contrast, all said to be failures, each a group of its own."""
    faded = ImageSet(images.pixels // 3 + 80, images.labels, images.class_names, images.sample_ids)
    blank = np.full(len(images), "")
    wrong = (images.labels + 1) % len(images.class_names)
    return FailureBatch(faded, wrong, np.ones(len(images), np.float32), images.sample_ids, blank)


def split(batch: FailureBatch) -> FailureSplit:
    return split_failures(batch, heldout_fraction=0.3, validation_fraction=0.2, near_duplicate_similarity=0.99, seed=0)


def fine_tune(
    classifier: Classifier, train_set: ImageSet, split: FailureSplit, folder: Path, config: TrainingConfig = CONFIG
) -> TrainingResult:
    untaught = MethodConfig(distillation=0.0)  # the networks are untrained, so their answers teach nothing
    clusters = cluster_failures(split.repair, clusters=3, per_class=False, restarts=1, seed=0)
    parts = parts_of(config, train_set=train_set, failed=(split.repair, split.validation), clusters=clusters)
    return train(classifier, method_of(untaught, parts), parts, config, seed=0, work_dir=folder, method_key="default")


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


@pytest.mark.parametrize("name", [pytest.param(n, marks=MARKS.get(n, ())) for n in NETWORKS])
def test_any_network_is_trained_and_exported(name: str, tmp_path: Path) -> None:
    make, channels, side, classes = NETWORKS[name]
    train_set = digit_set(channels, side, classes, 40 if side > 100 else 168, seed=0)
    spec = InputSpec(channels, side, side, train_set.class_names, mean=(0.4,), std=(0.3,))
    classifier = Classifier(seeded(make), spec)
    before = [p.detach().clone() for p in classifier.parameters()]
    batch = failures_of(digit_set(channels, side, classes, 40, seed=1))

    # In two epochs the LSTM's loss falls, or rises, by less than its noise.
    result = fine_tune(classifier, train_set, split(batch), tmp_path, replace(CONFIG, epochs=4))

    first, last = result.history[0], result.history[-1]
    assert last["loss"] < first["loss"] or side > 100  # there, two steps an epoch
    assert result.step_shares["forward"] > 0
    assert not classifier.training
    if result.best_epoch:
        assert any(not torch.equal(a, b) for a, b in zip(before, classifier.parameters(), strict=True))
    export_onnx(classifier.network, spec, tmp_path / "model.onnx")
    exported = run_onnx(tmp_path / "model.onnx", spec, train_set.pixels[:20])
    np.testing.assert_allclose(exported, logits(classifier, train_set.pixels[:20]), atol=1e-3)


@pytest.mark.parametrize("amp", ["on", "off"])
def test_a_network_that_refuses_channels_last_is_left_as_it_is(amp: str, tmp_path: Path) -> None:
    train_set = digit_set(3, 16, 10, 168, seed=0)
    spec = InputSpec(3, 16, 16, train_set.class_names)
    parts = split(failures_of(digit_set(3, 16, 10, 40, seed=1)))
    config = TrainingConfig(least_steps=0, epochs=1, batch_size=16, device="cpu", amp=amp)  # type: ignore[arg-type]
    viewing = Classifier(seeded(lambda: Viewing(3, 16, 10)), spec)
    refused = fine_tune(viewing, train_set, parts, tmp_path / "refused", config)
    assert (refused.channels_last, refused.bfloat16) == (False, amp == "on")
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    taken = fine_tune(Classifier(plain, spec), train_set, parts, tmp_path / "taken", config)
    assert taken.channels_last
    assert plain[0].weight.is_contiguous()  # as it came, whatever it was trained in


class Normed(nn.Module):
    """BatchNorm and InstanceNorm with running statistics, dropout in both its forms."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.1),
            nn.Conv2d(8, 16, 3, 2, 1), nn.InstanceNorm2d(16, affine=True, track_running_stats=True), nn.ReLU(),
            nn.Conv2d(16, 16, 3, 1, 1), nn.InstanceNorm2d(16), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2, inplace=True), nn.Linear(64, 10),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images)


def as_graph(network: nn.Module, spec: InputSpec, *, decomposed: bool = False) -> nn.Module:
    """As MLflow's pt2 gives it back; decomposed: as exporters of other frameworks leave it."""
    example = torch.zeros(4, spec.channels, spec.height, spec.width)
    shapes = ({0: torch.export.Dim("batch", min=2)},)
    program = torch.export.export(copy.deepcopy(network), (example,), dynamic_shapes=shapes)
    return (program.run_decompositions() if decomposed else program).module()


@pytest.mark.parametrize("decomposed", [False, True])
def test_a_traced_network_computes_what_its_class_does_in_both_modes(decomposed: bool) -> None:
    spec = InputSpec(3, 16, 16, tuple("0123456789"))
    network = seeded(Normed)
    if decomposed:  # then dropout is gone, and instance norm another thing
        network = network.features[:3]
    graph = as_graph(network, spec, decomposed=decomposed)
    assert isinstance(graph, GraphModule)
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for training in (True, False, True):
        outputs = []
        for module in (network, graph):
            set_mode(module, training)
            with torch.random.fork_rng():
                torch.manual_seed(1)
                outputs.append(module(images))
        assert torch.allclose(*outputs, atol=1e-6)
        assert graph_mode(graph) == training
    for name, value in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.allclose(graph.state_dict()[name], value, atol=1e-6), name
    assert frozen_statistics(graph) == []


def test_layers_of_a_graph_that_calls_modules_change_their_mode() -> None:
    """Of torch.fx, as torchvision's feature extractors are: no graph of torch.export."""
    graph = symbolic_trace(seeded(Normed))
    layers = [layer for layer in graph.modules() if isinstance(layer, nn.BatchNorm2d | nn.Dropout | nn.InstanceNorm2d)]
    assert len(layers) == 4
    classifier = Classifier(graph, InputSpec(3, 16, 16, tuple("0123456789")))
    for training in (True, False, True):
        set_mode(classifier, training)
        assert {graph.training, *(layer.training for layer in layers)} == {training}
        logits(classifier, digit_set(3, 16, 10, 20, seed=0).pixels)
        assert {graph.training, *(layer.training for layer in layers)} == {training}


def test_frozen_batch_norm_of_a_traced_network_stays_frozen() -> None:
    spec = InputSpec(3, 16, 16, tuple("0123456789"))
    graph = as_graph(seeded(Normed), spec)
    for name, parameter in graph.named_parameters():
        parameter.requires_grad = not name.startswith("features.1.")
    before = graph.state_dict()["features.1.running_mean"].clone()
    set_mode(graph, training=True)
    graph(torch.randn(8, 3, 16, 16))
    assert torch.equal(graph.state_dict()["features.1.running_mean"], before)


def test_statistics_that_no_known_operator_reads_are_named() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("running_mean", torch.zeros(3))
            self.head = nn.Linear(3, 10)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(images.mean((2, 3)) - self.running_mean)

    assert frozen_statistics(as_graph(Own().eval(), InputSpec(3, 16, 16, ("a", "b")))) == ["running_mean"]


def test_an_evaluation_leaves_the_mode_of_a_traced_network_as_it_was() -> None:
    spec = InputSpec(3, 16, 16, tuple("0123456789"))
    classifier = Classifier(as_graph(seeded(Normed), spec), spec)
    pixels = digit_set(3, 16, 10, 20, seed=0).pixels
    first = logits(classifier, pixels)
    assert not graph_mode(classifier.network)
    assert np.array_equal(logits(classifier, pixels), first)
    set_mode(classifier, training=True)
    assert np.allclose(logits(classifier, pixels), first, atol=1e-6)
    assert graph_mode(classifier.network)


@pytest.mark.parametrize("name", ["own", pytest.param("torchvision", marks=pytest.mark.long)])
def test_a_traced_network_trains_as_its_class_does(name: str, tmp_path: Path) -> None:
    """Logged as pt2 or as a pickle, a champion ends a repair with the same weights."""
    side = 16 if name == "own" else 32
    train_set = digit_set(3, side, 10, 120, seed=0)
    spec = InputSpec(3, side, side, train_set.class_names)
    batch = failures_of(digit_set(3, side, 10, 40, seed=1))
    options = {"heldout_fraction": 0.3, "validation_fraction": 0.0, "near_duplicate_similarity": 0.99}
    parts = split_failures(batch, **options, seed=0)  # nothing to choose by: the last epoch is taken
    network = seeded(Normed if name == "own" else lambda: mobilenet_v3_small(num_classes=10))
    config = TrainingConfig(
        least_steps=0, epochs=1, batch_size=16, learning_rate=0.002, device="cpu", max_clean_drop=100
    )
    ends = []
    for number, found in enumerate((copy.deepcopy(network), as_graph(network, spec))):
        result = fine_tune(Classifier(found, spec), train_set, parts, tmp_path / str(number), config)
        assert result.best_epoch > 0
        ends.append({k: v for k, v in found.state_dict().items() if not k.endswith("num_batches_tracked")})
    moved = "features.1.running_mean" if name == "own" else "features.0.1.running_mean"
    assert not torch.equal(ends[1][moved], network.state_dict()[moved])
    assert ends[0].keys() == ends[1].keys()
    for key, value in ends[0].items():
        assert torch.allclose(ends[1][key], value, atol=1e-4), key


class Raising(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        raise LookupError("no way back")


class Hostile(nn.Module):
    """A linear network that answers in eval mode, and fails a training in one way."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.head = way, nn.Linear(144, 10)
        if way == "copy":
            self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.way == "forward":
            raise SystemExit("enough")
        logits: Tensor = self.head(x.flatten(1))
        if self.training and self.way == "two answers":
            return logits, logits  # type: ignore[return-value]
        if self.way == "detached":
            return logits.detach()
        return Raising.apply(logits) if self.way == "backward" else logits  # type: ignore[no-untyped-call, no-any-return]


@pytest.mark.parametrize(
    ("way", "kind", "says"),
    [
        ("forward", NetworkFails, "raises SystemExit in train mode on images of 2x1x12x12: enough. A repair"),
        ("backward", NetworkFails, "raises LookupError in its backward pass: no way back. A repair"),
        ("copy", NotCopyable, r"copy.deepcopy raises TypeError: cannot pickle '_thread.lock' object. Take out"),
        ("detached", NoGradient, "its answers carry no gradient. Let gradients reach"),
        ("two answers", NotAClassifier, "2 have the shape"),
    ],
)
def test_a_network_that_cannot_be_trained_is_known_before_anything_is_fitted(
    way: str, kind: type[RepairError], says: str
) -> None:
    classifier = Classifier(seeded(lambda: Hostile(way)), InputSpec(1, 12, 12, tuple("0123456789")))
    logits(classifier, torch.zeros(2, 1, 12, 12, dtype=torch.uint8))
    with pytest.raises(kind, match=says):
        check_trainable(classifier)


def test_trying_a_network_leaves_it_and_the_random_state_as_they_were() -> None:
    classifier = Classifier(seeded(Normed), InputSpec(3, 16, 16, tuple("0123456789")))
    before, state = copy.deepcopy(classifier.state_dict()), torch.get_rng_state()
    check_trainable(classifier)
    assert all(torch.equal(before[name], value) for name, value in classifier.state_dict().items())
    assert not any(part.training for part in classifier.network.modules())
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_too_little_memory_is_not_the_network_s_fault() -> None:
    class Large(Hostile):
        def forward(self, x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Classifier(Large(""), InputSpec(1, 12, 12, tuple("0123456789")))(torch.zeros(2, 1, 12, 12))


@pytest.mark.slow
def test_a_batch_of_twenty_thousand_failures(tmp_path: Path) -> None:
    train_set = digit_set(1, 8, 10, 1200, seed=0)
    batch = failures_of(digit_set(1, 8, 10, 20_000, seed=1))
    parts = split(batch)
    assert len(parts.repair) + len(parts.validation) + len(parts.heldout.batch) == 20_000
    network = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))
    classifier = Classifier(network, InputSpec(1, 8, 8, train_set.class_names))
    result = fine_tune(classifier, train_set, parts, tmp_path)
    assert result.validation_failures == len(parts.validation)
    assert result.history[-1]["validation_repair_rate"] > result.champion["validation_repair_rate"]
