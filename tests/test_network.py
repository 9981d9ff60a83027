import pytest
import torch
from torch import nn

from repairops.data.records import InputSpec
from repairops.errors import InvalidInputSpec, NotAClassifier
from repairops.model.network import Classifier, select_logits, to_input, to_unit

NAMES = ("a", "b", "c")


def test_to_unit_maps_bytes_onto_zero_to_one_and_leaves_them():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    assert to_unit(pixels).flatten().tolist() == pytest.approx([0, 0.2, 1])
    assert pixels.flatten().tolist() == [0, 51, 255]


def test_to_input_is_range_then_mean_and_std_per_channel():
    spec = InputSpec(3, 1, 1, NAMES, value_range=(-1, 3), mean=(0.0, 1.0, 2.0), std=(1.0, 2.0, 4.0))
    images = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)
    # 0, 0.5, 1 become -1, 1, 3, then minus the mean, over the std.
    assert to_input(images, spec).flatten().tolist() == pytest.approx([-1, 0, 0.25])
    assert images.flatten().tolist() == [0, 0.5, 1]


def test_one_mean_serves_all_channels_and_the_default_changes_nothing():
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(to_input(images, InputSpec(3, 4, 4, NAMES)), images)
    shifted = to_input(images, InputSpec(3, 4, 4, NAMES, mean=(0.5,), std=(0.5,)))
    assert torch.allclose(shifted, images * 2 - 1)


def test_the_logits_are_found():
    wanted = torch.rand(4, 3)
    other = torch.rand(4, 7)
    nested = {"logits": {"logits": wanted}}
    for output in (wanted, (wanted, other), [other, wanted], {"out": wanted, "features": other}, (wanted, None)):
        assert select_logits(output, 3) is wanted
    assert select_logits({"logits": wanted, "auxiliary": torch.rand(4, 3)}, 3) is wanted
    with pytest.raises(NotAClassifier):
        select_logits(nested, 3)


@pytest.mark.parametrize(
    "output",
    [
        torch.rand(4, 5),
        torch.rand(4, 3, 2, 2),
        (torch.rand(4, 3), torch.rand(4, 3)),
        {},
        "text",
        None,
        {"logits": torch.rand(4, 5)},
    ],
)
def test_what_is_not_one_obvious_logits_tensor_is_refused(output):
    with pytest.raises(NotAClassifier, match="not an image classifier"):
        select_logits(output, 3)


def test_a_classifier_normalises_and_trains_the_network_in_place():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    spec = InputSpec(1, 2, 2, NAMES, mean=(0.5,), std=(0.25,))
    classifier = Classifier(network, spec)
    images = torch.rand(5, 1, 2, 2)
    assert torch.allclose(classifier(images), network((images - 0.5) / 0.25))
    classifier(images).sum().backward()
    assert network[1].weight.grad is not None


def test_input_specs_survive_a_round_trip_and_ignore_unknown_keys():
    spec = InputSpec(3, 32, 24, NAMES, (0, 255), (1.0, 2.0, 3.0), (1.0,), "center_crop")
    assert InputSpec.from_dict(spec.to_dict()) == spec
    assert InputSpec.from_dict(spec.to_dict() | {"later": 1}) == spec
    assert spec.classes == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": 4},
        {"height": 0},
        {"class_names": ("a",)},
        {"class_names": ("a", "a")},
        {"mean": (0.1, 0.2)},
        {"std": (0.0,)},
        {"value_range": (1.0, 0.0)},
        {"resize": "fit"},
    ],
)
def test_an_impossible_input_spec_names_the_field(wrong):
    values = {"channels": 3, "height": 8, "width": 8, "class_names": NAMES} | wrong
    with pytest.raises(InvalidInputSpec, match=next(iter(wrong))):
        InputSpec(**values)
