"""Who made what a repair starts from, where it lies, and what the same clean set and alias have seen before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class AliasMove:
    """A move of the production alias before this repair, see `promotion.history.Promotion`. at: ISO 8601."""

    kind: str
    version_from: str = ""
    version_to: str = ""
    by: str = ""
    reason: str = ""
    at: str = ""
    forced: bool = False


@dataclass(frozen=True)
class Provenance:
    """What the registry says around a job; empty where it does not tell, or where this user may not read it.

    registry: address of the server or database, without credentials. experiment, failures_experiment: their ids in
        MLflow, of this run and of the failure batches.
    ran_by, champion_by: whoever ran the job, and logged the champion. failures_by: logged each batch, by its digest.
    earlier_gates: runs of earlier jobs of this model whose gate was decided by the same clean set.
    alias_history: the moves of the alias that the champion was found by, oldest first.
    """

    registry: str = ""
    experiment: str = ""
    failures_experiment: str = ""
    ran_by: str = ""
    champion_by: str = ""
    failures_by: Mapping[str, str] = field(default_factory=dict)
    earlier_gates: tuple[str, ...] = ()
    alias_history: tuple[AliasMove, ...] = ()


@dataclass(frozen=True)
class EarlierFailures:
    """Failures of earlier repairs that take part in this one, by the part that they have kept; note: why none do.

    batches: digests of what the version and its parents were repaired from.
    """

    batches: tuple[str, ...] = ()
    repair: int = 0
    validation: int = 0
    heldout: int = 0
    note: str = ""
