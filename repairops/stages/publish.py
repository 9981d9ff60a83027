"""Register and promote: what leaves the job, and only after a passed gate."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from repairops.errors import AliasMoved, InvalidOption, PromotionRefused, RegistryRefused
from repairops.gate.evidence import Evidence, Verdict
from repairops.model.network import Classifier
from repairops.model.routing import form_of
from repairops.outcome import OF_VERDICT, Outcome
from repairops.outcome.given import ModelVersion
from repairops.outcome.sections import Artifacts
from repairops.promotion.history import promotions
from repairops.promotion.move import move_alias
from repairops.report import render_markdown, traffic
from repairops.stages.job import Job
from repairops.stages.judge import onnx_file
from repairops.store import registry
from repairops.store.champion import Champion
from repairops.store.descriptions import input_sentence
from repairops.store.jobs import run_name
from repairops.store.models import ModelRef, check_alias_name, find_version, version_at

if TYPE_CHECKING:
    from mlflow import MlflowClient


def check_alias(client: MlflowClient, ref: ModelRef, alias: str) -> None:
    """Raises InvalidOption where `register.alias` is none, or one that production may be found by.

    A repair moves it without asking, so it must be new, or be where an earlier repair has put it.
    """
    check_alias_name("register.alias", alias)
    place = version_at(client, ref.name, alias) or ""
    found = find_version(client, ref.name, place)
    why = ""
    if alias == ref.alias:
        why = "the model is found by it"
    elif any(move.alias == alias for move in promotions(client, ref.name)):
        why = "it was promoted or logged, and moves by `repairops promote` alone"
    elif found and (found.tags.get("repairops.kind") != "repair" or found.tags.get(registry.ALIAS_TAG, alias) != alias):
        why = f"it is at version {place}, and no repair put it there"
    if why:
        raise InvalidOption("register.alias", alias, f"an alias that only repairs move: {why}. Name another one")


def publish(job: Job, client: MlflowClient, champion: Champion, challenger: Classifier, verdict: Verdict) -> str:
    """Registers a passed repair, moves the production alias where asked; returns the outcome's name."""
    outcome = OF_VERDICT[verdict.result]
    if outcome != "passed":
        job.say(f"nothing: the gate says {verdict.result}")
        return outcome
    version = _register(job, client, champion, challenger)
    if job.config.register.promote == "auto":
        changed = _promote(job, client, version, job.run.run_id)
        job.record = replace(job.record, **changed)
        return job.record.outcome
    return outcome


def promote_earlier(job: Job, client: MlflowClient, earlier: Outcome) -> dict[str, Any]:
    """With promote=auto, moves the alias to what an earlier run of this job registered; what changes in its record.

    A version that was promoted since stays where it is: somebody rolled it back.
    """
    version = earlier.version
    if job.config.register.promote != "auto" or not version:
        return {}
    if any(move.version_to == version for move in promotions(client, job.ref.name)):
        return {"outcome": "passed"}
    return _promote(job, client, version, str(earlier.record.earlier_run))


def outcome_message(job: Job, outcome: str, evidence: Evidence, verdict: Verdict) -> str:
    """The outcome in one line."""
    record, alias = job.record, job.ref.alias
    registered = record.registered
    counts = f"{evidence.heldout_repaired} of {evidence.heldout_total} held-out failures repaired"
    if outcome == "passed" and registered:
        place = f"version {registered.version} of {registered.name!r}, alias {registered.alias!r}"
        promoted = f"; the alias {alias!r} moved to it" if record.promoted else ""
        return f"The gate passed: {counts}; registered as {place}{promoted}."
    if registered and record.not_moved:
        place = f"version {registered.version} is registered under the alias {registered.alias!r}"
        return f"The gate passed and {place}, but {alias!r} was not moved to it. {record.not_moved}"
    reasons = " ".join(c.summary for c in verdict.checks if c.level == "required" and c.result != "PASS")
    word = "failed" if outcome == "failed" else "is inconclusive"
    return f"The gate {word}; nothing was registered. {counts[0].upper()}{counts[1:]}. {reasons}"


def _register(job: Job, client: MlflowClient, champion: Champion, challenger: Classifier) -> str:
    """Registers the challenger; the version's number."""
    name, alias = job.ref.name, job.config.register.alias
    tags = {
        "repairops.kind": "repair",
        registry.VERDICT_TAG: "PASS",
        registry.PARENT_TAG: job.ref.version,
        "repairops.config_digest": job.config.digest(),
        registry.RUN_TAG: job.run.run_id,
        "repairops.method": f"{job.config.method.name}/{job.config.method.recipe}",
        registry.FORM_TAG: form_of(challenger.network),
        registry.ALIAS_TAG: alias,
        "repairops.seed": str(job.config.seed),
        **registry.batch_tags([batch.digest for batch in job.record.batches]),
    }
    if field := traffic.before_after(job.record):
        tags[registry.FIELD_TAG] = f"{field[0][1]} -> {field[0][2]}"
    if job.config.gate.policy_sha256:
        tags[registry.POLICY_TAG] = job.config.gate.policy_sha256

    def registered(number: str) -> ModelVersion:
        return ModelVersion(name, number, alias, f"models:/{name}/{number}")

    def describe(number: str) -> str:
        record = replace(job.record, outcome="passed", registered=registered(number))
        return render_markdown(record, takes=input_sentence(champion.spec))

    version = registry.register_repair(
        client,
        champion,
        challenger.network,
        onnx_file(job) if job.record.artifacts else None,
        run_id=job.run.run_id,
        job_key=job.key,
        tags=tags,
        describe=describe,
        alias=alias,
        step=len(job.record.training.history) + 1 if job.record.training else 0,
    )
    number = str(version.version)
    job.model_id = registry.logged_model_id(version)
    job.run.rename(run_name(job.ref, number))
    weights, onnx = (version.tags.get(tag, "") for tag in registry.DIGEST_TAGS.values())
    files = replace(job.record.artifacts or Artifacts(), weights_sha256=weights, onnx_sha256=onnx)
    job.record = replace(job.record, registered=registered(number), artifacts=files)
    job.run.set_tags({"repairops.registered_version": number})
    job.say(f"version {number} of {name!r}, alias {alias!r}")
    return number


def _promote(job: Job, client: MlflowClient, version: str, run_id: str) -> dict[str, Any]:
    """Moves the alias that the champion was found by; what became of it, as fields of the record.

    The version is registered whatever comes of it. So a refusal is no error of the job: its outcome says that the
    alias was not moved, and `not_moved` why.
    """
    alias, reason = job.ref.alias, f"gate passed in run {run_id}"
    try:
        move_alias(client, job.ref.name, alias, version, expected=job.ref.version, by="repairops", reason=reason)
    except AliasMoved as error:
        if version_at(client, job.ref.name, alias) != version:  # else another machine did the same job
            return {"outcome": "alias_moved", "not_moved": str(error)}
    except (PromotionRefused, RegistryRefused) as error:
        return {"outcome": "not_promoted", "not_moved": str(error)}
    return {"outcome": "passed", "promoted": True, "not_moved": ""}
