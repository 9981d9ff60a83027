"""Configuration: one frozen dataclass for each stage; defaults, numbers allowed and sentences stand in the fields.

Configuration stops at the stage's door: `pipeline.py` unpacks it, inside the stages are plain arguments.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from repairops.config.fields import (
    ANY,
    COUNT,
    NONE_OR_MORE,
    NOT_NEGATIVE,
    PART,
    PART_NOT_0,
    POSITIVE,
    SHARE,
    SHARE_NOT_0,
    Range,
    Stage,
    option,
)
from repairops.config.gate import GateConfig
from repairops.config.training import TrainingConfig
from repairops.errors import InvalidOption


@dataclass(frozen=True)
class ModelConfig(Stage):
    image_size: tuple[int, ...] = option(
        (), "Height and width, or one number for a square; read from the model where unset, as all of `model.*`.", COUNT
    )
    channels: int = option(
        0, "Of the images: 1 is grey, 3 is colour.", Range("1, 3, or 0 (read from the model)", only=(0, 1, 3))
    )
    value_range: tuple[float, ...] = option(
        (), "Low and high end of the pixels that the network takes, before mean and std, such as `0,255`.", ANY
    )
    mean: tuple[float, ...] = option((), "Subtracted for each channel, in units of the value range.", ANY)
    std: tuple[float, ...] = option((), "Divided by for each channel.", POSITIVE)
    class_names: tuple[str, ...] = option((), "In the order of the logits.")
    resize: str = option(
        "",
        "`exact` refuses images of another size, `stretch` resizes both sides, `center_crop` the short side and cuts "
        "the middle.",
    )
    factory: str = option("", "`package.module:function` that builds the network, for pt2 models.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.image_size) > 2:
            raise InvalidOption("model.image_size", self.image_size, "height and width, or one number for a square")


@dataclass(frozen=True)
class ImagesConfig(Stage):
    memory_limit_mb: int = option(
        4096, "An image set with more megabytes of pixels is memory-mapped.", NOT_NEGATIVE, affects_result=False
    )
    cache_mb: int = option(
        20_000,
        "Megabytes of decoded image sets that are kept for later jobs, below REPAIROPS_HOME.",
        NONE_OR_MORE,
        affects_result=False,
    )
    max_image_pixels: int = option(50_000_000, "Width times height; larger images are refused before decoding.", COUNT)
    max_image_bytes: int = option(64 * 1024 * 1024, "Larger files are refused before decoding.", COUNT)


@dataclass(frozen=True)
class ValidationConfig(Stage):
    min_rows: int = option(30, "Failures that must be left after quarantine.", NOT_NEGATIVE)
    min_classes: int = option(2, "Classes that must be left.", NOT_NEGATIVE)
    max_quarantined_share: float = option(0.5, "Of the rows that are not merely stale or duplicate.", SHARE)
    max_class_share: float = option(0.9, "Of the failures left, in one class.", SHARE)
    max_source_share: float = option(0.9, "Of the failures left, from one source, where two or more are named.", SHARE)
    suspect_labels: Literal["report", "quarantine", "off"] = option(
        "report",
        "Failures whose logged label looks wrong: `report` lists them for a look by a person, `quarantine` takes them "
        "out of training, choosing and judging, `off` does not look. See [Labels](../how-it-works/failures.md#labels).",
    )
    data_docs: bool = option(True, "Whether Great Expectations' pages are written.", affects_result=False)


@dataclass(frozen=True)
class SplitConfig(Stage):
    heldout_fraction: float = option(0.3, "Of the failures, only for the gate.", PART)
    validation_fraction: float = option(0.2, "Of the failures that are not held out, for choosing the epoch.", PART)
    near_duplicate_similarity: float = option(
        0.95,
        "Correlation of 8x8 thumbnails from which images without a group are one group.",
        Range("a correlation, from -1 to 1", -1, 1),
    )
    clean_validation_fraction: float = option(
        0.2,
        "Of the clean set, cut off to choose and not to judge, at most `training.max_validation_images`; 0 = none. "
        "With a validation set nothing is cut.",
        PART,
    )
    min_clean_images: int = option(
        4000, "A clean set with fewer images judges as a whole, and a part of the train set chooses.", NOT_NEGATIVE
    )


@dataclass(frozen=True)
class ClusteringConfig(Stage):
    by: Literal["look", "pixels"] = option(
        "look",
        "`look`: as many clusters as there are looks, whatever the images show; `pixels`: always so many, of like "
        "scenes (the paper).",
    )
    clusters: int = option(5, "Of the whole batch, or of each class; by look the most.", COUNT)
    per_class: bool = option(False, "Cluster inside each class, by pixels, as the authors' scripts do.")
    restarts: int = option(3, "Of k-means; the best one counts.", COUNT)


@dataclass(frozen=True)
class StyleConfig(Stage):
    name: str = option("fitted_degradation", "A style or `auto`; see [Styles](../how-it-works/repair.md#styles).")
    levels: int = option(2, "Haar levels of `subband_wct`; levels of `wct2`'s encoder.", Range("from 1 to 4", 1, 4))
    alpha: float = option(
        1.0, "Strength of what is transferred.", Range("from 0 (content unchanged) to 1 (full strength)", 0, 1)
    )
    weights: str = option(
        "",
        "Weights of `wct2`: a safetensors file, a folder with the public encoder and decoder, a URL (two by comma), "
        "or `fitted:DIGEST` for a network of `repairops style fit`.",
    )
    weights_sha256: str = option("", "Checked when given; for two files both, by comma. A URL needs it.")
    sites: tuple[str, ...] = option(("encoder", "skip", "decoder"), "Where `wct2` whitens and colours.")
    bfloat16: bool = option(False, "Whether `wct2` convolves in bfloat16; the rest stays in float32.")


@dataclass(frozen=True)
class MethodConfig(Stage):
    name: str = option(
        "style_guided", "See [Methods](../how-it-works/repair.md#methods); `auto` chooses by a short trial."
    )
    compare: str = option(
        "", "A method that is trained and judged beside, at its own cost, such as `fine_tune`; it is never registered."
    )
    recipe: Literal["default", "paper"] = option("default", "`default`, or `paper` for StyleAug; of `style_guided`.")
    use_failures: Literal["auto", "on", "off"] = option(
        "auto", "Whether failure images are trained on: `on`, `off`, or `auto` for all but the recipe `paper`."
    )
    failure_share: float = option(
        0.4, "Failure images for each train image in a batch; default with `guard.mode=off`: 0.2.", NOT_NEGATIVE
    )
    replay_share: float = option(
        0.5,
        "Of these, the share that are failures which earlier repairs of the version trained on, so that it keeps them; "
        "0 = the earlier batches are left alone, and none of their failures trains, chooses or judges. See "
        "[Repairing it again](../how-it-works/guard.md#repairing-it-again).",
        SHARE,
    )
    references: Literal["clusters", "uniform"] = option(
        "clusters", "`clusters` draws references by cluster, `uniform` from the whole batch (the paper's ablation)."
    )
    known_patterns: tuple[str, ...] = option(
        (),
        "Operations that join the styles: `gaussian_noise`, `gaussian_blur`, `contrast`, `brightness`, `pixelate`, or "
        "`package.module:function`.",
    )
    style_share: float = option(
        0.75,
        "Of a batch's train images that are restyled; the others stay clean; recipe `default`. Default with "
        "`guard.mode=off`: 0.5.",
        SHARE,
    )
    style_weight: float = option(1.0, "Of a restyled image's loss against any other's; recipe `default`.", NOT_NEGATIVE)
    distillation: float = option(
        1.0,
        "How much of what clean images teach is the champion's answers instead of the labels, where these answers are "
        "right; recipe `default`.",
        SHARE,
    )
    jsd_lambda: float = option(12.0, "Weight of the consistency loss; recipe `paper`, method `augmix`.", NOT_NEGATIVE)
    severity: int = option(
        3, "Of the general operations; recipe `paper`, `augmix`, `few_shot`, `random`.", Range("from 1 to 10", 1, 10)
    )
    chains: int = option(3, "Chains that are mixed; recipe `paper`, methods `augmix` and `few_shot`.", COUNT)
    mix_alpha: float = option(1.0, "Both parameters of the weights' Beta distribution; `mixup`, `cutmix`.", POSITIVE)
    cutout_side: float = option(0.5, "Side of the covered square as a share of the image's; `cutout`.", SHARE_NOT_0)
    population: int = option(4, "Variants of each image; `sensei`.", COUNT)
    generations: int = option(1, "Of the search in each step; `sensei`.", NOT_NEGATIVE)
    components: int = option(3, "Of the Gaussian mixture over the failures; `few_shot`.", COUNT)
    trial_share: float = option(
        0.25, "Images of all trials, or minutes of a time limit, as a share of the training's; `auto`.", PART_NOT_0
    )


@dataclass(frozen=True)
class GuardConfig(Stage):
    mode: Literal["auto", "on", "off"] = option(
        "auto",
        "Whether the champion stays beside the repaired network, with a guard that decides who answers: `auto` where "
        "that repairs more at the same clean accuracy, `on` wherever it keeps clean accuracy, `off` never. See "
        "[Guard](../how-it-works/guard.md).",
    )
    max_routed: float = option(
        0.04, "Of clean images that choose, the share that the repaired network may answer; bounds its cost.", SHARE
    )


@dataclass(frozen=True)
class ExportConfig(Stage):
    guard: Literal["conditional", "both"] = option(
        "conditional",
        "In the ONNX file of a guarded version, `conditional` runs each network on the images that need it, `both` "
        "runs both on all of them, for runtimes without control flow.",
    )


@dataclass(frozen=True)
class RegisterConfig(Stage):
    # What becomes of a passed repair, not what it is: asking for promotion later is no other job.
    alias: str = option("challenger", "Set on the version that a passed gate registers.", affects_result=False)
    promote: Literal["manual", "auto"] = option(
        "manual", "`auto` also moves the production alias when the gate passes.", affects_result=False
    )


SEED = Range("a whole number of at most 18 digits", -(10**18) + 1, 10**18 - 1)


@dataclass(frozen=True)
class Config:
    """Everything that a repair can be told. `digest()` names it in a job's key."""

    seed: int = option(0, "Seed of everything random.", SEED)
    preset: Literal["quick", "default", "paper"] = option(
        "default",
        "Named values for several options; what is given beside it wins.",
        affects_result=False,  # already in the values
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    style: StyleConfig = field(default_factory=StyleConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    register: RegisterConfig = field(default_factory=RegisterConfig)

    def __post_init__(self) -> None:
        if not SEED.holds(self.seed):
            raise InvalidOption("seed", self.seed, SEED.wanted)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """sha256 of the values that affect the result, as canonical JSON."""
        return hashlib.sha256(json.dumps(_result_values(self), sort_keys=True).encode()).hexdigest()


def derive_seed(seed: int, *names: object) -> int:
    """A stage's own seed, in 0..2**63-1, from the run's seed and the stage's name (as DomainBed's seed_hash)."""
    text = "\0".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _result_values(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {
            f.name: _result_values(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.metadata.get("affects_result", True)
        }
    return value
