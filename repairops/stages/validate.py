"""The validation stage: the champion's sanity, the failure batch's contract, and what is kept of both."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from repairops.data.copies import look, near_copies
from repairops.data.records import CleanSet, FailureBatch, FieldRows, ImageSet
from repairops.errors import FailureBatchRejected
from repairops.gate import CHANGED, PLAUSIBLE, gate_warning, in_words, least_harm, whole_power
from repairops.model.evaluation import Known, check_not_at_chance, logits, predict, predictions
from repairops.model.routing import networks_of
from repairops.outcome.given import Validation
from repairops.outcome.sections import ChampionFigures
from repairops.stages.earlier import Earlier
from repairops.stages.job import Job
from repairops.store.champion import Champion
from repairops.store.failure_rows import FailureRows
from repairops.validation.contract import still_sound, validate

log = logging.getLogger("repairops")


def validate_failures(
    job: Job,
    rows: FailureRows,
    champion: Champion,
    train_set: ImageSet,
    unseen: ImageSet | None,
    clean: CleanSet,
    roles: Mapping[str, str] | None,
    earlier: Earlier,
) -> tuple[FailureBatch, FieldRows | None, Known, FailureBatch | None]:
    """The failures that pass validation against the pinned champion, its field rows, what it has answered, and the
    failures of earlier repairs that are sound.

    roles: of a consolidation, see `Inputs`. Its failures are those that the version was repaired from, and their wrong
    answers those of the champion in the version.

    The quarantine with its reasons, the result and the Data Docs are logged first, whatever they say.
    Raises ChampionAtChance, FailureBatchRejected.
    """
    outputs = logits(champion.classifier, clean.images.pixels, device=job.device)
    answers = predictions(outputs, clean.images.labels)
    check_not_at_chance(answers, clean.images.labels, champion.spec.classes)
    job.record = replace(job.record, champion=ChampionFigures(answers.accuracy, len(clean.images)))
    answers_wrong = champion.classifier if roles is None else networks_of(champion.classifier)[0]

    def classify(pixels: Tensor) -> tuple[np.ndarray, np.ndarray]:
        found = predict(answers_wrong, pixels, np.zeros(len(pixels), np.int64), device=job.device)
        return found.labels, found.confidence

    def find_copies(pixels: Tensor) -> dict[str, np.ndarray]:
        sets = {"clean set": clean.images, "validation set": unseen, "train set": train_set}
        failures = look(pixels, np.arange(len(pixels)))
        return {name: near_copies(failures, images.looked) for name, images in sets.items() if images}

    folder = job.scratch("validation")
    given: dict[str, Any] = {
        "spec": champion.spec,
        "predict": classify,
        "clean_ids": set(clean.images.sample_ids.tolist()),
        "train_ids": set(train_set.sample_ids.tolist()),
        "validation_ids": set(unseen.sample_ids.tolist()) if unseen else (),
        "find_copies": find_copies,
        "images": job.config.images,
    }
    report = validate(
        rows.frame(),
        **given,
        kept=roles,
        config=job.config.validation,
        digests=tuple(batch.digest for batch in job.record.batches),
        docs_dir=folder / "data_docs" if job.config.validation.data_docs else None,
    )
    report.quarantine.to_parquet(folder / "quarantine.parquet")
    (folder / "result.json").write_text(json.dumps(report.results, indent=1, default=str), encoding="utf-8")
    job.run.log_folder(folder, "validation")
    accepted = len(report.accepted) if report.accepted is not None else 0
    quarantined = {rule: count for rule, count in report.counts.items() if count}
    right = len(report.field.images) if report.field else None
    found = Validation(report.rows, accepted, quarantined, tuple(report.broken), right)
    job.record = replace(job.record, validation=found)
    reasons = ", ".join(f"{count} {rule}" for rule, count in quarantined.items())
    field = "" if right is None else f", {right} field rows"
    job.say(f"{accepted} of {report.rows} failures accepted{field}" + (f"; quarantined: {reasons}" if reasons else ""))
    heldout = _heldout(report.accepted, roles, job.config.split.heldout_fraction)
    _foresee(job, clean, heldout, answers.accuracy)
    if report.accepted is None or report.broken:
        where = f"validation/quarantine.parquet of run {job.run.run_id}"
        raise FailureBatchRejected(report.broken or ["no row is left"], where)
    before = still_sound(earlier.rows.frame(), **given, kept=earlier.roles) if earlier.rows else None
    return report.accepted, report.field, Known(outputs, failures=roles is None), before


def _foresee(job: Job, clean: CleanSet, heldout: int, accuracy: float) -> None:
    """Says and records what the gate can show of a repair by so many images; accuracy: the champion's, 0..1."""
    policy, names = job.config.gate, clean.images.class_names
    counts = np.bincount(clean.images.labels, minlength=len(names)).tolist()
    sizes = dict(zip(names, counts, strict=True))
    powers = {share: whole_power(sizes, heldout, share, policy) for share in CHANGED}
    harm = least_harm(sizes, policy)
    warning = gate_warning(sizes, heldout, accuracy, policy, powers[PLAUSIBLE])
    job.record = replace(job.record, power=tuple(powers.values()), least_harm=harm, warning=warning)
    if warning:
        log.warning("Warning: %s", warning)
    if told := in_words(job.record.power or (), harm, policy):
        log.info("           %s", told)


def _heldout(failures: FailureBatch | None, roles: Mapping[str, str] | None, fraction: float) -> int:
    """How many failures will judge: as earlier repairs settled it, or about the share that is split off."""
    if failures is None:
        return 0
    if roles is None:
        return round(fraction * len(failures))
    return sum(roles[sample_id] == "heldout" for sample_id in failures.images.sample_ids.tolist())
