"""A rival beside the challenger, where one is asked for: trained from the same champion, judged by the same images."""

from __future__ import annotations

import time
from dataclasses import replace

from repairops.core.followers import call_followers
from repairops.core.parts import RepairInputs
from repairops.core.repair import Repaired, repair_network
from repairops.data.records import CleanSet
from repairops.model.evaluation import Evaluation, Known, evaluate
from repairops.model.network import Classifier
from repairops.outcome.sections import Comparison
from repairops.stages.job import Job


def compare_with_rival(
    job: Job,
    champion: Classifier,
    repaired: Repaired,
    inputs: RepairInputs,
    clean: CleanSet,
    known: Known,
    evaluation: Evaluation,
) -> None:
    """Repairs by `method.compare` with the challenger's split and style, and records what that comes to.

    known: what the champion has answered. Nothing is chosen by the rival, and nothing of it is registered.
    Raises what `repair_network` raises.
    """
    method = job.config.method
    began = time.monotonic()
    config = replace(
        job.config,
        method=replace(method, name=method.compare, compare=""),
        validation=replace(job.config.validation, suspect_labels="off"),  # what was quarantined is out of the split
    )
    given = replace(inputs, split=repaired.split)
    call_followers(champion, given, config)
    rival = repair_network(champion, given, config, work_dir=job.folder / "compared", style=repaired.style)
    heldout = repaired.split.heldout
    found = evaluate(champion, rival.network, clean, heldout, device=job.device, known=known)
    chosen = rival.form.chosen
    job.record = replace(
        job.record,
        comparison=Comparison(
            method=rival.method.name,
            form=rival.form.name,
            validation_repair_rate=chosen.repaired if chosen else None,
            clean=found.clean,
            heldout_repaired=found.heldout_repaired,
            heldout_total=found.heldout_total,
            seconds=round(time.monotonic() - began, 1),
        ),
    )
    job.say(
        f"{rival.method.name} repairs {found.heldout_repaired} of {found.heldout_total} held-out failures, clean "
        f"accuracy {found.challenger_clean.accuracy:.2%}; {evaluation.heldout_repaired} and "
        f"{evaluation.challenger_clean.accuracy:.2%} by {repaired.method.name}"
    )
