"""Triage's scores against dnn-tip and float64 references, activations of all kinds of networks, and the choice."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from guard_helpers import images as of_brightness
from guard_helpers import pair
from scipy.special import softmax
from scipy.stats import gaussian_kde
from store_helpers import SPEC, DictNet, TinyNet, digit_set, digits
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from repairops.data.folder import Part
from repairops.errors import InvalidOption, NotAClassifier
from repairops.model.evaluation import guard_answers, logits
from repairops.model.network import Classifier
from repairops.triage.activations import find_taps, see
from repairops.triage.choice import choose, ranking
from repairops.triage.observe import networks, observe
from repairops.triage.scores import (
    ANSWER,
    GUARD,
    SURPRISE,
    Reference,
    answer_scores,
    dsa,
    gini,
    lsa,
    mahalanobis,
    margin,
    surprise_scores,
)

CLASSES = 3


def cloud(count: int, values: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Activations around a place for each class, and the classes."""
    random = np.random.default_rng(seed)
    answers = np.arange(count) % CLASSES
    return random.normal(size=(count, values)) * np.linspace(0.5, 2, values) + 2 * answers[:, None], answers


@pytest.fixture
def reference() -> Reference:
    activations, answers = cloud(120)
    return Reference(activations, answers, np.roll(answers, 1))


# Scores


def test_surprise_is_dnn_tip_s(reference: Reference) -> None:
    """Within 1e-5 on the same activations."""
    theirs: Any = pytest.importorskip("dnn_tip.surprise", reason="dnn-tip is not installed: pip install '.[dev]'")
    points, answers = cloud(40, seed=1)
    train, known = reference.activations, reference.answers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # their own estimate of a density is for older versions of scipy
        wanted = theirs.MultiModalSA.build_by_class(train, known, lambda a, _: theirs.LSA(a))(points, answers)
    np.testing.assert_allclose(lsa(points, answers, reference), wanted, rtol=1e-5)
    np.testing.assert_allclose(dsa(points, answers, reference), theirs.DSA(train, known)(points, answers), rtol=1e-5)
    one_class = Reference(train, known, np.zeros_like(known))
    np.testing.assert_allclose(mahalanobis(points, answers, one_class), theirs.MDSA(train)(points), rtol=1e-5)


def test_surprise_is_what_its_sources_say(reference: Reference) -> None:
    """Written out in float64, one image after the other."""
    points, answers = cloud(9, seed=1)
    train, known = reference.activations, reference.answers
    centred = np.concatenate([train[reference.labels == k] - train[reference.labels == k].mean(0) for k in range(3)])
    precision = np.linalg.inv(centred.T @ centred / len(train))
    means = [train[reference.labels == k].mean(axis=0) for k in range(3)]
    for row, (point, answer) in enumerate(zip(points, answers, strict=True)):
        own, others = train[known == answer], train[known != answer]
        near = own[np.linalg.norm(own - point, axis=1).argmin()]
        ratio = np.linalg.norm(near - point) / np.linalg.norm(others - near, axis=1).min()
        assert dsa(points, answers, reference)[row] == pytest.approx(ratio, rel=1e-9)
        density = gaussian_kde(own.T)(point)[0]
        assert lsa(points, answers, reference)[row] == pytest.approx(-np.log(density), rel=1e-9)
        distance = min(float((point - mean) @ precision @ (point - mean)) for mean in means)
        assert mahalanobis(points, answers, reference)[row] == pytest.approx(distance, rel=1e-9)


def test_what_is_far_from_the_train_set_surprises_more(reference: Reference) -> None:
    near, answers = cloud(30, seed=2)
    far = surprise_scores(near + 40, answers, reference)  # where a density is 0 in float64
    for name, values in surprise_scores(near, answers, reference).items():
        assert np.isfinite(far[name]).all(), name
        assert far[name].min() > values.max(), name


def test_an_answer_that_no_train_image_has_and_values_that_do_not_vary(reference: Reference) -> None:
    dead = np.concatenate((reference.activations, np.zeros((120, 3))), axis=1)
    points, _ = cloud(5, seed=1)
    alive = np.concatenate((points, np.ones((5, 3))), axis=1)
    unknown = np.full(5, 7)
    for known, answers in ((reference.answers, unknown), (np.zeros(120, np.int64), np.zeros(5, np.int64))):
        found = surprise_scores(alive, answers, Reference(dead, known, reference.labels))
        assert all(np.isfinite(values).all() for values in found.values())
        plain = surprise_scores(points, answers, Reference(reference.activations, known, reference.labels))
        np.testing.assert_allclose(found["mahalanobis"], plain["mahalanobis"])
        np.testing.assert_allclose(found["lsa"], plain["lsa"])
    few = Reference(reference.activations[:3], reference.answers[:3], reference.labels[:3])
    assert all(np.isinf(values).all() for values in surprise_scores(points, unknown, few).values())


def test_scores_of_an_answer() -> None:
    sure, even = np.array([[1.0, 0.0, 0.0]]), np.full((1, 3), 1 / 3)
    assert [gini(sure)[0], margin(sure)[0]] == [0, 0]
    assert [gini(even)[0], margin(even)[0]] == pytest.approx([2 / 3, 1])
    assert margin(np.array([[0.2, 0.5, 0.3]]))[0] == pytest.approx(0.8)
    found = answer_scores(np.array([[3.0, 1.0, 0.0], [np.nan, 0.0, 0.0], [800.0, 0.0, 0.0]]))
    assert found["confidence"][0] == pytest.approx(1 - softmax([3, 1, 0]).max())
    assert {name: (values[1], values[2]) for name, values in found.items()} == dict.fromkeys(ANSWER, (np.inf, 0))


def test_an_image_without_finite_activations_comes_first(reference: Reference) -> None:
    points, answers = cloud(4, seed=1)
    points[2, 0] = np.inf
    broken = Reference(np.concatenate((reference.activations, np.full((1, 6), np.nan))),
                       np.append(reference.answers, 0), np.append(reference.labels, 0))  # fmt: skip
    plain = surprise_scores(points, answers, reference)
    for name, values in surprise_scores(points, answers, broken).items():
        assert np.flatnonzero(np.isinf(values)).tolist() == [2], name
        np.testing.assert_array_equal(values, plain[name])


# Activations


class Output(dict[str, Tensor]):
    """As Hugging Face's: a mapping whose entries are attributes too."""

    __getattr__ = dict.__getitem__


class Tokens(nn.Module):
    """Patches with a class token, attention, and a head that is called by keyword; the output is a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))  # a matrix of the root's own, which is no head
        self.patches = nn.Conv2d(1, 8, 4, 4)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.classifier = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Output:
        tokens = torch.cat((self.token.expand(len(x), -1, -1), self.patches(x).flatten(2).mT), 1)
        hidden = self.block(tokens)
        return Output(logits=self.classifier(input=hidden[:, 0]), hidden=hidden)


class Patches(nn.Module):
    """Tokens without a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 4, 4)
        self.block = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 6), nn.GELU())
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.block(self.patches(x).flatten(2).mT).mean(1))
        return logits


class Beside(TinyNet):
    """A part of it returns its weights before what it makes of the images."""

    class Both(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return self.weight, super().forward(x)

    def __init__(self) -> None:
        super().__init__()
        self.both = self.Both(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.both(super().forward(x))[1]


class Rows(nn.Module):
    """An LSTM, whose output is a tuple, and a head without a module after it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 5, batch_first=True)
        self.head = nn.Linear(5, 4)
        self.unused = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.lstm(x.squeeze(1))[0][:, -1])
        return logits


def pixels(count: int = 12) -> Tensor:
    return torch.from_numpy(digits(count))[:, None]


@pytest.mark.parametrize(
    ("network", "before", "values", "layer", "width"),
    [
        (TinyNet(), "the input of linear", 256, "convolution", 4),
        (DictNet(), "the input of linear", 256, "norm", 4),
        (Tokens(), "the input of classifier", 8, "block", 8),
        (Rows(), "the input of head", 5, "lstm", 5),
        (Beside(), "the input of both", 4, "both", 4),
        (nn.Sequential(nn.Flatten(), weight_norm(nn.Linear(64, 4))), "the input of 1", 64, "0", 64),
    ],
    ids=["convolutions", "a mapping", "tokens", "an LSTM", "a tuple", "weight norm"],
)  # fmt: skip
def test_activations_of_any_module(network: nn.Module, before: str, values: int, layer: str, width: int) -> None:
    classifier = Classifier(network.eval(), SPEC)
    taps = find_taps(classifier)
    assert [str(tap) for tap in taps] == [before]
    seen = see(classifier, taps, pixels())
    assert seen.activations.shape == (12, values)
    np.testing.assert_array_equal(seen.logits, logits(classifier, pixels()))
    both = find_taps(classifier, (layer, layer))
    assert [str(tap) for tap in both] == [layer, layer]
    assert see(classifier, both, pixels()).activations.shape == (12, 2 * width)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_activations_are_what_the_layer_gives_on_average() -> None:
    network = TinyNet().eval()
    classifier = Classifier(network, SPEC)
    images = (pixels().float() / 255 - 0.3) / 0.35
    found = see(classifier, find_taps(classifier, ("convolution",)), pixels())
    with torch.no_grad():
        maps = network.convolution(images)
    np.testing.assert_allclose(found.activations, maps.mean((2, 3)).numpy(), atol=1e-6)
    patches = Patches().eval()
    tokens = Classifier(patches, SPEC)
    found = see(tokens, find_taps(tokens, ("block",)), pixels())
    with torch.no_grad():
        shown = patches.block(patches.patches(images).flatten(2).mT)
    np.testing.assert_allclose(found.activations, shown.mean(1).numpy(), atol=1e-6)
    before = see(classifier, find_taps(classifier), pixels())
    with torch.no_grad():
        np.testing.assert_allclose(network.linear(torch.from_numpy(before.activations)), before.logits, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "layer", "decomposed"),
    [(DictNet(), "norm", False), (Patches(), "block", True)],
    ids=["a mapping", "decomposed"],
)
def test_a_pt2_graph_has_the_same_names_and_activations(network: nn.Module, layer: str, decomposed: bool) -> None:
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(network.eval(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: batch},))
    graph = (exported.run_decompositions() if decomposed else exported).module()
    plain, traced = Classifier(network, SPEC), Classifier(graph, SPEC)
    for layers in ((), (layer,)):
        taps = find_taps(plain, layers), find_taps(traced, layers)
        assert [str(tap) for tap in taps[0]] == [str(tap) for tap in taps[1]]
        wanted, found = see(plain, taps[0], pixels()), see(traced, taps[1], pixels())
        np.testing.assert_allclose(found.activations, wanted.activations, atol=1e-5)
        np.testing.assert_allclose(found.logits, wanted.logits, atol=1e-5)


def test_a_layer_that_does_not_exist_is_answered_with_the_nearest() -> None:
    classifier = Classifier(TinyNet().eval(), SPEC)
    with pytest.raises(InvalidOption, match="'convolutoin'; it must be one that exists, such as convolution"):
        find_taps(classifier, ("convolutoin",))
    with pytest.raises(InvalidOption, match="it must be one of lstm, head"):  # `unused` is never called
        find_taps(Classifier(Rows().eval(), SPEC), ("x",))
    bare = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    with pytest.raises(NotAClassifier, match="name layers with --layers"):
        find_taps(Classifier(bare, SPEC))
    assert find_taps(Classifier(bare, SPEC), ("0",))


# All scores of a version


def test_a_guarded_version_s_images_are_held_against_the_network_that_answers() -> None:
    served = pair()
    parts = [Part(["dark", "bright"], of_brightness(0.2, 0.8)), Part(["dark too"], of_brightness(0.25))]
    train = digit_set(40)
    answering = networks(served, train, ())
    found = observe(served, answering, parts)
    assert found is not None
    assert found.names == ["dark", "bright", "dark too"]
    assert set(found.scores) == {*ANSWER, *SURPRISE, GUARD}
    everything = torch.cat([part.pixels for part in parts])
    np.testing.assert_allclose(found.logits, logits(served, everything), atol=1e-6)
    np.testing.assert_array_equal(found.scores[GUARD], guard_answers(served, everything).probability.astype(np.float64))
    for row, network in enumerate((answering[0], answering[1], answering[0])):
        seen = see(network.classifier, network.taps, everything[row : row + 1])
        np.testing.assert_allclose(found.activations[row], seen.activations[0], atol=1e-5)
        assert network.reference is not None
        wanted = surprise_scores(seen.activations, seen.logits.argmax(1), network.reference)
        for name in SURPRISE:
            assert found.scores[name][row] == pytest.approx(wanted[name][0], rel=1e-3), name


def test_without_train_images_there_is_no_surprise() -> None:
    served = Classifier(TinyNet().eval(), SPEC)
    found = observe(served, networks(served, None, ()), [Part(list("abc"), pixels(3))])
    assert found is not None
    assert set(found.scores) == set(ANSWER)
    assert observe(served, networks(served, None, ()), []) is None


# The choice


def test_images_with_the_same_pixels_are_chosen_once() -> None:
    scores, ids = np.array([0.1, 0.9, 0.9, np.inf, 0.5]), np.array(["a", "b", "b", "c", "a"])
    assert ranking(scores, ids).tolist() == [3, 1, 0, 2, 4]
    chosen = choose(scores, np.zeros((5, 2)), ids, 5, clusters=3, seed=0)
    assert chosen.rows.tolist() == [3, 1, 0]


def test_one_scene_does_not_fill_the_choice() -> None:
    """300 shots of one scene with the highest scores, and ten other scenes of ten."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(11, 5)) * 10
    scene = np.repeat(np.arange(11), [300, *[10] * 10])
    features = (centres[scene] + random.normal(size=(400, 5)) * 0.1).astype(np.float32)
    scores, ids = np.where(scene == 0, 0.9, 0.6) + random.random(400) / 100, np.arange(400).astype(str)
    plain = choose(scores, features, ids, 200, clusters=1, seed=0)
    assert plain.rows.tolist() == np.argsort(-scores)[:200].tolist()
    assert set(scene[plain.rows]) == {0}
    spread = choose(scores, features, ids, 200, clusters=11, seed=0)
    assert len(set(spread.rows.tolist())) == 200
    assert np.bincount(scene[spread.rows]).tolist() == [100, *[10] * 10]
    assert spread.rows[0] == plain.rows[0]
    assert np.all(np.diff(scores[spread.rows[:11]]) < 0)  # the clusters' best, the cluster of the best first
    assert spread.clusters[:11].tolist() == list(range(11))
    assert all(len(set(scene[spread.rows[spread.clusters == c]])) == 1 for c in range(11))
    again = choose(scores, features, ids, 200, clusters=11, seed=0)
    assert again.rows.tolist() == spread.rows.tolist()


def test_images_far_below_the_best_are_not_chosen_for_being_different() -> None:
    features = np.repeat(np.eye(4, dtype=np.float32), 25, axis=0)
    scores = np.repeat([0.9, 0.8, 0.1, 0.0], 25) + np.arange(100) / 1e4
    chosen = choose(scores, features, np.arange(100).astype(str), 20, clusters=4, seed=0)
    assert np.bincount(chosen.rows // 25).tolist() == [10, 10]
