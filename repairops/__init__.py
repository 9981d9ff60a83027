"""repairops repairs a deployed image classifier from its logged field failures, on top of MLflow.

    repairops.log_model(network, "cls", repairops.InputSpec(...), train_set=..., clean_set=...)
    repairops.log_failures("prod/cls", images, labels, predictions)
    repairops.repair("prod/cls")

Names are imported when they are first used, so that `import repairops` is quick and works without MLflow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "InputSpec": "repairops.data.records",
    "ImageSet": "repairops.data.records",
    "Config": "repairops.config",
    "load_config": "repairops.config",
    "load_image_set": "repairops.data.sets",
    "log_model": "repairops.promotion.log_model",
    "log_failures": "repairops.store.batches",
    "list_failures": "repairops.store.batches",
    "repair": "repairops.pipeline",
    "consolidate": "repairops.pipeline",
    "promote": "repairops.promotion.move",
    "rollback": "repairops.promotion.move",
    "history": "repairops.promotion.history",
    "review": "repairops.promotion.review",
    "RepairError": "repairops.errors",
}
__all__ = ["__version__", *sorted(_HOMES)]

if TYPE_CHECKING:
    from repairops.config import Config as Config
    from repairops.config import load_config as load_config
    from repairops.data.records import ImageSet as ImageSet
    from repairops.data.records import InputSpec as InputSpec
    from repairops.data.sets import load_image_set as load_image_set
    from repairops.errors import RepairError as RepairError
    from repairops.pipeline import consolidate as consolidate
    from repairops.pipeline import repair as repair
    from repairops.promotion.history import history as history
    from repairops.promotion.log_model import log_model as log_model
    from repairops.promotion.move import promote as promote
    from repairops.promotion.move import rollback as rollback
    from repairops.promotion.review import review as review
    from repairops.store.batches import list_failures as list_failures
    from repairops.store.batches import log_failures as log_failures


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'repairops' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
