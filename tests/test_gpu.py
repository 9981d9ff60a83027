"""What runs on a GPU: the same as on the CPU, but for draws. Skipped where there is none; needs no MLflow."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from distributed_job import launch
from style_helpers import eight_bits, generator, scenes
from torch import Tensor
from training_helpers import Stopped, champion, digits, method_of, parts_of, stop_after_first

from repairops.bench.corruptions import CORRUPTIONS, corrupt
from repairops.config import MethodConfig, StyleConfig, TrainingConfig
from repairops.core.augment.patterns import find_pattern
from repairops.core.methods import METHODS
from repairops.core.styles import STYLES, fit_style
from repairops.core.styles.wct2 import build_wct2
from repairops.core.training import TrainingResult, train
from repairops.core.training.checkpoint import state_tensors
from repairops.core.training.clock import StepClock
from repairops.core.training.distributed import Ranks, synchronised_statistics, training_network
from repairops.model.evaluation import logits
from repairops.model.network import Classifier

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GPU = "cuda"
CONFIG = TrainingConfig(
    least_steps=0, epochs=2, batch_size=50, learning_rate=0.02, crop_padding=1, device=GPU, amp="off",
    interpolation=False, patience=0,
)  # fmt: skip


def run(classifier: Classifier, folder: Path, name: str, config: TrainingConfig = CONFIG, **options) -> TrainingResult:
    parts = parts_of(config)
    method = method_of(MethodConfig(name=name), parts, GPU)
    return train(classifier, method, parts, config, seed=0, work_dir=folder, method_key=name, **options)


def weights(classifier: Classifier) -> Tensor:
    return torch.cat([t.float().flatten() for t in state_tensors(classifier).values()])


@pytest.mark.parametrize("name", sorted(set(STYLES) - {"wct2", "fitted_degradation", "auto"}))
def test_a_style_gives_the_images_of_the_cpu(name: str) -> None:
    content, references = scenes()[:16], eight_bits(0.2 + 0.5 * scenes()[20:40])
    order, made = torch.arange(16) % 20, []
    for device in ("cpu", GPU):
        style = fit_style(name, references.to(device), scenes().to(device), StyleConfig(), generator())
        styled = style.apply(content.to(device), order.to(device), generator())
        assert styled.device.type == torch.device(device).type
        made.append(styled.cpu())
    assert (made[0] - content).abs().mean() > 0.01
    torch.testing.assert_close(*made, atol=2e-3, rtol=0)


def test_wct2_gives_the_images_of_the_cpu() -> None:
    from test_style_wct2 import random_network

    content, references = scenes()[:6], scenes()[20:24]
    order, made = torch.arange(6) % 4, []
    for device in ("cpu", GPU):
        style = build_wct2(random_network().to(device), references.to(device), levels=2)
        made.append(style.apply(content.to(device), order.to(device), generator()).cpu())
    assert (made[0] - content).abs().mean() > 0.01
    torch.testing.assert_close(*made, atol=5e-3, rtol=0)


def test_a_fitted_degradation_finds_on_the_gpu_what_the_cpu_finds() -> None:
    draw = generator(5)
    pale = 0.25 + 0.5 * scenes()[:120]
    references = eight_bits(pale + 0.08 * torch.randn(pale.shape, generator=draw))
    styles = [
        fit_style("fitted_degradation", references.to(device), scenes().to(device), StyleConfig(), generator())
        for device in ("cpu", GPU)
    ]
    first, second = (style.found for style in styles)
    assert set(first.names) == set(second.names) >= {"contrast"}
    assert {"noise", "shot"} & set(first.names)  # much the same on images as pale as these
    assert second.values.is_cuda
    torch.testing.assert_close(second.values.cpu(), first.values, rtol=0, atol=0)
    content, order = scenes()[:64], torch.arange(64)
    on_cpu = styles[0].apply(content, order, generator())
    on_gpu = styles[1].apply(content.to(GPU), order.to(GPU), generator()).cpu()
    assert 0 <= on_gpu.min() <= on_gpu.max() <= 1
    assert float((on_gpu - content).square().mean()) == pytest.approx(
        float((on_cpu - content).square().mean()), rel=0.05
    )


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_a_corruption_has_the_strength_of_the_cpu(name: str) -> None:
    severities = torch.arange(160) % 5 + 1
    change = []
    for device in ("cpu", GPU):
        corrupted = corrupt(scenes()[:160].to(device), name, severities, generator()).cpu()
        assert 0 <= corrupted.min() <= corrupted.max() <= 1
        change.append(float((corrupted - scenes()[:160]).abs().mean()))
    assert change[0] > 0.005
    assert change[1] == pytest.approx(change[0], rel=0.1)


def test_a_known_pattern_stays_on_the_gpu() -> None:
    images = scenes()[:8].to(GPU)
    noisy = find_pattern("gaussian_noise")(images, generator())
    assert noisy.is_cuda
    assert 0.001 < float((noisy - images).abs().mean()) < 0.1


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_trains(name: str, tmp_path: Path) -> None:
    classifier = champion()
    result = run(classifier, tmp_path, name)
    assert result.device == torch.cuda.get_device_name()
    assert np.isfinite([h.get("loss", 0.0) for h in result.history]).all()
    assert result.history[-1]["validation_repair_rate"] > (0 if name == "batch_norm" else 0.2)
    assert result.peak_memory_mb["gpu_memory"] > 0
    assert sum(result.step_shares.values()) == pytest.approx(1)
    assert {p.device.type for p in classifier.parameters()} == {"cpu"}


def test_bfloat16_is_on_by_itself_and_leaves_float32_weights(tmp_path: Path) -> None:
    classifier = champion()
    result = run(classifier, tmp_path, "style_guided", replace(CONFIG, amp="auto"))
    assert result.bfloat16 == torch.cuda.is_bf16_supported(including_emulation=False)
    assert result.history[-1]["validation_repair_rate"] > 0.2
    assert {p.dtype for p in classifier.parameters()} == {torch.float32}


def test_a_resumed_training_goes_on_like_an_uninterrupted_one(tmp_path: Path) -> None:
    """In its losses: a GPU's sums have no fixed order, so weights may come from another epoch where two are alike."""

    whole, stopped, resumed = champion(), champion(), champion()
    straight = run(whole, tmp_path / "whole", "style_guided")
    with pytest.raises(Stopped):
        run(stopped, tmp_path / "parts", "style_guided", on_epoch=stop_after_first)
    gone_on = run(resumed, tmp_path / "parts", "style_guided")
    one, two = ([h["loss"] for h in result.history] for result in (straight, gone_on))
    assert len(one) == CONFIG.epochs
    assert one[0] > 1.02 * one[1]
    np.testing.assert_allclose(two, one, rtol=0.01)


def test_images_that_do_not_fit_on_the_gpu_are_streamed_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitting, streamed = champion(), champion()
    run(fitting, tmp_path / "fitting", "fine_tune")
    monkeypatch.setattr("repairops.core.training.epoch.fits_on", lambda device, size: False)
    run(streamed, tmp_path / "streamed", "fine_tune")
    apart = (weights(fitting) - weights(streamed)).norm()
    assert apart < 0.02 * (weights(fitting) - weights(champion())).norm()


def test_evaluation_agrees_with_the_cpu() -> None:
    pixels = digits()[1].pixels
    on_gpu, on_cpu = logits(champion(), pixels, device=GPU), logits(champion(), pixels)
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-3, rtol=1e-4)


@pytest.mark.slow
def test_a_compiled_network_trains_on_the_gpu(tmp_path: Path) -> None:
    classifier = champion()
    result = run(classifier, tmp_path, "fine_tune", replace(CONFIG, compile=True))
    assert result.history[-1]["validation_repair_rate"] > 0.2


# Several processes


def test_batch_norm_is_synchronised_through_nccl(tmp_path: Path) -> None:
    """A group of one: as much as one GPU allows, since NCCL refuses two processes on it."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("cpu:gloo,cuda:nccl", store=store, rank=0, world_size=1)
    try:
        plain, joined, images = champion().to(GPU), champion().to(GPU), torch.rand(40, 1, 8, 8, device=GPU)
        with synchronised_statistics(joined, torch.device(GPU), Ranks(0, 2)):
            network = training_network(
                joined, StepClock(torch.device(GPU)), amp=False, compiled=False, ranks=Ranks(0, 2)
            )
            for classifier in (plain, network):
                classifier.train()
                classifier.network.layers[8].eval()  # dropout
                classifier(images).square().mean().backward()
        for one, two in zip(plain.parameters(), joined.parameters(), strict=True):
            torch.testing.assert_close(two.grad, one.grad, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(joined.network.layers[1].running_mean, plain.network.layers[1].running_mean)
        assert type(joined.network.layers[1]) is torch.nn.BatchNorm2d
    finally:
        dist.destroy_process_group()


def test_two_processes_share_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.device_count() > 1:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("REPAIROPS_TEST_DEVICE", GPU)
    first, second = launch(tmp_path, 2, ["style_guided", "batch_norm", "sensei"])
    for name in ("style_guided", "batch_norm", "sensei"):
        assert first[name]["digest"] == second[name]["digest"]
        assert first[name]["history"][-1]["validation_repaired"] > 0
        assert "SyncBatchNorm" not in first[name]["kinds"]
    assert first["style_guided"]["losses"] != second["style_guided"]["losses"]


# The whole job


def test_a_job_repairs_on_the_gpu_and_registers(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    done = subprocess.run(
        [sys.executable, "-m", "repairops", "demo", "--folder", str(tmp_path), "--json"],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    outcome = json.loads(done.stdout)
    assert outcome["training"]["device"] == torch.cuda.get_device_name()
    assert outcome["training"]["bfloat16"] == torch.cuda.is_bf16_supported(including_emulation=False)
    assert outcome["registered"]["version"] == "2"
