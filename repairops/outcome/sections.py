"""The sections of outcome.json on what a repair came to, a frozen record each; what it starts from is in `given`.

What a job did not get to is None in `record.Record`. Figures that are no number (NaN) are null in JSON. Shares,
accuracies and rates are in 0..1, times in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from repairops.gate.evidence import PairedCounts
from repairops.outcome.plain import OTHERS


@dataclass(frozen=True)
class ChampionFigures:
    clean_accuracy: float
    clean_n: int | None = None


@dataclass(frozen=True)
class SplitSizes:
    repair: int
    validation: int
    heldout: int


@dataclass(frozen=True)
class Cluster:
    id: int
    size: int | None = None
    labels: Mapping[str, int] = field(default_factory=dict)
    look: str | None = None


@dataclass(frozen=True)
class StyleShare:
    style: str
    share: float
    more: Mapping[str, Any] = field(default_factory=dict, metadata=OTHERS)  # the figures that it was weighed by


@dataclass(frozen=True)
class Look:
    """What shows in a cluster's failures, in a sentence and in figures, and the styles that `auto` mixed for it."""

    cluster: int
    look: str = ""
    findings: tuple[Mapping[str, Any], ...] = ()
    unexplained: float = math.nan
    styles: tuple[StyleShare, ...] | None = None
    more: Mapping[str, Any] = field(default_factory=dict, metadata=OTHERS)


@dataclass(frozen=True)
class Looks:
    """name: of the style. summary: the looks of the failures with their shares, where there are several."""

    name: str
    clusters: tuple[Look, ...] = ()
    summary: str | None = None


@dataclass(frozen=True)
class MethodNames:
    """chosen: the method that trained, where `auto` chose one."""

    name: str
    recipe: str = ""
    style: str = ""
    chosen: str | None = None


@dataclass(frozen=True)
class Epoch:
    """An epoch's figures on the validation parts, or the champion's; what a method adds of its own is in `more`."""

    epoch: int | None = None
    loss: float | None = None
    validation_accuracy: float | None = None
    validation_repair_rate: float | None = None
    repair_failures_accuracy: float | None = None
    learning_rate: float | None = None
    seconds: float | None = None
    more: Mapping[str, Any] = field(default_factory=dict, metadata=OTHERS)


@dataclass(frozen=True)
class Point:
    """One point of the line. weight: 0 = champion, 1 = fine-tuned. Shares (0..1) are of the validation parts."""

    weight: float
    validation_accuracy: float
    validation_repair_rate: float
    chosen: bool = False


@dataclass(frozen=True)
class TrialFigures:
    """What a method came to after its short training, on the validation parts alone: `auto` chose by these."""

    method: str
    learning_rate: float
    epochs: int
    train_images: int
    seconds: float
    validation_repaired: float
    validation_failures: int
    validation_right: float
    validation_images: int
    chosen: bool = False


@dataclass(frozen=True)
class Pace:
    """learning_rate: after warm-up. clip: norm to which a gradient is cut, 0 = none. change: of the weights by a step
    at the default rate, relative to them; 0 where it was given. lowered: how often a loss was not finite."""

    learning_rate: float
    clip: float = 0.0
    change: float = 0.0
    lowered: int = 0


@dataclass(frozen=True)
class Training:
    """How the challenger came about; see `core.training.TrainingResult`. best_epoch 0 is the champion itself."""

    best_epoch: int | None = None
    champion: Epoch | None = None
    history: tuple[Epoch, ...] = ()
    note: str = ""
    seconds: float | None = None
    images_per_second: float | None = None
    device: str = ""
    train_images: int | None = None
    validation_images: int | None = None
    validation_failures: int | None = None
    step_shares: Mapping[str, float] = field(default_factory=dict)
    peak_memory_mb: Mapping[str, float] = field(default_factory=dict)
    channels_last: bool | None = None
    bfloat16: bool | None = None
    ranks: int | None = None
    validation_unseen: bool | None = None  # None: an older outcome, which does not say
    tradeoff: tuple[Point, ...] = ()
    trials: tuple[TrialFigures, ...] = ()
    optimizer: str | None = None
    pace: Pace | None = None
    more: Mapping[str, Any] = field(default_factory=dict, metadata=OTHERS)


@dataclass(frozen=True)
class FormFigures:
    """One form of the repair on the parts that choose.

    form: 'one' network, guarded 'hard' or guarded 'mixed'. low, high: the guard's limits, probabilities. routed: share
    of the clean images that the repaired network answers, in whole or in part. clean_change: of clean accuracy against
    what is served now, in percentage points. repaired: share of the validation failures. kept: clean accuracy is.
    """

    form: str
    low: float
    high: float
    routed: float
    clean_change: float
    repaired: float
    kept: bool
    chosen: bool = False


@dataclass(frozen=True)
class Form:
    """What the challenger is: 'one' network, or two with a guard, 'hard' or 'mixed'; and how that was chosen.

    separation: area under the ROC curve of the guard's odds, clean images against validation failures; None where no
    guard was fitted. note: what a reviewer must know of the choice. tried: each form that was measured.
    """

    name: str = "one"
    separation: float | None = None
    note: str = ""
    tried: tuple[FormFigures, ...] = ()

    @property
    def chosen(self) -> FormFigures | None:
        return next((figures for figures in self.tried if figures.chosen), None)


@dataclass(frozen=True)
class ChallengerFigures:
    clean_accuracy: float
    heldout_repaired: int | None = None
    heldout_total: int | None = None


@dataclass(frozen=True)
class Comparison:
    """A rival method from the same champion, on the same failures and images; nothing was chosen by it.

    method: as it was trained. form: 'one', 'hard' or 'mixed', see `Form`. clean: beside the champion's
    answers. heldout_repaired: of `heldout_total` held-out failures. seconds: what it cost. validation_repair_rate: of
    the form that was chosen, None where there was none to choose.
    """

    method: str
    form: str
    clean: PairedCounts
    heldout_repaired: int
    heldout_total: int
    seconds: float
    validation_repair_rate: float | None = None


@dataclass(frozen=True)
class Artifacts:
    """Digests of the challenger's files, and the size in bytes of both ONNX files; None where there is no such file."""

    weights_sha256: str | None = None
    onnx_sha256: str = ""
    onnx_bytes: int | None = None
    champion_onnx_bytes: int | None = None


@dataclass(frozen=True)
class WrongAnswer:
    """A wrong answer, and how many images of class `true` got it from champion and challenger."""

    true: str
    answer: str
    champion: int
    challenger: int


@dataclass(frozen=True)
class Confusion:
    """The wrong answers whose number changed most, largest change first."""

    heldout: tuple[WrongAnswer, ...] = ()
    clean: tuple[WrongAnswer, ...] = ()
