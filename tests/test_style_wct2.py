from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from style_helpers import digits, generator, scenes

from repairops.config import StyleConfig
from repairops.core.styles.wct2 import Wct2, build_wct2, fit_wct2, load_weights, save_weights
from repairops.core.styles.wct2_network import SITES, Site, Wct2Network
from repairops.errors import StyleWeightsDamaged, StyleWeightsMissing


def random_network(seed: int = 0, unpooling: str = "cat5") -> Wct2Network:
    """Weights whose features keep the images' scale, times 3 so that '+I' does not hide the style."""
    network, draw = Wct2Network(unpooling), generator(seed)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            fan = parameter[0].numel()
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * (2 / fan) ** 0.5)
            if name.endswith("bias"):
                parameter.zero_()
        network.encoder["conv0"].weight.mul_(3)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def network() -> Wct2Network:
    return random_network()


def styled(style: Wct2, content: torch.Tensor, reference: list[int]) -> torch.Tensor:
    return style.apply(content, torch.tensor(reference), generator())


def test_parameters_are_those_of_the_public_checkpoints(network: Wct2Network) -> None:
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["encoder.conv0.weight"] == (3, 3, 1, 1)
    assert shapes["encoder.conv4_1.weight"] == (512, 256, 3, 3)
    assert shapes["decoder.conv3_4_2.weight"] == (256, 1280, 3, 3)
    assert shapes["decoder.conv1_2_2.weight"] == (64, 320, 3, 3)
    assert shapes["decoder.conv1_1.bias"] == (3,)
    assert len(shapes) == 2 * (10 + 9)


def test_a_mixed_batch_equals_one_at_a_time(network: Wct2Network) -> None:
    style = build_wct2(network, scenes()[:3], levels=4)
    content = scenes()[10:14]
    order = [2, 0, 1, 2]
    together = styled(style, content, order)
    for i, reference in enumerate(order):
        torch.testing.assert_close(together[i], styled(style, content[i : i + 1], [reference])[0], atol=1e-4, rtol=0)
    assert (together[0] - styled(style, content[:1], [0])[0]).abs().max() > 1e-3


def test_own_statistics_reconstruct(network: Wct2Network) -> None:
    images = scenes()[:2]
    style = build_wct2(network, images)
    with torch.no_grad():
        plain = network(images).clamp(0, 1)
    torch.testing.assert_close(styled(style, images, [0, 1]), plain, atol=2e-3, rtol=0)


@pytest.mark.parametrize("sites", [(), ("encoder",), ("skip",), ("decoder",), ("encoder", "skip")])
def test_each_site_can_be_left_out(network: Wct2Network, sites: tuple[Site, ...]) -> None:
    images = scenes()[:2]
    style = build_wct2(network, scenes()[5:7], levels=2, sites=sites)
    assert style.statistics is not None
    assert {place.rstrip("1234.LH") for place in style.statistics} == set(sites)
    with torch.no_grad():
        plain = network(images, levels=2).clamp(0, 1)
    assert torch.allclose(styled(style, images, [0, 1]), plain, atol=1e-5) == (not sites)


def test_statistics_that_exceed_the_cache_are_computed_again(network: Wct2Network) -> None:
    references, content = scenes()[:4], scenes()[8:10]
    cached, uncached = (build_wct2(network, references, levels=3, cache_bytes=n) for n in (2**30, 0))
    assert uncached.statistics is None
    assert cached.statistics is not None
    assert set(cached.statistics) >= {"encoder3", "skip2.LH", "decoder1"}
    torch.testing.assert_close(styled(cached, content, [3, 1]), styled(uncached, content, [3, 1]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_small_grey_images_keep_size_and_channel(network: Wct2Network, levels: int) -> None:
    style = build_wct2(network, digits()[:2], levels)
    content = torch.cat([digits()[5:6], torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)])
    result = styled(style, content, [0, 1, 0])
    assert result.shape == (3, 1, 8, 8)
    assert result.isfinite().all()
    assert 0 <= result.min() <= result.max() <= 1


def test_odd_sizes_and_alpha_zero(network: Wct2Network) -> None:
    style = build_wct2(network, scenes()[:1], 3, alpha=0)
    content = torch.rand(1, 3, 11, 21, generator=generator())
    assert torch.equal(styled(style, content, [0]), content)
    assert styled(build_wct2(network, scenes()[:1], 3), content, [0]).shape == content.shape
    assert SITES == ("encoder", "skip", "decoder")


def test_weights_are_read_back_from_either_layout(network: Wct2Network, tmp_path: Path) -> None:
    one = tmp_path / "wct2.safetensors"
    save_weights(network, one)
    public = tmp_path / "public"
    public.mkdir()
    for part in ("encoder", "decoder"):
        state = dict(getattr(network, part).state_dict())
        state["pool1.LL.weight" if part == "encoder" else "recon_block1.HH.weight"] = torch.ones(64, 1, 2, 2)
        torch.save(state, public / f"wave_{part}_cat5_l4.pth")
    for path in (one, public, public / "wave_encoder_cat5_l4.pth"):
        loaded = load_weights(str(path))
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), network.parameters(), strict=True))
    style = fit_wct2(scenes()[:2], scenes()[2:4], StyleConfig(weights=str(one), levels=2), generator())
    assert styled(style, scenes()[:2], [1, 0]).shape == (2, 3, 32, 32)

    digest = hashlib.sha256(one.read_bytes()).hexdigest()
    load_weights(str(one), digest.upper())
    with pytest.raises(StyleWeightsDamaged, match=digest):
        load_weights(str(one), "0" * 64)
    pair = [hashlib.sha256((public / f"wave_{p}_cat5_l4.pth").read_bytes()).hexdigest() for p in ("encoder", "decoder")]
    load_weights(str(public), ",".join(pair))


def test_missing_and_damaged_weights_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StyleWeightsMissing, match=r"style\.weights.*style\.name=fitted_degradation"):
        fit_wct2(scenes()[:2], scenes()[:2], StyleConfig(name="wct2"), generator())
    with pytest.raises(StyleWeightsMissing, match="nowhere"):
        load_weights(str(tmp_path / "nowhere"))
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"not a tensor file")
    with pytest.raises(StyleWeightsDamaged, match="cannot be read"):
        load_weights(str(garbage))
    save_file({"encoder.conv0.weight": torch.zeros(3, 3, 1, 1)}, tmp_path / "part.safetensors")
    with pytest.raises(StyleWeightsDamaged, match="Missing key"):
        load_weights(str(tmp_path / "part.safetensors"))
    save_file({"encoder.conv0.weight": torch.full((3, 3, 1, 1), torch.nan)}, tmp_path / "nan.safetensors")
    with pytest.raises(StyleWeightsDamaged, match="not finite"):
        load_weights(str(tmp_path / "nan.safetensors"))
