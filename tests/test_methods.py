"""What each method's loss is made of, which references and failures it draws, and the table of methods."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from training_helpers import SPEC, Degradation, Identity, champion, clusters_of, digits, failures, one_cluster

from repairops.config import MethodConfig
from repairops.core.augment.patterns import Pattern, find_pattern
from repairops.core.methods import CONSOLIDATE, METHODS, MethodData, make_method
from repairops.core.methods.base import FailureSampler, make_sampler
from repairops.core.methods.fine_tuning import BatchNormStatistics, FineTune
from repairops.core.methods.losses import distillation_loss, jensen_shannon, train_and_failure_loss
from repairops.core.methods.style_guided import MixedConsistency, StyleGuided
from repairops.core.methods.style_operations import StyleOperations, reference_weights
from repairops.core.styles.base import Style
from repairops.data.records import Clusters
from repairops.errors import InvalidOption, NotFineTunable, PatternNotUsable
from repairops.model.network import Classifier, to_unit


def repair_data(jitter=lambda images, generator: images) -> MethodData:
    batch, _ = failures()
    return MethodData(digits()[0], batch, one_cluster(len(batch)), jitter, torch.device("cpu"), champion, Degradation())


def train_batch(count: int) -> tuple[Tensor, Tensor]:
    train, _ = digits()
    rows = torch.randperm(len(train), generator=Generator().manual_seed(5))[:count]
    return to_unit(train.pixels[rows]), torch.from_numpy(train.labels)[rows]


class Recorder(Classifier):
    """A classifier that keeps what it was given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, SPEC)
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return super().forward(images)


def recorder() -> Recorder:
    return Recorder(champion().network).eval()  # eval mode: the logits of a row do not depend on the others


def operations(style: Style, clusters: Clusters, *patterns: Pattern) -> StyleOperations:
    return StyleOperations(style, reference_weights(clusters), clusters.count, patterns)


# References and failures


def test_references_are_drawn_by_cluster_first_then_by_eq_4():
    clusters = clusters_of([0, 0, 0, 1, 2, 2], [0.5, 0.3, 0.2, 1.0, 0.9, 0.1])
    weights = reference_weights(clusters)
    np.testing.assert_allclose(weights, np.array([0.5, 0.3, 0.2, 1.0, 0.9, 0.1]) / 3)
    styles = StyleOperations(Tag(), weights, clusters.count)
    seen = styles.apply(torch.zeros(30_000, 1, 1, 1), Generator().manual_seed(0)).flatten() * 200
    np.testing.assert_allclose(np.bincount(seen.round().int().numpy(), minlength=6) / 30_000, weights, atol=0.01)
    np.testing.assert_allclose(reference_weights(clusters, uniform=True), np.full(6, 1 / 6))


def test_a_cluster_number_without_members_is_no_cluster():
    np.testing.assert_allclose(reference_weights(clusters_of([0, 2, 2], [1.0, 0.5, 0.5])), [0.5, 0.25, 0.25])


def test_failures_join_in_their_share_jittered_with_their_true_labels():
    data = repair_data(jitter=lambda images, generator: images.flip(3))
    images, labels = FailureSampler(data, 0.4).draw(100, Generator().manual_seed(0))
    assert images.shape == (40, 1, 8, 8)
    pool = to_unit(data.failures.images.pixels).flip(3)
    for image, label in zip(images, labels, strict=True):
        row = int((pool == image).flatten(1).all(1).nonzero()[0])
        assert data.failures.images.labels[row] == label
    assert FailureSampler(data, 0.0).draw(100, Generator())[0].shape == (0, 1, 8, 8)
    assert len(FailureSampler(data, 0.4).draw(1, Generator())[0]) == 0  # round(0.4)
    assert len(FailureSampler(data, 2.0).draw(300, Generator())[0]) == 600  # more than there are: with replacement


def test_of_the_failures_that_join_a_share_is_replayed_where_there_are_earlier_ones():
    data, (_, earlier) = repair_data(), failures()
    usual = FailureSampler(data, 0.4).draw(100, Generator().manual_seed(0))
    for without in (FailureSampler(data, 0.4, 0.25), FailureSampler(replace(data, replayed=earlier), 0.4)):
        images, labels = without.draw(100, Generator().manual_seed(0))
        assert torch.equal(images, usual[0])
        assert torch.equal(labels, usual[1])
    images, labels = FailureSampler(replace(data, replayed=earlier), 0.4, 0.25).draw(100, Generator().manual_seed(0))
    for batch, drawn in ((data.failures, slice(0, 30)), (earlier, slice(30, 40))):
        same = (to_unit(batch.images.pixels)[:, None] == images[drawn]).flatten(2).all(2)
        assert same.any(0).all()
        assert torch.equal(torch.from_numpy(batch.images.labels)[same.int().argmax(0)], labels[drawn])
    assert make_sampler(data, MethodConfig()).again == MethodConfig().replay_share > 0


# Losses


def test_jensen_shannon_is_zero_for_equal_predictions_and_log_of_views_for_contradictions():
    logits = torch.randn(16, 10, generator=Generator().manual_seed(0))
    assert abs(jensen_shannon(logits, logits, logits).item()) < 1e-6
    sure = 200 * torch.eye(3)
    assert jensen_shannon(sure[:1], sure[1:2], sure[2:]).item() == pytest.approx(math.log(3), abs=1e-6)


def test_jensen_shannon_equals_the_written_out_divergence_and_is_symmetric():
    p, q = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.1, 0.5, 0.4]])
    m = (p + q) / 2
    wanted = 0.5 * (p * (p / m).log()).sum() + 0.5 * (q * (q / m).log()).sum()
    assert jensen_shannon(p.log(), q.log()).item() == pytest.approx(wanted.item(), abs=1e-6)
    assert jensen_shannon(q.log(), p.log()).item() == pytest.approx(wanted.item(), abs=1e-6)


def test_every_image_of_a_batch_with_failures_weighs_the_same():
    logits = torch.randn(7, 10, generator=Generator().manual_seed(0))
    labels = torch.arange(7)
    loss, figures = train_and_failure_loss(logits, labels, failures=2)
    clean, failed = F.cross_entropy(logits[:5], labels[:5]), F.cross_entropy(logits[5:], labels[5:])
    assert loss.item() == pytest.approx((clean.item() * 5 + failed.item() * 2) / 7, rel=1e-6)
    assert figures == pytest.approx({"loss_train": clean.item(), "loss_failures": failed.item()})
    assert train_and_failure_loss(logits, labels, failures=0)[1].keys() == {"loss_train"}


# Methods


def test_fine_tune_is_cross_entropy_in_one_forward_pass():
    classifier, (images, labels) = recorder(), train_batch(50)
    method = FineTune(FailureSampler(repair_data(), 0.4))
    loss, _ = method.loss(classifier, images, labels, Generator().manual_seed(1))
    assert [len(seen) for seen in classifier.seen] == [70]
    assert torch.equal(classifier.seen[0][:50], images)
    drawn, drawn_labels = FailureSampler(repair_data(), 0.4).draw(50, Generator().manual_seed(1))
    assert torch.equal(classifier.seen[0][50:], drawn)
    wanted = F.cross_entropy(classifier(torch.cat((images, drawn))), torch.cat((labels, drawn_labels)))
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)


class Tag:
    """A style that writes which reference it was asked for into the image."""

    def apply(self, content: Tensor, reference: Tensor, generator: Generator) -> Tensor:
        return (reference / 200).view(-1, 1, 1, 1).expand_as(content)


def test_style_guided_restyles_a_share_of_the_batch_with_the_content_labels():
    classifier, (images, labels) = recorder(), train_batch(40)
    clusters = clusters_of([0, 0, 1], [1.0, 0.0, 1.0])  # references 0 and 2 only
    sampler = FailureSampler(repair_data(), 0.5)
    method = StyleGuided(operations(Tag(), clusters), sampler, style_share=0.25, style_weight=0.5)
    loss, figures = method.loss(classifier, images, labels, Generator().manual_seed(2))
    (seen,) = classifier.seen
    clean, styled, failed = seen.split([30, 10, 20])
    assert torch.equal(clean, images[:30])
    assert set((styled[:, 0, 0, 0] * 200).round().int().tolist()) == {0, 2}
    drawn, drawn_labels = sampler.draw(40, Generator().manual_seed(2))
    assert torch.equal(failed, drawn)
    losses = F.cross_entropy(classifier(seen), torch.cat((labels, drawn_labels)), reduction="none")
    wanted = (losses[:30].sum() + 0.5 * losses[30:40].sum() + losses[40:].sum()) / (30 + 5 + 20)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    parts = {"loss_train": losses[:30], "loss_styled": losses[30:40], "loss_failures": losses[40:]}
    assert figures == pytest.approx({name: part.mean().item() for name, part in parts.items()}, rel=1e-5)
    assert loss.requires_grad


@pytest.mark.parametrize(("share", "styled"), [(0.0, 0), (1.0, 40)])
def test_a_batch_may_be_restyled_not_at_all_or_wholly(share, styled):
    classifier, (images, labels) = recorder(), train_batch(40)
    method = StyleGuided(operations(Tag(), one_cluster(3)), FailureSampler(repair_data(), 0.0), style_share=share)
    loss, figures = method.loss(classifier, images, labels, Generator().manual_seed(2))
    assert (classifier.seen[0] != images).flatten(1).any(1).sum() == styled
    assert figures.keys() == {"loss_styled" if styled else "loss_train"}
    assert loss.requires_grad


def test_distillation_is_the_divergence_from_the_champion_s_answers():
    logits, answers = torch.randn(2, 5, 4, generator=Generator().manual_seed(0))
    p, q = (answers / 2).softmax(1), (logits / 2).softmax(1)
    wanted = 4 * (p * (p / q).log()).sum(1)
    assert torch.allclose(distillation_loss(logits, answers), wanted, atol=1e-6)
    assert torch.allclose(distillation_loss(logits, logits + 3), torch.zeros(5), atol=1e-6)


def test_the_champion_teaches_clean_and_styled_images_and_labels_teach_the_failures():
    classifier, (images, labels) = recorder(), train_batch(40)
    labels = labels.clone()
    labels[::5] = (labels[::5] + 1) % 10  # there the champion is wrong, and its answers teach nothing
    with torch.no_grad():
        classifier.network.layers[9].weight.mul_(0.5)  # no longer the champion
    styles = operations(Identity(), one_cluster(3))
    sampler = FailureSampler(repair_data(), 0.5)
    method = StyleGuided(styles, sampler, distillation=0.8, champion=champion())
    loss, figures = method.loss(classifier, images, labels, Generator().manual_seed(2))
    (seen,) = classifier.seen
    logits = classifier(seen)
    teacher = distillation_loss(logits[:40], champion()(images))
    label = F.cross_entropy(logits[:40], labels, reduction="none")
    failed = F.cross_entropy(logits[40:], sampler.draw(40, Generator().manual_seed(2))[1], reduction="none")
    share = torch.tensor([0.8] * 20 + [0.4] * 20) * (champion()(images).argmax(1) == labels)
    assert 0 < (share == 0).sum() < 20
    each = torch.cat(((1 - share) * label + share * teacher, failed))
    assert figures["loss_train"] == pytest.approx(each[:20].mean().item(), rel=1e-4)
    assert figures["loss_styled"] == pytest.approx(each[20:40].mean().item(), rel=1e-4)
    assert loss.item() == pytest.approx(each.mean().item(), rel=1e-4)
    loss.backward()
    assert any(p.grad is not None for p in classifier.parameters())
    assert not any(p.grad is not None for p in method.champion.parameters())


def test_a_pair_that_repairs_teaches_by_what_the_network_is_shown_failures_too():
    classifier, (images, labels) = recorder(), train_batch(40)
    data = repair_data()
    failed = torch.from_numpy(data.failures.images.labels)
    config = MethodConfig(name=CONSOLIDATE, style_share=0.5, failure_share=0.5, distillation=0.8)
    method = make_method(config, data, Generator())  # by the champion here: wrong on every failure, so labels teach
    loss, figures = method.loss(classifier, images, labels, Generator().manual_seed(2))
    (seen,) = classifier.seen
    logits, answers = classifier(seen), champion()(seen)
    drawn = FailureSampler(data, 0.5).draw(40, Generator().manual_seed(2))[1]
    wanted = torch.cat((labels, drawn))
    right = answers.argmax(1) == wanted
    assert not right[40:].any()
    assert 0 < right[20:40].sum() < 20  # of the restyled: by its answers to them, not to their clean content
    share = 0.8 * right
    label, taught = F.cross_entropy(logits, wanted, reduction="none"), distillation_loss(logits, answers)
    each = torch.lerp(label, taught, share)
    assert loss.item() == pytest.approx(each.mean().item(), rel=1e-4)
    assert figures["loss_failures"] == pytest.approx(each[40:].mean().item(), rel=1e-4)

    knows = replace(data, champion=lambda: Classifier(Knowing(failed, data.failures.images.pixels), SPEC))
    method = make_method(config, knows, Generator())
    loss, figures = method.loss(classifier, images, labels, Generator().manual_seed(2))
    answers = knows.champion()(seen[40:])
    assert torch.equal(answers.argmax(1), drawn)
    each = torch.lerp(label[40:], distillation_loss(logits[40:], answers), 0.8)
    assert figures["loss_failures"] == pytest.approx(each.mean().item(), rel=1e-4)


class Knowing(nn.Module):
    """Knows the failures: mild logits for each one's label."""

    def __init__(self, labels: Tensor, pixels: Tensor) -> None:
        super().__init__()
        self.labels, self.known = labels, to_unit(pixels).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        return 3 * F.one_hot(self.labels[torch.cdist(images.flatten(1), self.known).argmin(1)], 10).float()


def test_an_identity_style_makes_the_styled_loss_the_clean_loss():
    classifier, (images, labels) = recorder(), train_batch(40)
    method = StyleGuided(operations(Identity(), one_cluster(3)), FailureSampler(repair_data(), 0.0))
    loss, _ = method.loss(classifier, images, labels, Generator().manual_seed(0))
    assert loss.item() == pytest.approx(F.cross_entropy(classifier(images), labels).item(), rel=1e-5)


def test_the_consistency_loss_weighs_the_divergence_of_three_views_by_lambda():
    classifier, (images, labels) = recorder(), train_batch(30)
    method = MixedConsistency(operations(Identity(), one_cluster(3)), FailureSampler(repair_data(), 0.0), 12.0, 3, 3)
    loss, figures = method.loss(classifier, images, labels, Generator().manual_seed(0))
    clean, first, second = classifier.seen[0].chunk(3)
    assert torch.equal(clean, images)
    assert not torch.equal(first, second)
    views = [classifier(x) for x in (clean, first, second)]
    wanted = F.cross_entropy(views[0], labels) + 12 * jensen_shannon(*views)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert figures["jensen_shannon"] > 0


def test_the_same_generator_state_gives_the_same_loss_and_no_global_state_is_used():
    images, labels = train_batch(30)
    data = repair_data()
    before = torch.get_rng_state()
    for name in METHODS:
        losses = []
        for _ in range(2):
            method = make_method(MethodConfig(name=name), data, Generator().manual_seed(0))
            classifier = champion()
            classifier.network.layers.train(name == "batch_norm")
            classifier.network.layers[8].eval()  # dropout, which uses global state by nature
            losses.append(method.loss(classifier, images, labels, Generator().manual_seed(9))[0].item())
        assert losses[0] == losses[1], name
        assert math.isfinite(losses[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_batch_norm_changes_statistics_and_no_weight():
    classifier, (images, labels) = champion().train(), train_batch(50)
    weights = [p.clone() for p in classifier.parameters()]
    mean = classifier.network.layers[1].running_mean.clone()
    method = BatchNormStatistics(FailureSampler(repair_data(), 0.4))
    loss, _ = method.loss(classifier, images, labels, Generator().manual_seed(0))
    assert not loss.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(weights, classifier.parameters(), strict=True))
    assert not torch.equal(mean, classifier.network.layers[1].running_mean)


def test_batch_norm_refuses_a_network_without_batch_norm():
    classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), SPEC).train()
    method = BatchNormStatistics(FailureSampler(repair_data(), 0.4))
    with pytest.raises(NotFineTunable, match="BatchNorm"):
        method.loss(classifier, *train_batch(10), Generator())


# The table


def test_the_paper_recipe_never_trains_on_failures():
    config = MethodConfig(recipe="paper", failure_share=0.4)
    method = make_method(config, repair_data(), Generator().manual_seed(0))
    classifier, (images, labels) = recorder(), train_batch(30)
    _, figures = method.loss(classifier, images, labels, Generator().manual_seed(0))
    assert len(classifier.seen[0]) == 90  # clean and two mixtures
    assert "loss_failures" not in figures
    config = replace(config, use_failures="on")
    method = make_method(config, repair_data(), Generator().manual_seed(0))
    _, figures = method.loss(classifier, images, labels, Generator().manual_seed(0))
    assert [len(seen) for seen in classifier.seen] == [90, 102]
    assert "loss_failures" in figures


def test_every_method_can_leave_the_failures_out():
    for name in METHODS:
        shares = {}
        for use in ("auto", "on", "off"):
            config = MethodConfig(name=name, use_failures=use, failure_share=0.3)
            shares[use] = make_method(config, repair_data(), Generator()).failures.share
        assert shares == {"auto": 0.3, "on": 0.3, "off": 0.0}, name


def test_without_clustering_only_the_choice_of_references_differs():
    by_cluster, uniform = (
        make_method(MethodConfig(recipe="paper", references=r), repair_data(), Generator()).styles
        for r in ("clusters", "uniform")
    )
    assert by_cluster.count == uniform.count == 1
    np.testing.assert_allclose(uniform.weights, np.full(len(failures()[0]), 1 / len(failures()[0])))


def test_known_patterns_are_operations_like_any_cluster():
    def halve(images: Tensor, generator: Generator) -> Tensor:
        return images / 2

    two_clusters = clusters_of([0, 1], [1.0, 1.0])
    styles = operations(Identity(), two_clusters, halve, lambda images, generator: images * 0)
    assert styles.count == 4
    seen = styles.apply(torch.ones(8000, 1, 1, 1), Generator().manual_seed(0)).flatten()
    shares = [(seen == value).float().mean().item() for value in (1.0, 0.5, 0.0)]
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.02)


def test_known_patterns_come_by_name_or_from_a_function_of_ones_own():
    config = MethodConfig(known_patterns=("contrast", "test_methods:darken"))
    method = make_method(config, repair_data(), Generator().manual_seed(0))
    assert method.styles.count == 3
    images = torch.full((4, 1, 2, 2), 0.5)
    assert torch.equal(method.styles.patterns[1](images, Generator()), images * 0.25)


def darken(images: Tensor, generator: Generator) -> Tensor:
    return images * 0.25


def shrink(images: Tensor, generator: Generator) -> Tensor:
    return images[:, :, 1:]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("magic", "neither one of gaussian_noise"),
        ("nowhere.at.all:f", "No module named"),
        ("test_methods:absent", "absent"),
        ("test_methods:SPEC", "not a function"),
    ],
)
def test_patterns_that_do_not_exist_are_refused(name, why):
    with pytest.raises(PatternNotUsable, match=why):
        make_method(MethodConfig(known_patterns=(name,)), repair_data(), Generator())


def test_a_pattern_that_changes_the_shape_is_refused():
    with pytest.raises(PatternNotUsable, match=r"returned torch.float32 \(2, 1, 7, 8\)"):
        find_pattern("test_methods:shrink")(torch.zeros(2, 1, 8, 8), Generator())


def test_an_unknown_method_is_an_error_that_lists_the_known_ones():
    with pytest.raises(InvalidOption, match=r"method\.name is 'magic'.*style_guided.*fine_tune"):
        make_method(MethodConfig(name="magic"), repair_data(), Generator())


def test_every_method_says_what_it_is():
    for name, entry in METHODS.items():
        assert entry.summary.endswith("."), name
        assert entry.source, name
        assert entry.differs, name
