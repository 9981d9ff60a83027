"""The WCT2 network: against the published formula in float64, both unpoolings, and networks of one's own."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import pytest
import torch
from style_helpers import generator, scenes
from test_style_wct2 import random_network, styled
from test_style_whitening import published
from torch import Tensor

from repairops.config import StyleConfig
from repairops.core.styles import wct2
from repairops.core.styles.haar import Bands
from repairops.core.styles.wct2 import build_wct2, fit_wct2, load_weights, save_weights
from repairops.core.styles.wct2_fit import (
    VGG_FEATURES,
    VGG_MEAN,
    VGG_STD,
    new_network,
    scale_features,
    take_vgg_encoder,
)
from repairops.core.styles.wct2_network import Skip, Wct2Network
from repairops.errors import InvalidOption, StyleWeightsDamaged, StyleWeightsUnchecked


@pytest.fixture(scope="module")
def network() -> Wct2Network:
    return random_network()


def one_at_a_time(network: Wct2Network, content: Tensor, reference: Tensor, levels: int) -> Tensor:
    """The paper's transfer of one image, all sites, in float64 with whole covariances and their singular values."""

    def restyle(x: Tensor, y: Tensor) -> Tensor:
        return published(x[0], y[0])[None]

    x, y = content.double(), reference.double()
    skips: dict[int, tuple[Skip | None, Skip | None]] = {}
    for level in range(1, levels + 1):
        (x, skip), (y, other) = network.encode(x, level), network.encode(y, level)
        x = restyle(x, y)
        if skip is not None and other is not None:
            details = (restyle(a, b) for a, b in zip(skip[0][1:], other[0][1:], strict=True))
            skip = (Bands(skip[0].LL, *details), skip[1])
        skips[level] = (skip, other)
    for level in range(levels, 0, -1):
        x = restyle(x, y) if level < levels else x  # at the deepest level the encoder's transfer has just been done
        x, y = network.decode(x, level, skips[level][0]), network.decode(y, level, skips[level][1])
    return x.clamp(0, 1).float()


@pytest.mark.parametrize(("side", "unpooling"), [(32, "cat5"), (64, "cat5"), (32, "sum")])
def test_equals_the_published_formula_in_float64(side: int, unpooling: str) -> None:
    images = scenes(4, side)
    network = random_network(unpooling=unpooling)
    batched = styled(build_wct2(network, images[:2]), images[2:], [1, 0])
    exact = copy.deepcopy(network).double()
    for i, reference in enumerate((1, 0)):
        alone = one_at_a_time(exact, images[2 + i : 3 + i], images[reference : reference + 1], 4)
        torch.testing.assert_close(batched[i : i + 1], alone, atol=1e-3, rtol=0)


def test_sum_unpooling_is_the_inverse_haar_transform_and_is_told_from_the_weights(tmp_path: Path) -> None:
    network = random_network(unpooling="sum")
    assert network.decoder["conv3_4_2"].weight.shape == (256, 256, 3, 3)
    save_weights(network, tmp_path / "sum.safetensors")
    assert load_weights(str(tmp_path / "sum.safetensors")).unpooling == "sum"
    for part in ("encoder", "decoder"):
        torch.save(getattr(network, part).state_dict(), tmp_path / f"wave_{part}_sum_l4.pth")
    (tmp_path / "sum.safetensors").unlink()
    assert load_weights(str(tmp_path)).unpooling == "sum"


def in_bfloat16(network: Wct2Network) -> Wct2Network:
    quick = copy.deepcopy(network)
    quick.quick = True
    return quick


def test_bfloat16_convolutions_stay_near(network: Wct2Network) -> None:
    images = scenes()[:6]
    exact = styled(build_wct2(network, images[:3]), images[3:], [0, 1, 2])
    near = styled(build_wct2(in_bfloat16(network), images[:3]), images[3:], [0, 1, 2])
    assert near.dtype == torch.float32
    assert not torch.equal(near, exact)
    assert (near - exact).abs().mean() < 0.02


@pytest.mark.parametrize("unpooling", ["cat5", "sum"])
def test_a_frozen_network_computes_the_same_and_leaves_its_origin_as_it_was(unpooling: str) -> None:
    network, images = random_network(unpooling=unpooling), scenes()[:2]
    frozen, quick = network.frozen(), in_bfloat16(network).frozen()
    assert network.decoder["conv3_4_2"].weight.is_contiguous()
    assert quick.encoder["conv1_2"].weight.dtype == torch.bfloat16
    assert frozen.state_dict().keys() == network.state_dict().keys()
    with torch.no_grad():
        torch.testing.assert_close(frozen(images), network(images), atol=1e-4, rtol=1e-3)
        whole = in_bfloat16(network)(images)  # in another memory format, so rounded elsewhere
        assert (quick(images) - whole).abs().mean() < 0.02 * whole.std()


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 8, 8), (3, 13, 7), (3, 40, 24)])
def test_extreme_images_give_finite_images_in_range(shape: tuple[int, ...], quick: bool) -> None:
    """With features as `style fit` scales them, so that whitening is at its strongest."""
    network = new_network("cat5", generator())
    scale_features(network, (scenes()[:8] * 255).byte())
    network.quick = quick
    ordinary = torch.rand(2, *shape, generator=generator(4))
    odd = [torch.zeros(shape), torch.ones(shape), torch.full(shape, 0.3), torch.full(shape, 1e-30)]
    images = torch.cat([ordinary, torch.stack(odd)])
    result = styled(build_wct2(network, images), images.repeat_interleave(6, 0), list(range(6)) * 6)
    assert result.shape == (36, *shape)
    assert result.isfinite().all()
    assert 0 <= result.min() <= result.max() <= 1


def test_content_is_styled_in_chunks_with_the_same_result(
    network: Wct2Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    style, content, order = build_wct2(network, scenes()[:3], 2), scenes()[10:15], [2, 0, 1, 1, 0]
    together = styled(style, content, order)
    assert style.images_at_once(content) >= 5
    monkeypatch.setattr(wct2, "PIXELS_IN_CACHE", 2 * 32 * 32)
    assert style.images_at_once(content) == 2
    torch.testing.assert_close(styled(style, content, order), together, atol=1e-4, rtol=0)


def test_sites_come_from_the_configuration(network: Wct2Network, tmp_path: Path) -> None:
    save_weights(network, tmp_path / "w.safetensors")
    images = scenes()[:4]
    config = StyleConfig(weights=str(tmp_path / "w.safetensors"), levels=2, sites=("skip",))
    style = fit_wct2(images[:2], images, config, generator())
    assert style.sites == ("skip",)
    with pytest.raises(InvalidOption, match=r"style\.sites.*encoder, skip, decoder"):
        fit_wct2(images[:2], images, StyleConfig(weights=config.weights, sites=("middle",)), generator())


def test_weights_behind_an_address_need_their_digest(
    network: Wct2Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPAIROPS_HOME", str(tmp_path / "home"))
    file = tmp_path / "w.safetensors"
    save_weights(network, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    address = file.as_uri()
    with pytest.raises(StyleWeightsUnchecked, match="sha256"):
        load_weights(address)
    with pytest.raises(StyleWeightsDamaged, match=digest):
        load_weights(address, "0" * 64)
    loaded = load_weights(address, digest)
    assert torch.equal(loaded.encoder["conv1_1"].weight, network.encoder["conv1_1"].weight)
    file.unlink()
    load_weights(address, digest)  # kept below REPAIROPS_HOME
    with pytest.raises(StyleWeightsDamaged, match="cannot be fetched"):
        load_weights((tmp_path / "nowhere.safetensors").as_uri(), "1" * 64)
    with pytest.raises(StyleWeightsDamaged, match="neither https"):
        load_weights("ftp://example.org/w.safetensors", "1" * 64)


def vgg_state() -> dict[str, Tensor]:
    draw = generator(2)
    network, state = Wct2Network(), {}
    for name, place in VGG_FEATURES.items():
        layer = network.encoder[name]
        state[f"features.{place}.weight"] = torch.randn(layer.weight.shape, generator=draw) * 0.05
        state[f"features.{place}.bias"] = torch.randn(layer.bias.shape, generator=draw) * 0.1
    return state


def test_the_vgg_encoder_is_torchvision_s() -> None:
    """Layer by layer as `torchvision.models.vgg19().features` computes them, with the input normalised."""
    from torchvision.models.vgg import cfgs, make_layers

    state = vgg_state()
    features = make_layers(cfgs["E"])
    with torch.no_grad():
        for key, value in state.items():
            _, place, part = key.split(".")
            getattr(features[int(place)], part).copy_(value)
    network = new_network("cat5", generator())
    take_vgg_encoder(network, state)
    images = scenes()[:2]
    normal = (images - torch.tensor(VGG_MEAN).view(3, 1, 1)) / torch.tensor(VGG_STD).view(3, 1, 1)
    with torch.no_grad():
        ours, _ = network.encode(images, 1)
        theirs = features[1](features[0](normal))
    inside = (..., slice(1, -1), slice(1, -1))  # borders are reflected here and zero there
    torch.testing.assert_close(ours[inside], theirs[inside], atol=1e-4, rtol=1e-4)
    assert not any(p.requires_grad for p in network.encoder.parameters())
    assert all(p.requires_grad for p in network.decoder.parameters())
    with pytest.raises(StyleWeightsDamaged, match=r"features\.10\.bias"):
        take_vgg_encoder(network, {k: v for k, v in state.items() if k != "features.10.bias"})
