"""Clusters by look: images of one look are one cause whatever they show, two looks are two."""

import pickle

import numpy as np
import pytest
import torch
from style_helpers import digits, eight_bits, generator, scenes

from repairops.config import ClusteringConfig, StyleConfig
from repairops.core.clustering import cluster_failures, distance_of_looks, nearest_clusters
from repairops.core.looks import describe_all, describe_looks, find_degradation, fit_to_failures
from repairops.core.parts import TrainingParts
from repairops.core.styles import fit_style
from repairops.core.styles.fitted import FittedLooks
from repairops.core.styles.fitted.degradation import PARAMETERS
from repairops.data.decoding import sample_ids
from repairops.data.records import Clusters, FailureBatch, ImageSet

NAMES = tuple("0123456789")


def batch_of(images, labels=None):
    pixels = (images * 255).round().byte()
    labels = np.zeros(len(pixels), np.int64) if labels is None else np.asarray(labels, np.int64)
    blank = np.full(len(pixels), "")
    found = ImageSet(pixels, labels, NAMES, np.array(sample_ids(pixels)))
    return FailureBatch(found, (labels + 1) % 10, np.ones(len(pixels), np.float32), blank, blank)


def noisy(images, seed=0, least=0.05, most=0.15):
    sigma = least + (most - least) * torch.rand(len(images), 1, 1, 1, generator=generator(seed))
    return eight_bits(images + sigma * torch.randn(images.shape, generator=generator(seed + 1)))


def pale(images):
    gain = 0.2 + 0.4 * torch.rand(len(images), 1, 1, 1, generator=generator(5))
    mean = images.mean((2, 3), keepdim=True)
    return eight_bits(mean + gain * (images - mean))


@pytest.fixture(scope="module")
def clean():
    return (scenes()[200:] * 255).round().byte()


def by_look(images, clean, labels=None, **options):
    config = vars(ClusteringConfig(**options))
    return cluster_failures(batch_of(images, labels), **config, seed=0, clean=clean)


@pytest.mark.parametrize("degrade", [noisy, pale, lambda images: images], ids=["noise", "contrast", "nothing"])
def test_one_look_is_one_cluster_though_its_strength_and_content_differ(clean, degrade):
    clusters = by_look(degrade(scenes()[:120]), clean)
    assert clusters.count == 1
    assert clusters.probabilities.sum() == pytest.approx(1)  # Eq. 4 within it


def test_two_looks_are_two_clusters_and_other_images_find_theirs(clean):
    images = torch.cat([noisy(scenes()[:70]), pale(scenes()[70:100])])
    clusters = by_look(images, clean)
    assert clusters.assignments.tolist() == [0] * 70 + [1] * 30
    others = (torch.cat([pale(scenes()[100:110]), noisy(scenes()[110:120])]) * 255).round().byte()
    assert nearest_clusters(batch_of(images), clusters, others).tolist() == [1] * 10 + [0] * 10
    sent = pickle.loads(pickle.dumps(clusters))  # as another process of a training gets it
    assert nearest_clusters(batch_of(images), sent, others).tolist() == [1] * 10 + [0] * 10
    by_content = cluster_failures(batch_of(images), clusters=5, per_class=False, restarts=3, seed=0)
    assert by_content.count == 5
    assert by_content.space is None


def test_a_second_look_of_fewer_failures_than_a_tenth_is_no_cause(clean):
    assert by_look(torch.cat([noisy(scenes()[:110]), pale(scenes()[110:119])]), clean).count == 1


def test_never_more_clusters_than_configured(clean):
    assert by_look(torch.cat([noisy(scenes()[:60]), pale(scenes()[60:120])]), clean, clusters=1).count == 1


def test_inside_each_class_and_without_clean_images_failures_are_clustered_by_pixels(clean):
    images, labels = scenes()[:40], np.tile([0, 1], 20)
    pixels = by_look(images, clean, labels, by="pixels", per_class=True)
    assert (by_look(images, clean, labels, per_class=True).assignments == pixels.assignments).all()
    alone = cluster_failures(batch_of(images), **vars(ClusteringConfig()), seed=0)
    assert (alone.assignments == by_look(images, clean, by="pixels").assignments).all()


@pytest.mark.parametrize(
    "images",
    [digits()[:40], torch.full((40, 3, 16, 16), 0.5), torch.rand(40, 1, 1, 1), scenes(40, 72)[:, :1]],
    ids=["small", "constant", "a pixel", "tiles"],
)
def test_any_images_have_a_look(images):
    pixels = (images * 255).round().byte()
    for count in (1, 40):
        clusters = by_look(images[:count], pixels[:1])
        assert clusters.count == 1
        assert clusters.probabilities.sum() == pytest.approx(1)
        assert np.isfinite(clusters.space(pixels)).all()


def test_the_distance_of_looks_is_of_the_nearest_two_and_grows_with_their_gap():
    rng = np.random.default_rng(0)
    features = rng.normal(0, 0.1, (90, 2)) + np.repeat([[0, 0], [1, 0], [0, 3]], 30, axis=0)
    three, two = np.repeat([0, 1, 2], 30), np.repeat([0, 0, 1], 30)
    assert distance_of_looks(features, three) == pytest.approx(10, rel=0.3)  # 1 over 0.1
    assert distance_of_looks(features, two) > 50
    assert distance_of_looks(features, np.zeros(90, int)) == float("inf")


@pytest.mark.usefixtures("few_trials")
def test_each_look_has_an_estimate_of_its_own_and_is_told_with_its_share():
    """The looks alternate, so that an image's number within its look is not that in the batch."""
    images, looks = digits()[:100], torch.tensor([0, 1] * 40 + [0] * 20)
    struck = eight_bits(images + 0.15 * torch.randn(images.shape, generator=generator(5)))
    references = torch.where(looks.view(-1, 1, 1, 1) == 0, struck, images)
    clean = digits()[300:900]
    style = fit_style("fitted_degradation", references, clean, StyleConfig(), generator(), looks=looks)
    assert isinstance(style, FittedLooks)
    assert [len(look.values) for look in style.found] == [60, 40]
    assert ["noise" in look.names for look in style.found] == [True, False]
    content = digits()[1000:1010]
    moved = (style.apply(content, torch.tensor([0, 1] * 5), generator()) - content).std((1, 2, 3))
    assert moved[::2].mean() > 0.05 > moved[1::2].mean()
    clusters = Clusters(looks.numpy(), np.zeros(100, np.float32), np.full(100, 0.01), lambda pixels: pixels.numpy())
    whole = describe_all(style.found, clusters)
    assert whole["look"].startswith("two looks: 60% additive noise")
    assert " / 40% no degradation" in whole["look"]
    told = describe_looks(style, style.found, clusters)
    assert [finding for look in told for finding in look["findings"]] == whole["findings"]
    assert [look["cluster"] for look in told] == [0, 1]
    assert "noise" in told[0]["look"]


@pytest.mark.usefixtures("few_trials")
@pytest.mark.parametrize("name", ["fitted_degradation", "fourier_amplitude"])
def test_what_is_told_of_failures_has_its_evidence(name):
    """Whether the style has an estimate of its own or not; without evidence a false component is told as a true one."""
    failures, train = batch_of(noisy(digits()[:60])), batch_of(digits()[300:900])
    one = Clusters(np.zeros(60, np.int64), np.zeros(60, np.float32), np.full(60, 1 / 60))
    parts = TrainingParts(train.images, np.arange(600), train.images, False, failures, failures, one)
    style = fit_to_failures(parts, None, StyleConfig(name=name), torch.device("cpu"), seed=0)
    (found,) = find_degradation(style, parts, seed=0)
    families = {PARAMETERS[parameter].family for parameter in found.names}
    assert "noise" in families
    assert found.evidence.keys() == families
