"""Sizes of the benchmark, and the cells that they consist of."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from repairops.bench.champions import ChampionConfig
from repairops.bench.corruptions import CORRUPTIONS
from repairops.bench.rivals import rivals
from repairops.config import TrainingConfig
from repairops.model.device import cpu_has_bfloat16


@dataclass(frozen=True)
class Preset:
    """budget_steps: what each rival may spend: the time that plain fine-tuning takes for so many steps of a batch.

    rivals: empty = every one. failure_batch: failures that guide the repair; residuals, corrupted, others: images that
    judge, at most (0 = all), of the residual failures, of the corrupted clean set, and of each other corruption (-1 =
    others are not measured). unseen: photos of the clean set that judge nothing: clean, they choose between weights.
    """

    networks: tuple[str, ...]
    champion: ChampionConfig
    training: TrainingConfig
    budget_steps: int
    corruptions: tuple[str, ...] = tuple(CORRUPTIONS)
    rivals: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    checks: int = 3  # epochs at least, so that there is a choice between checkpoints
    failure_batch: int = 1000
    residuals: int = 0
    corrupted: int = 0
    others: int = -1
    unseen: int = 2000


# A CPU without instructions for bfloat16 emulates it: a step took 3.4 times as long as in float32.
_BFLOAT16 = cpu_has_bfloat16()
_CPU = TrainingConfig(batch_size=100, horizontal_flip=True, device="cpu", amp="on" if _BFLOAT16 else "off", patience=0)
# Four corruptions of different families, 5 ways and the champion itself; minutes on 2 cores.
_MINI = Preset(
    networks=("resnet_small",),
    champion=ChampionConfig(epochs=7, bfloat16=_BFLOAT16),
    training=_CPU,
    budget_steps=175,
    corruptions=("gaussian_noise", "defocus_blur", "fog", "contrast"),
    rivals=("style_guided", "fine_tune", "augmix", "batch_norm", "oracle", "none"),
    residuals=3000,
    corrupted=2500,
    unseen=1000,
)
PRESETS: dict[str, Preset] = {
    # The digits of scikit-learn, which need no data; seconds.
    "digits": Preset(
        networks=("resnet_tiny",),
        champion=ChampionConfig(epochs=12, batch_size=64, horizontal_flip=False, bfloat16=False),
        training=TrainingConfig(batch_size=50, device="cpu", amp="off", patience=0),
        budget_steps=60,
        corruptions=("gaussian_noise", "contrast"),
        rivals=("style_guided", "fine_tune", "oracle", "none"),
        failure_batch=200,
        unseen=100,
    ),
    "cpu-mini": _MINI,
    # All 15 corruptions on a small network trained to the end, every rival; hours on 2 cores.
    "cpu": dataclasses.replace(
        _MINI,
        champion=ChampionConfig(epochs=16, bfloat16=_BFLOAT16),
        corruptions=tuple(CORRUPTIONS),
        rivals=(),
        budget_steps=350,
        residuals=5000,
        corrupted=5000,
        unseen=2000,
    ),
    # A network with few mistakes, and repairs long enough to learn the failures by heart; hours on 2 cores.
    "cpu-accurate": dataclasses.replace(
        _MINI,
        networks=("allconvnet_pooled",),
        champion=ChampionConfig(epochs=12, bfloat16=_BFLOAT16),
        rivals=("style_guided", "fine_tune@method.failure_share=0.4", "style_guided_paper", "oracle"),
        budget_steps=2000,
        residuals=3000,
        corrupted=2000,
        unseen=1000,
    ),
    # A wide network with few mistakes, and repairs that learn the failures by heart; minutes on a GPU.
    "gpu": dataclasses.replace(
        _MINI,
        networks=("wideresnet_16_8",),
        champion=ChampionConfig(epochs=30),
        training=TrainingConfig(batch_size=128, horizontal_flip=True, device="cuda", amp="on", patience=0),
        rivals=("style_guided", "fine_tune@method.failure_share=0.4", "style_guided_paper", "oracle"),
        budget_steps=1600,
        residuals=5000,
        corrupted=5000,
        unseen=2000,
    ),
    # The paper's five networks at full size, five seeds; days on a GPU.
    "paper": Preset(
        networks=("allconvnet", "wideresnet", "densenet", "lstm", "renet"),
        champion=ChampionConfig(epochs=100),
        training=TrainingConfig(batch_size=128, horizontal_flip=True, device="cuda", amp="on", patience=0),
        budget_steps=8000,
        seeds=(0, 1, 2, 3, 4),
        checks=5,
        others=5000,
    ),
}


@dataclass(frozen=True)
class Coordinates:
    """Where a cell stands in the grid."""

    network: str
    corruption: str
    rival: str
    seed: int


def coordinates(preset: Preset, filters: tuple[str, ...] = ()) -> list[Coordinates]:
    """The preset's cells, in the order in which they are worth having: seeds outside, then networks and corruptions.

    filters: parts of names by comma, for example 'fog,contrast'; a cell stays where each filter has a part that
    is its network, corruption, rival or seed. No filters: all cells.
    """
    wanted = [frozenset(part.strip() for part in text.split(",")) for text in filters]
    return [
        found
        for seed in preset.seeds
        for network in preset.networks
        for corruption in preset.corruptions
        for name in (preset.rivals or rivals())
        for found in [Coordinates(network, corruption, name, seed)]
        if all(parts & {network, corruption, name, str(seed)} for parts in wanted)
    ]
