"""The sections of outcome.json on what a job starts from: versions, batches, image sets, people, and logged labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelVersion:
    """The pinned version that was to be repaired, or the one that was registered; `alias` is '' where it has none."""

    name: str
    version: str
    alias: str = ""
    uri: str = ""
    run_id: str | None = None  # of the pinned one


@dataclass(frozen=True)
class Batch:
    digest: str
    run_id: str = ""
    rows: int | None = None
    logged_at: str = ""  # ISO 8601


@dataclass(frozen=True)
class Environment:
    repairops: str = ""
    mlflow: str = ""
    torch: str = ""
    python: str = ""
    machine: str = ""
    device: str = ""


@dataclass(frozen=True)
class Tracking:
    run_id: str = ""
    experiment: str | None = None


@dataclass(frozen=True)
class DataSet:
    """An image set. given: named by the one who ran the job. whole: the set that this is a part of."""

    uri: str = ""
    given: bool = False
    digest: str = ""
    images: int | None = None
    whole: DataSet | None = None


@dataclass(frozen=True)
class CleanValidation:
    """The clean images that choose and never judge. unseen: new to the champion; else a part of the train set."""

    source: str = ""
    unseen: bool = False
    images: int | None = None
    digest: str | None = None
    note: str = ""
    in_train_set: int | None = None  # of a given validation set, left out
    in_clean_set: int | None = None


@dataclass(frozen=True)
class Validation:
    """The failure batch's contract: rows by what became of them, and the rules that the batch broke."""

    rows: int | None = None
    accepted: int | None = None
    quarantined: Mapping[str, int] = field(default_factory=dict)  # by rule
    broken: tuple[str, ...] = ()
    field_rows: int | None = None  # None where no sample of the traffic was logged


@dataclass(frozen=True)
class Suspect:
    """A failure whose logged `label` looks wrong; `answer`: what the networks that ask say instead.

    part: repair, validation or heldout. label_chance, answer_chance: of the two by these networks, in 0..1.
    """

    sample_id: str
    part: str
    label: str
    answer: str
    label_chance: float
    answer_chance: float


@dataclass(frozen=True)
class SuspectLabels:
    """What a look for wrong labels came to.

    mode: report or quarantine. asked: failures, of all parts. by_chance: how many of these would be listed if every
    label were right, about. known: restyled clean images that set the limit. listed: the surest first.
    quarantined: failures taken out, by part. note: why nothing was listed or taken out, else ''.
    """

    mode: str
    asked: int
    by_chance: float
    known: int
    listed: tuple[Suspect, ...] = ()
    quarantined: Mapping[str, int] = field(default_factory=dict)
    note: str = ""


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
    """Who made what a job starts from, and what this clean set and alias have seen before.

    Empty where the registry does not tell, or where this user may not read it.

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
