"""Configuration: the options of each stage with defaults, ranges and sentences, and how they are read."""

from repairops.config.gate import RULES, GateConfig
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
    TrainingConfig,
    ValidationConfig,
    derive_seed,
)

__all__ = [
    "RULES",
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
    "option_names",
]
