"""Configuration: the options of each stage with defaults, ranges and sentences, and how they are read."""

from repairops.config.fields import Level, Rule
from repairops.config.gate import GENTLER, RULES, GateConfig
from repairops.config.load import config_from_dict, load_config, option_names, read_yaml
from repairops.config.options import (
    ClusteringConfig,
    Config,
    ImagesConfig,
    MethodConfig,
    ModelConfig,
    RegisterConfig,
    SplitConfig,
    StyleConfig,
    TrainingConfig,
    ValidationConfig,
    derive_seed,
)

__all__ = [
    "GENTLER",
    "RULES",
    "ClusteringConfig",
    "Config",
    "GateConfig",
    "ImagesConfig",
    "Level",
    "MethodConfig",
    "ModelConfig",
    "RegisterConfig",
    "Rule",
    "SplitConfig",
    "StyleConfig",
    "TrainingConfig",
    "ValidationConfig",
    "config_from_dict",
    "derive_seed",
    "load_config",
    "option_names",
    "read_yaml",
]
