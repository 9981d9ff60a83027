"""The rivals of style-guided repair: exact pixels and losses for fixed draws, and what each is trained on."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_methods import recorder, repair_data, train_batch
from torch import Generator, Tensor
from torchvision.transforms import v2
from training_helpers import champion

from repairops.config import MethodConfig, StyleConfig
from repairops.core.augment.geometry import cut_mix, cut_out, draw_boxes
from repairops.core.augment.patterns import PATTERNS
from repairops.core.augment.variants import RANGES, apply_variants, cross_over, draw_variants, mutate
from repairops.core.clustering import fit_gaussian_mixture
from repairops.core.methods import check_names
from repairops.core.methods.base import FailureSampler
from repairops.core.methods.few_shot import FewShotMix, describe
from repairops.core.methods.fine_tuning import CutMix, Cutout, Mixup, RandomOperations
from repairops.core.methods.losses import draw_beta, mixed_loss
from repairops.core.methods.sensei import Sensei, frozen_statistics
from repairops.errors import InvalidOption


def seed(value: int) -> Generator:
    return Generator().manual_seed(value)


# Boxes


def test_boxes_are_centred_on_every_pixel_and_cut_off_at_the_border():
    boxes = draw_boxes(torch.full((4000,), 0.5), torch.Size((8, 4)), seed(0))
    top, left, bottom, right = boxes.unbind(1)
    assert (top.min(), bottom.max(), left.min(), right.max()) == (0, 8, 0, 4)
    assert (bottom - top).max() == 4
    assert (bottom - top).min() == 2  # centre 0: rows -2..1
    assert (right - left).max() == 2
    assert set(((top + bottom) / 2).tolist()) >= {2.0, 3.0, 4.0, 5.0, 6.0}


def test_a_cut_out_box_takes_the_fill_and_nothing_else_changes():
    images = torch.ones(2, 3, 4, 5)
    cut = cut_out(images, torch.tensor([[0, 1, 2, 4], [0, 0, 0, 0]]), torch.tensor([0.1, 0.2, 0.3]))
    assert torch.equal(cut[0, :, 1, 2], torch.tensor([0.1, 0.2, 0.3]))
    assert [(cut[i, 0] != 1).sum().item() for i in (0, 1)] == [6, 0]
    assert (cut[0, 0, :2, 1:4] != 1).all()


def test_cut_mix_equals_torchvision_s_for_one_box():
    images, labels = torch.rand(6, 3, 8, 8, generator=seed(0)), torch.arange(6)
    box = (2, 1, 7, 5)  # x1, y1, x2, y2
    parameters = {"box": box, "lam_adjusted": 1 - 20 / 64, "labels": labels, "batch_size": 6}
    wanted = v2.CutMix(num_classes=6).transform(images, parameters)
    found, kept = cut_mix(images, torch.arange(6).roll(1), torch.tensor([[1, 2, 5, 7]]).expand(6, -1))
    assert torch.equal(found, wanted)
    assert kept.tolist() == [1 - 20 / 64] * 6


def test_the_mixed_loss_is_the_cross_entropy_of_mixed_labels():
    logits, labels, partners = torch.randn(5, 4, generator=seed(0)), torch.arange(5) % 4, torch.tensor([3, 3, 0, 1, 0])
    weights = torch.tensor([0.0, 0.25, 0.5, 1.0, 0.9])
    soft = weights[:, None] * F.one_hot(labels, 4) + (1 - weights[:, None]) * F.one_hot(partners, 4)
    assert mixed_loss(logits, labels, partners, weights)[0].item() == pytest.approx(
        F.cross_entropy(logits, soft).item()
    )


def test_beta_weights_have_the_distribution_s_moments():
    for alpha in (0.2, 1.0, 4.0):
        drawn = draw_beta(20_000, alpha, seed(0)).double()
        assert drawn.mean().item() == pytest.approx(0.5, abs=0.01)
        assert drawn.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)
    assert torch.equal(draw_beta(5, 1.0, seed(3)), draw_beta(5, 1.0, seed(3)))


# Cutout, mixup, CutMix, random


def test_cutout_covers_train_and_failure_images_alike():
    classifier, (images, labels) = recorder(), train_batch(50)
    method = Cutout(FailureSampler(repair_data(), 0.4), 0.5, torch.tensor([2.0]))  # a colour that no image has
    loss, figures = method.loss(classifier, images, labels, seed(1))
    (seen,) = classifier.seen
    covered = (seen == 2).sum((1, 2, 3))
    assert len(seen) == 70
    assert covered.min() >= 4
    assert covered.max() == 16
    assert torch.equal(seen[:50][seen[:50] != 2], images[seen[:50] != 2])
    assert figures.keys() == {"loss_train", "loss_failures"}
    assert loss.requires_grad


def test_mixup_blends_rows_of_the_joint_batch_and_their_labels():
    classifier, (images, labels) = recorder(), train_batch(50)
    sampler = FailureSampler(repair_data(), 0.4)
    loss, _ = Mixup(sampler, 1.0).loss(classifier, images, labels, seed(1))
    generator = seed(1)
    joint, joint_labels, _ = sampler.join(images, labels, generator)
    partners, weights = torch.randperm(70, generator=generator), draw_beta(70, 1.0, generator)
    wanted = weights.view(-1, 1, 1, 1) * joint + (1 - weights.view(-1, 1, 1, 1)) * joint[partners]
    assert torch.allclose(classifier.seen[0], wanted, atol=1e-6)
    again = mixed_loss(classifier(wanted), joint_labels, joint_labels[partners], weights)[0]
    assert loss.item() == pytest.approx(again.item(), rel=1e-4)


def test_mixup_equals_torchvision_s_for_one_weight():
    images = torch.rand(6, 3, 8, 8, generator=seed(0))
    wanted = v2.MixUp(num_classes=6).transform(images, {"lam": 0.3, "labels": torch.arange(6), "batch_size": 6})
    assert torch.allclose(torch.lerp(images.roll(1, 0), images, 0.3), wanted, atol=1e-6)


def test_cutmix_labels_follow_the_pixels():
    classifier, (images, labels) = recorder(), train_batch(50)
    loss, _ = CutMix(FailureSampler(repair_data(), 0.0), 1.0).loss(classifier, images, labels, seed(1))
    generator = seed(1)
    FailureSampler(repair_data(), 0.0).draw(50, generator)
    partners = torch.randperm(50, generator=generator)
    sides = (1 - draw_beta(50, 1.0, generator)).sqrt()
    mixed, kept = cut_mix(images, partners, draw_boxes(sides, images.shape[2:], generator))
    assert torch.equal(classifier.seen[0], mixed)
    assert loss.item() == pytest.approx(mixed_loss(classifier(mixed), labels, labels[partners], kept)[0].item())


def test_random_operations_change_images_and_not_labels():
    classifier, (images, labels) = recorder(), train_batch(50)
    loss, _ = RandomOperations(FailureSampler(repair_data(), 0.4), 3.0).loss(classifier, images, labels, seed(1))
    (seen,) = classifier.seen
    assert (seen[:50] != images).flatten(1).any(1).float().mean() > 0.5
    assert 0 <= seen.min() <= seen.max() <= 1
    assert torch.equal((seen * 255).round() / 255, seen)  # 8-bit images, as the operations are defined on
    assert loss.requires_grad


# SENSEI


def test_variants_of_zero_are_the_images_and_each_parameter_does_its_own():
    images = torch.rand(1, 1, 9, 9, generator=seed(0))
    assert torch.allclose(apply_variants(images, torch.zeros(1, len(RANGES))), images, atol=1e-6)

    def one(name: str, value: float) -> Tensor:
        parameters = torch.zeros(1, len(RANGES))
        parameters[0, list(RANGES).index(name)] = value
        return apply_variants(images, parameters)

    assert one("brightness", 1.0).mean() > images.mean() + 0.08
    assert one("contrast", -1.0).std().item() == pytest.approx(0.8 * images.std().item(), rel=1e-3)
    moved = torch.cat((images[..., :1], images[..., :-1]), 3)  # one pixel to the right, the border repeated
    assert torch.allclose(one("translate_x", 10 / 9), moved, atol=1e-5)
    assert torch.allclose(one("rotation", 3.0), images.rot90(1, (2, 3)), atol=1e-4)  # 3 x 30 degrees
    for name in RANGES:
        assert not torch.allclose(one(name, 1.0), images, atol=1e-3), name


def test_children_come_from_their_parents_and_differ_in_one_place():
    first, second = torch.zeros(50, 7), torch.ones(50, 7)
    child = cross_over(first, second, seed(0))
    assert set(child.unique().tolist()) == {0.0, 1.0}
    assert child.mean().item() == pytest.approx(0.5, abs=0.1)
    assert ((mutate(first, seed(0)) != first).sum(1) == 1).all()
    assert draw_variants(1000, seed(0)).abs().max() <= 1


def test_sensei_trains_on_variants_that_are_harder_than_random_ones():
    classifier, (images, labels) = recorder(), train_batch(60)
    losses = []
    for population, generations in ((1, 0), (6, 3)):
        method = Sensei(FailureSampler(repair_data(), 0.0), population, generations, robust_loss=0.0)
        losses.append(method.loss(classifier, images, labels, seed(0))[0].item())
    assert losses[1] > 1.5 * losses[0]


def test_sensei_leaves_images_alone_that_the_network_is_sure_of():
    classifier, (images, labels) = recorder(), train_batch(60)
    method = Sensei(FailureSampler(repair_data(), 0.0), 2, 1, robust_loss=math.inf)
    loss, figures = method.loss(classifier, images, labels, seed(0))
    assert figures["augmented_share"] == 0
    assert loss.item() == pytest.approx(F.cross_entropy(classifier(images), labels).item())


def test_the_search_moves_no_statistics():
    classifier = champion().train()
    before = {k: v.clone() for k, v in classifier.state_dict().items()}
    with torch.no_grad(), frozen_statistics(classifier):
        classifier(torch.rand(8, 1, 8, 8, generator=seed(0)))
        assert not classifier.network.layers[1].training
    assert all(torch.equal(before[k], v) for k, v in classifier.state_dict().items())
    assert classifier.network.layers[1].training


# Few-shot guided mix


def test_a_mixture_finds_its_groups_and_takes_fewer_where_there_are_fewer():
    values = np.concatenate((np.random.default_rng(0).normal(0, 0.1, (60, 2)), np.full((40, 2), 5.0)))
    mixture = fit_gaussian_mixture(values, 2, seed=0)
    assert sorted(mixture.weights_.tolist()) == pytest.approx([0.4, 0.6], abs=1e-6)
    assert sorted(mixture.means_[:, 0].tolist()) == pytest.approx([0, 5], abs=0.05)
    for rows in (values[:1], np.ones((5, 2))):
        alone = fit_gaussian_mixture(rows, 3, seed=0)
        assert alone.means_.shape == (1, 2)
        assert np.isfinite(alone.score_samples(values)).all()
        assert (alone.covariances_ > 0).all()


def test_guided_mixtures_look_more_like_what_guides_them():
    images, _ = train_batch(200)
    flat = describe(images * 0.3 + 0.3).double().numpy()  # failures of little contrast
    near = FewShotMix(fit_gaussian_mixture(flat, 2, seed=0), FailureSampler(repair_data(), 0.0), 3.0, 3)
    anywhere = SimpleNamespace(score_samples=lambda values: np.zeros(len(values)))  # equally likely, whatever it is
    free = FewShotMix(anywhere, FailureSampler(repair_data(), 0.0), 3.0, 3)
    spread = [describe(method.mix(images, seed(0)))[:, 1].mean().item() for method in (near, free)]
    assert spread[0] < spread[1] - 0.05
    mixed = near.mix(images, seed(0))
    assert 0 <= mixed.min() <= mixed.max() <= 1


# Known patterns


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("channels", [1, 3])
def test_patterns_keep_the_kind_of_an_image_and_draw_for_each(name, channels):
    images = torch.rand(1, channels, 12, 16, generator=seed(0)).expand(6, -1, -1, -1).contiguous()
    changed = PATTERNS[name](images, seed(1))
    assert changed.shape == images.shape
    assert 0 <= changed.min() <= changed.max() <= 1
    assert not torch.allclose(changed, images, atol=1e-3)
    assert torch.equal(changed, PATTERNS[name](images, seed(1)))
    if name != "pixelate":
        assert len({tuple(image.flatten().tolist()) for image in changed}) == 6


def test_patterns_do_what_their_names_say():
    images = torch.rand(40, 1, 16, 16, generator=seed(0))

    def detail(x: Tensor) -> float:
        return x.diff(dim=3).square().mean().item()

    grey = torch.full((40, 1, 16, 16), 0.5)
    assert 0.03 < PATTERNS["gaussian_noise"](grey, seed(1)).std().item() < 0.12
    assert detail(PATTERNS["gaussian_blur"](images, seed(1))) < 0.5 * detail(images)
    assert torch.allclose(PATTERNS["gaussian_blur"](grey, seed(1)), grey, atol=1e-5)
    contrasts = PATTERNS["contrast"](images, seed(1)).std((1, 2, 3)) / images.std((1, 2, 3))
    assert 0.1 <= contrasts.min() < 0.3 < 0.8 < contrasts.max() <= 1
    shifts = (PATTERNS["brightness"](grey, seed(1)) - grey).mean((1, 2, 3))
    assert -0.3 <= shifts.min() < -0.1 < 0.1 < shifts.max() <= 0.3
    assert detail(PATTERNS["pixelate"](images, seed(1))) < detail(images)


def test_a_rival_beside_that_does_not_exist_is_refused() -> None:
    with pytest.raises(
        InvalidOption, match=r"method.compare is 'fine_tun'; it must be one that exists, such as fine_tune"
    ):
        check_names(MethodConfig(compare="fine_tun"), StyleConfig())
    check_names(MethodConfig(compare="auto"), StyleConfig())
