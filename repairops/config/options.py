"""Configuration: one frozen dataclass for each stage, a YAML file, key=value overrides, one digest.

Configuration stops at the stage's door: `pipeline.py` unpacks it, inside the stages are plain arguments.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from repairops.config.presets import with_margin, with_preset
from repairops.config.ranges import check_ranges
from repairops.errors import InvalidOption, UnknownOption, UsageError

Level = Literal["required", "advisory", "off"]  # of a check of the gate

# A field with this metadata does not change what a job makes and decides: it is not in the digest.
_MACHINE = {"affects_result": False}


class _Stage:
    """Options of the stage that the class is named after. Raises InvalidOption for a number out of its range."""

    def __post_init__(self) -> None:
        check_ranges(type(self).__name__.removesuffix("Config").lower(), self)


@dataclass(frozen=True)
class ModelConfig:
    """Overrides of what the model's metadata says about its input; unset values are read from there."""

    image_size: tuple[int, ...] = ()  # (height, width), or one number for a square
    channels: int = 0
    value_range: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    class_names: tuple[str, ...] = ()
    resize: str = ""
    factory: str = ""  # package.module:function that builds the network, for pt2 models


@dataclass(frozen=True)
class ImagesConfig(_Stage):
    memory_limit_mb: int = field(default=4096, metadata=_MACHINE)  # a larger set is memory-mapped
    max_image_pixels: int = 50_000_000  # refused before decoding (decompression bombs)
    max_image_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True)
class ValidationConfig(_Stage):
    min_rows: int = 30  # failures left after quarantine
    min_classes: int = 2
    max_quarantined_share: float = 0.5  # of the rows that are not merely stale
    max_class_share: float = 0.9
    max_source_share: float = 0.9  # only where two or more sources are named
    data_docs: bool = field(default=True, metadata=_MACHINE)


@dataclass(frozen=True)
class SplitConfig(_Stage):
    heldout_fraction: float = 0.3
    validation_fraction: float = 0.2  # of the failures that are not held out
    near_duplicate_similarity: float = 0.95  # correlation of 8x8 thumbnails, where there is no group column
    clean_validation_fraction: float = 0.2  # of the clean set, which then choose and do not judge; 0 = none
    min_clean_images: int = 4000  # a smaller clean set judges as a whole


@dataclass(frozen=True)
class ClusteringConfig(_Stage):
    clusters: int = 5
    per_class: bool = False  # cluster inside each class, as the authors' scripts do
    restarts: int = 3


@dataclass(frozen=True)
class StyleConfig(_Stage):
    name: str = "fitted_degradation"
    levels: int = 2  # Haar levels of subband_wct; wct2 takes 1 to 4
    alpha: float = 1.0  # strength, 0 = content unchanged
    weights: str = ""  # wct2: path, URL or fitted:DIGEST of encoder and decoder weights
    weights_sha256: str = ""
    sites: tuple[str, ...] = ("encoder", "skip", "decoder")  # where wct2 transfers
    bfloat16: bool = False  # wct2's convolutions


@dataclass(frozen=True)
class MethodConfig(_Stage):
    name: str = "style_guided"
    recipe: Literal["default", "paper"] = "default"
    use_failures: Literal["auto", "on", "off"] = "auto"  # train on failure images; auto = all but the paper recipe
    failure_share: float = 0.2  # failure images for each train image in a batch
    references: Literal["clusters", "uniform"] = "clusters"  # uniform = the paper's ablation without clustering
    known_patterns: tuple[str, ...] = ()  # names, or package.module:function, that join the style operations
    style_share: float = 0.5  # of a batch's train images that are restyled
    style_weight: float = 1.0  # of a restyled image's loss against that of any other
    distillation: float = 1.0  # share of the clean images' loss that follows the champion's answers
    jsd_lambda: float = 12.0  # paper recipe
    severity: int = 3  # of the general operations
    chains: int = 3  # StyleAug's M
    mix_alpha: float = 1.0  # Beta(alpha, alpha) of mixup and cutmix
    cutout_side: float = 0.5  # share of the image's sides
    population: int = 4  # sensei's variants of each image
    generations: int = 1  # of sensei's search in each step
    components: int = 3  # few_shot's Gaussian mixture
    trial_share: float = 0.25  # auto: images, or minutes, of all trials as a share of the whole training's


@dataclass(frozen=True)
class TrainingConfig(_Stage):
    epochs: int = 5
    batch_size: int = 100  # train images; styled and failure images come on top
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    patience: int = 10  # epochs without a better validation score
    validation_fraction: float = 0.1  # of the train set, kept for choosing where no unseen clean images do
    max_validation_images: int = 2000  # clean ones that choose, wherever they come from
    max_train_images: int = 0  # 0 = all
    epoch_images: int = 0  # train images of an epoch, drawn anew for each; 0 = all
    crop_padding: int = -1  # pixels of random translation; -1 = an eighth of the side, 0 = none
    horizontal_flip: bool = False  # wrong for digits, text and signs, so never on unasked
    max_clean_drop: float = 0.5  # points on the clean validation images that a choice may lose; as the gate's margin
    max_minutes: float = 0.0  # 0 = no limit
    device: str = field(default="auto", metadata=_MACHINE)
    amp: Literal["auto", "on", "off"] = "auto"  # bfloat16 autocast; auto = on for CUDA
    interpolation: int = 9  # points tried between champion and fine-tuned weights; 0 = none
    ema: float = 0.99  # decay of the moving average of the weights; 0 = none
    workers: int = field(default=-1, metadata=_MACHINE)  # threads that fetch batches ahead; -1 = where it helps
    compile: bool = False  # torch.compile, where the network and the machine can


@dataclass(frozen=True)
class GateConfig(_Stage):
    confidence: float = 0.95  # one-sided
    margin_points: float = 0.5  # largest clean-accuracy loss allowed, percentage points
    min_repair_rate: float = 0.3
    class_margin_points: float = 5.0
    max_negative_flips: float = 0.02  # share of the clean set
    parity_tolerance: float = 1e-3  # absolute, logits
    max_latency_ratio: float = 1.2
    min_part_repair_rate: float = 0.1  # in each cluster and slice of the failures
    corruption_margin_points: float = 3.0
    corruption_images: int = 1000  # clean images that are corrupted, at most; 0 = all
    max_ece_rise: float = 0.02
    policy: str = field(default="", metadata=_MACHINE)  # a YAML file with all that is said of the gate
    policy_sha256: str = field(default="", metadata=_MACHINE)  # of that file: filled from it, checked where given
    clean_slices: str = ""  # column of the clean set's parquet whose values are slices
    clean_non_regression: Level = "required"
    repair_rate: Level = "required"
    class_recall: Level = "required"
    negative_flips: Level = "advisory"
    cluster_repair: Level = "advisory"
    slices: Level = "advisory"
    corruptions: Level = "advisory"
    calibration: Level = "advisory"
    onnx_parity: Level = "required"
    onnx_accuracy: Level = "advisory"
    latency: Level = "advisory"


@dataclass(frozen=True)
class RegisterConfig:
    # What becomes of a passed repair, not what it is: asking for promotion later is no other job.
    alias: str = field(default="challenger", metadata=_MACHINE)
    promote: Literal["manual", "auto"] = field(default="manual", metadata=_MACHINE)


@dataclass(frozen=True)
class Config:
    """Everything that a repair can be told. `digest()` names it in a job's key."""

    seed: int = 0
    preset: Literal["quick", "default", "paper"] = field(default="default", metadata=_MACHINE)  # already in the values
    model: ModelConfig = field(default_factory=ModelConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    style: StyleConfig = field(default_factory=StyleConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    register: RegisterConfig = field(default_factory=RegisterConfig)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """sha256 of the values that affect the result, as canonical JSON."""
        return hashlib.sha256(json.dumps(_result_values(self), sort_keys=True).encode()).hexdigest()


def derive_seed(seed: int, *names: object) -> int:
    """A stage's own seed, in 0..2**63-1, from the run's seed and the stage's name (as DomainBed's seed_hash)."""
    text = "\0".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def load_config(path: str | Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """The defaults, then a YAML file's values, then `key=value` overrides such as `training.epochs=3`.

    Raises UnknownOption, InvalidOption or UsageError, each naming the option.
    """
    values: dict[str, Any] = {}
    if path:
        values = read_yaml(Path(path))
    for override in overrides:
        key, found, text = override.partition("=")
        if not found:
            raise UsageError(f"Override {override!r} has no '='. Write it as stage.option=value.")
        _put(values, key.strip(), text.strip())
    gate = values.get("gate")
    if isinstance(gate, dict) and gate.get("policy"):
        from repairops.config.policy import with_policy

        values["gate"] = with_policy(gate)
    return config_from_dict(values)


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """A configuration from nested plain values, each converted to its field's type or refused by name."""
    built: Config = _build(Config, with_margin(with_preset(values)), prefix="")
    return built


def option_names(cls: type = Config, prefix: str = "") -> list[str]:
    """Dotted names of all options, for messages and docs."""
    names: list[str] = []
    for name, hint in get_type_hints(cls).items():
        nested = dataclasses.is_dataclass(hint)
        names += option_names(hint, f"{prefix}{name}.") if nested else [prefix + name]
    return names


def read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"The configuration {path} cannot be read: {error.strerror}. Check the path.") from error
    except yaml.YAMLError as error:
        raise UsageError(f"The configuration {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UsageError(f"The configuration {path} holds a {type(loaded).__name__}; it must hold stages by name.")
    return loaded


def _put(values: dict[str, Any], key: str, text: str) -> None:
    *stages, name = key.split(".")
    for stage in stages:
        values = values.setdefault(stage, {})
        if not isinstance(values, dict):
            raise InvalidOption(key, text, "an option inside a stage")
    values[name] = text


def _build(cls: type, values: Mapping[str, Any], prefix: str) -> Any:
    hints = get_type_hints(cls)
    built: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints:
            raise UnknownOption(f"{prefix}{name}", option_names())
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise InvalidOption(f"{prefix}{name}", value, "a stage with options below it")
            built[name] = _build(hint, value, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            built[name] = _convert(f"{prefix}{name}", value, hint)
    return cls(**built)


def _convert(option: str, value: Any, hint: Any) -> Any:
    origin = get_origin(hint)
    if origin is Literal:
        if isinstance(value, bool):  # YAML reads on and off as booleans
            value = "on" if value else "off"
        if value not in get_args(hint):
            raise InvalidOption(option, value, f"one of {', '.join(map(str, get_args(hint)))}")
        return value
    if origin in (Union, types.UnionType):
        raise TypeError(f"{option}: unions are not supported in configuration")
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        return tuple(_convert(option, p.strip() if isinstance(p, str) else p, get_args(hint)[0]) for p in parts)
    if hint is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "yes", "on", "1"):
            return True
        if str(value).lower() in ("false", "no", "off", "0"):
            return False
        raise InvalidOption(option, value, "true or false")
    if hint in (int, float):
        try:
            number = hint(value)
        except (TypeError, ValueError, OverflowError):  # int of infinity overflows
            number = None
        if number is None or isinstance(value, bool) or not math.isfinite(number):
            raise InvalidOption(option, value, "a whole number" if hint is int else "a number")
        if hint is int and isinstance(value, float) and value != number:
            raise InvalidOption(option, value, "a whole number")
        return number
    return str(value)


def _result_values(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {
            f.name: _result_values(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.metadata.get("affects_result", True)
        }
    return value
