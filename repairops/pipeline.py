"""The main path: pull, validate, split, cluster, style, fine-tune, evaluate, export, gate, register, report.

Read `run_job` first, then open the stage that interests you; from split to fine-tune that is `core/repair.py`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from repairops.config import Config
from repairops.core.methods import CONSOLIDATE, check_names
from repairops.core.parts import RepairInputs
from repairops.data.split import split_by_roles
from repairops.errors import UsageError, all_foreseen
from repairops.model.device import resolve_device
from repairops.outcome import Outcome
from repairops.stages.compare import compare_with_rival
from repairops.stages.earlier import Earlier, find_earlier, settle_parts
from repairops.stages.gallery import (
    changed_answers,
    flipped_images,
    guarded_images,
    judged_failures,
    nearest_to,
    repaired_by_class,
)
from repairops.stages.job import Job
from repairops.stages.judge import ask_gate, export_and_compare, measure, weigh
from repairops.stages.provenance import note_provenance
from repairops.stages.publish import check_alias, outcome_message, promote_earlier, publish
from repairops.stages.pull import Inputs, pull
from repairops.stages.repair import repair_champion
from repairops.stages.validate import validate_failures
from repairops.store.batches import choose_batches, logged_batches
from repairops.store.connection import connect
from repairops.store.datasets import find_sets
from repairops.store.jobs import (
    close_interrupted,
    earlier_outcome,
    job_key,
    job_lock,
    job_run,
    job_tags,
    runs_of_job,
    work_folder,
)
from repairops.store.models import resolve_model
from repairops.store.registry import check_guarded, check_right_to_register, failure_roles, repaired_batches
from repairops.store.room import clear_folder
from repairops.store.styles import with_fitted_weights


@all_foreseen()
def repair(
    model: str = "prod/cls",
    *,
    failures: str = "auto",
    train_set: str | Path | None = None,
    clean_set: str | Path | None = None,
    validation_set: str | Path | None = None,
    config: Config | None = None,
    rerun: bool = False,
    tracking_uri: str | None = None,
) -> Outcome:
    """Repairs a registered classifier from its logged failures, and registers the repair where its gate passes.

    model: 'prod/cls', 'cls@prod' or 'models:/cls/3'; pinned at the start.
    failures: 'auto' for every logged batch that is not repaired yet, or run ids or digests, by comma.
    train_set, clean_set: ImageFolder or parquet; None for those that were logged with the model.
    validation_set: clean images that the model was not trained on, to choose by and never to judge; None for those
        that were logged with the model, else a part of a large clean set, else of the train set.
    rerun: also where this very job (model version, batches, data sets, configuration) has an outcome already.

    A version that was repaired before keeps what that repaired: its failures are replayed (`method.replay_share`).
    A job that was interrupted goes on where it stopped. Raises RepairError, with one line that says what to do,
    whatever was raised inside; the run then keeps the outcome 'error' and what was found so far.
    """
    config = config or Config()
    resolve_device(config.training.device)  # what is not there is known before a run is opened
    check_names(config.method, config.style)
    client = connect(tracking_uri)
    ref = resolve_model(model, client)
    if config.register.promote == "auto" and not ref.alias:
        raise UsageError(f"promote=auto needs an alias to move, and {model!r} names none. Write it as prod/cls.")
    check_alias(client, ref, config.register.alias)
    sets = find_sets(client, ref.run_id, train_set, clean_set, validation_set)
    logged = logged_batches(client, ref.name)
    used, roles, before = repaired_batches(client, ref), None, Earlier()
    repaired = [batch for batch in logged if batch.digest[:16] in used]
    if config.method.name == CONSOLIDATE:
        check_guarded(client, ref)
        roles = failure_roles(client, ref)
        logged, used = repaired, set()
    batches = choose_batches(logged, failures, used)
    if roles is None and batches and config.method.replay_share:
        before = find_earlier(client, ref, repaired)
    digests, replayed = ([batch.digest for batch in part] for part in (batches, before.batches))
    key = job_key(ref, digests, [found.digest for found in sets.values()], config, replayed)
    folder, fitted = work_folder(key), with_fitted_weights(client, config)
    with job_lock(key, folder), job_run(client, ref, job_tags(key, folder, fitted)) as run:
        job = Job(run, key, folder, ref, batches, fitted)
        with job.errors_kept():
            job.begin()
            runs = [other for other in runs_of_job(client, key) if other.info.run_id != run.run_id]
            if not batches:
                state = "all logged batches are repaired already" if logged else "no failure batch is logged"
                return job.conclude("nothing_to_repair", f"Nothing to repair in {ref}: {state}.")
            close_interrupted(client, runs, folder)
            earlier = None if rerun else earlier_outcome(client, runs)
            if earlier:
                return job.repeat(earlier, promote_earlier(job, client, earlier))
            check_right_to_register(client, ref.name)
            outcome = run_job(job, Inputs(client, ref, batches, sets, frozenset(used), roles, before))
        clear_folder(folder)
        return outcome


def consolidate(model: str = "prod/cls", *, config: Config | None = None, **others: Any) -> Outcome:
    """Makes one network again of a guarded version's two, and registers it where the gate passes it.

    The version's champion is trained by the pair's answers, on clean and restyled images and on the failures that the
    version and its parents were repaired from; the gate compares with the guarded version.

    others: as `repair` takes them; `failures` names some of these batches. Raises NotGuarded, RolesLost, and what
    `repair` raises.
    """
    config = config or Config()
    return repair(model, config=replace(config, method=replace(config.method, name=CONSOLIDATE)), **others)


def run_job(job: Job, inputs: Inputs) -> Outcome:
    """One repair, from what was pulled to a judged outcome; each stage times itself and says what it did."""
    with job.stage("pull"):
        note_provenance(job, inputs)
        champion, train_set, unseen, clean, rows = pull(job, inputs)
    with job.stage("validate"):
        failures, field, known, before = validate_failures(
            job, rows, champion, train_set, unseen, clean, inputs.roles, inputs.earlier
        )
        split, earlier = settle_parts(job, failures, before, inputs.earlier)
    if inputs.roles is not None:
        split = split_by_roles(failures, inputs.roles)
    given = RepairInputs(train_set, failures, unseen, split, earlier)
    repaired, pictures = repair_champion(job, champion.classifier, given)  # stages split, cluster, style and fine-tune
    with job.stage("evaluate"):
        evaluation = measure(job, champion, repaired, clean, known)
        evidence = weigh(job, champion, repaired, clean, field, evaluation, earlier.heldout if earlier else None)
    if job.config.method.compare:
        with job.stage("compare"):
            compare_with_rival(job, champion.classifier, repaired, given, clean, known, evaluation)
    with job.stage("export"):
        evidence = export_and_compare(job, champion, repaired, clean, evaluation, evidence)
    with job.stage("gate"):
        verdict = ask_gate(job, evidence)
    with job.stage("register"):
        outcome = publish(job, inputs.client, champion, repaired.network, verdict)
    heldout = repaired.split.heldout
    changed, by_class = changed_answers(evaluation, clean, heldout), repaired_by_class(evaluation, heldout)
    job.record = replace(job.record, confusion=changed, heldout_by_class=by_class)
    routed, missed = guarded_images(evaluation, clean, heldout)
    right, wrong = judged_failures(evaluation, heldout, nearest_to(repaired))
    pictures = replace(
        pictures,
        negative_flips=flipped_images(evaluation, clean),
        routed_clean=routed,
        missed_failures=missed,
        repaired_failures=right,
        remaining_failures=wrong,
    )
    return job.conclude(outcome, outcome_message(job, outcome, evidence, verdict), pictures)
