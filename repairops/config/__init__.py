"""Configuration: the options of each stage with defaults, ranges and sentences, and how they are read."""

from repairops.config.gate import RULES, GateConfig, looser_than_default
from repairops.config.load import config_from_dict, load_config, option_names
from repairops.config.options import (
    ClusteringConfig,
    Config,
    ExportConfig,
    GuardConfig,
    ImagesConfig,
    MethodConfig,
    ModelConfig,
    SplitConfig,
    StyleConfig,
    ValidationConfig,
    derive_seed,
)
from repairops.config.training import TrainingConfig

__all__ = [
    "AUTO",
    "CONSOLIDATE",
    "RULES",
    "STYLED",
    "ClusteringConfig",
    "Config",
    "ExportConfig",
    "GateConfig",
    "GuardConfig",
    "ImagesConfig",
    "MethodConfig",
    "ModelConfig",
    "SplitConfig",
    "StyleConfig",
    "TrainingConfig",
    "ValidationConfig",
    "config_from_dict",
    "derive_seed",
    "load_config",
    "looser_than_default",
    "option_names",
]

AUTO = "auto"  # not a method: short trials choose one
CONSOLIDATE = "consolidate"  # no repair, so not in the table: makes one network of a guarded version's two
STYLED = (AUTO, CONSOLIDATE, "style_guided")  # methods that take a style
