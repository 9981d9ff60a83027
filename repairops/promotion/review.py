"""Challenger against champion, for the one who decides: verdict, checks, links, and whether it may be promoted now."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repairops.errors import NoReview, OutcomeUnreadable, RepairError
from repairops.gate.evidence import Check
from repairops.outcome import Outcome, read_outcome, recompute
from repairops.promotion.move import CHALLENGER_ALIAS, existing_version, pick_version, refuse_unjudged
from repairops.store.connection import connect
from repairops.store.models import open_target, resolve_model, version_at
from repairops.store.registry import RUN_TAG
from repairops.store.runs import fetch_artifact, links

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Review:
    """A version and its evidence. `hindrance` says why `promote` would refuse now, '' where nothing speaks against it.

    recorded, recomputed: the gate's verdict as the job wrote it, and as its counts give it again. `promote` also
    compares the files' digests, for which it downloads them; this does not.
    """

    model: str
    alias: str
    champion: str
    challenger: str
    recorded: str
    recomputed: str
    checks: tuple[Check, ...]
    message: str
    hindrance: str
    links: dict[str, str]
    outcome: Mapping[str, Any]


def review(
    model: str, *, version: str = "", challenger: str = CHALLENGER_ALIAS, tracking_uri: str | None = None
) -> Review:
    """What speaks for and against promoting `version` of `model`, by default the one under the alias `challenger`.

    Raises NoReview, PromotionRefused, ModelNotFound, OutcomeUnreadable, RegistryUnreachable.
    """
    client, name, alias = open_target(model, tracking_uri)
    wanted = pick_version(client, name, version, challenger)
    candidate = existing_version(client, name, wanted)
    run_id = candidate.tags.get(RUN_TAG, "")
    if not run_id:
        raise NoReview(name, wanted, "no repair registered it")
    outcome = _logged_outcome(client, run_id)
    if outcome is None:
        raise NoReview(name, wanted, f"its run {run_id} holds no outcome.json")
    verdict = recompute(outcome)
    current = version_at(client, name, alias) or ""
    hindrance = "" if current != wanted else f"the alias {alias!r} is there already"
    try:
        refuse_unjudged(client, candidate, alias, current)
    except RepairError as error:
        hindrance = hindrance or str(error)
    return Review(
        name,
        alias,
        current,
        wanted,
        outcome.record.verdict.result if outcome.record.verdict else "",
        verdict.result,
        verdict.checks,
        outcome.record.message,
        hindrance,
        links(client, name, wanted, run_id),
        outcome.values,
    )


def find_outcome(reference: str, tracking_uri: str | None = None) -> Outcome:
    """The outcome of a repair by its run, 'runs:/ID', or by the version that it registered, see `resolve_model`.

    Raises OutcomeUnreadable, ModelNotFound, AmbiguousModel, RegistryUnreachable.
    """
    client = connect(tracking_uri)
    if reference.startswith("runs:/"):
        run_id = reference.removeprefix("runs:/").partition("/")[0]
    else:
        ref = resolve_model(reference, client)
        run_id = existing_version(client, ref.name, ref.version).tags.get(RUN_TAG, "")
        if not run_id:
            raise OutcomeUnreadable(reference, f"no repair registered {ref}")
    outcome = _logged_outcome(client, run_id) if run_id else None
    if outcome is None:
        raise OutcomeUnreadable(reference, f"there is no run {run_id!r}, or it holds no outcome.json")
    return outcome


def _logged_outcome(client: MlflowClient, run_id: str) -> Outcome | None:
    """What a run logged; None where it is not there. Raises OutcomeUnreadable."""
    with tempfile.TemporaryDirectory() as folder:
        file = fetch_artifact(client, run_id, "outcome.json", Path(folder))
        return read_outcome(file, f"outcome.json of run {run_id}") if file else None


def fetch_report(found: Review, folder: Path, tracking_uri: str | None = None) -> Path:
    """The review page of a reviewed version, downloaded into `folder`. Raises NoReview."""
    client, name, _ = open_target(found.model, tracking_uri)
    run_id = existing_version(client, name, found.challenger).tags[RUN_TAG]
    page = fetch_artifact(client, run_id, "report.html", folder)
    if page is None:
        raise NoReview(name, found.challenger, f"its run {run_id} holds no report.html")
    return page
