"""What a record says, in the words that page, Markdown and terminal share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from repairops.config import RULES, GateConfig
from repairops.gate import in_words
from repairops.gate.evidence import Check
from repairops.outcome import Record
from repairops.report import traffic
from repairops.report.formats import DASH, count, fixed, of, percent, plain, ratio, series, signed

VERDICT_WORDS = {
    "passed": "Passed",
    "failed": "Failed",
    "inconclusive": "Inconclusive",
    "nothing_to_repair": "Nothing to repair",
    "error": "Error",
}
SIGNS = {"PASS": "✓", "FAIL": "✕", "INCONCLUSIVE": "?"}


@dataclass(frozen=True)
class Effect:
    """What a repair changed, in numbers; None where unknown. Accuracies of champion and challenger are in 0..1.

    lost, won: clean images that only the champion, only the challenger has right. kept: held-out failures that the
    champion has right: none but where a guarded version is consolidated.
    """

    images: int | None = None
    before: float | None = None
    after: float | None = None
    lost: int | None = None
    won: int | None = None
    repaired: int | None = None
    failures: int | None = None
    kept: int = 0

    @property
    def points(self) -> float | None:
        """The change of clean accuracy in percentage points."""
        return None if self.before is None or self.after is None else 100 * (self.after - self.before)


def effect(record: Record) -> Effect:
    """From the gate's evidence, or from what was noted before it where the job ended sooner."""
    if found := record.evidence:
        clean, right, total = found.clean, found.heldout_repaired, found.heldout_total
        before, after = ratio(clean.champion_right, clean.n), ratio(clean.challenger_right, clean.n)
        kept = found.heldout.champion_right if found.heldout else 0
        return Effect(clean.n, before, after, clean.champion_only, clean.challenger_only, right, total, kept)
    noted = Effect(lost=record.negative_flips)
    if champion := record.champion:
        noted = replace(noted, images=champion.clean_n, before=champion.clean_accuracy)
    if challenger := record.challenger:
        repaired, failures = challenger.heldout_repaired, challenger.heldout_total
        noted = replace(noted, after=challenger.clean_accuracy, repaired=repaired, failures=failures)
    return noted


def kind(record: Record) -> str:
    """One of VERDICT_WORDS; an unknown outcome counts as an error.

    'alias_moved' and 'not_promoted' are passed repairs that were not promoted; their exit code tells them apart.
    """
    if record.outcome in ("alias_moved", "not_promoted"):
        return "passed"
    return record.outcome if record.outcome in VERDICT_WORDS else "error"


def broken_rules(record: Record) -> tuple[str, ...]:
    """What the failure batch broke, where the job ended because it did not pass validation."""
    return record.validation.broken if record.validation and kind(record) == "error" else ()


def verdict_word(record: Record) -> str:
    return "Batch rejected" if broken_rules(record) else VERDICT_WORDS[kind(record)]


def checks(record: Record) -> tuple[Check, ...]:
    return record.verdict.checks if record.verdict else ()


def check(record: Record, name: str) -> Check | None:
    """The check of this name; None where the gate did not ask it."""
    return next((c for c in checks(record) if c.name == name), None)


def by_level(record: Record) -> dict[str, list[Check]]:
    """The checks by level, required ones first, in the gate's order."""
    levels = ("required", "advisory")
    return {level: found for level in levels if (found := [c for c in checks(record) if c.level == level])}


def tally(found: Sequence[Check]) -> str:
    """How many of some checks pass, and what the others say: '3 of 4 pass; ONNX parity fails'."""
    words = {"FAIL": ("fails", "fail"), "INCONCLUSIVE": ("is inconclusive", "are inconclusive")}
    rest = []
    for result, (one, many) in words.items():
        names = [check_name(c) for c in found if c.result == result]
        if names:
            rest.append(f"{series(names)} {one if len(names) == 1 else many}")
    return "; ".join([f"{passes(found)} of {len(found)} pass", *rest])


def passes(found: Sequence[Check]) -> int:
    return sum(c.result == "PASS" for c in found)


def check_name(check: Check) -> str:
    return RULES[check.name].title if check.name in RULES else check.name.replace("_", " ").capitalize()


def deciding(record: Record, *results: str) -> list[Check]:
    """The required checks that have one of these results."""
    return [c for c in checks(record) if c.level == "required" and c.result in results]


def headline(record: Record) -> str:
    """The verdict as one plain sentence."""
    match kind(record):
        case "passed":
            return f"The {_job(record)} passed its gate: {_effect(effect(record))}."
        case "failed":
            named = _named(record, "FAIL")
            return f"The {_job(record)} failed its gate" + (f": {named} failed." if named else ".")
        case "inconclusive":
            named = _named(record, "INCONCLUSIVE")
            return f"The gate could not decide{f': the evidence on {named} is too thin' if named else ''}."
        case "nothing_to_repair":
            return "There was nothing to repair."
    if broken_rules(record):
        return "The failure batch was rejected by validation, so no repair was tried."
    return "The repair stopped with an error."


def _job(record: Record) -> str:
    return "consolidation" if record.evidence and record.evidence.heldout else "repair"


def _named(record: Record, result: str) -> str:
    return series(check_name(c).lower().replace("onnx", "ONNX") for c in deciding(record, result))


def _effect(found: Effect) -> str:
    told = f"{of(found.repaired, found.failures)} held-out failures are right now"
    repair = told if found.failures else "every required check passes"
    if found.points is None:
        return repair
    if fixed(found.points) == "0.00":
        return f"{repair}, and clean accuracy stays at {percent(found.after, 2)}"
    return f"{repair}, and clean accuracy goes from {percent(found.before, 2)} to {percent(found.after, 2)}"


def standing(record: Record) -> str:
    """What this job registered and which alias it moved, as one sentence. It says nothing of what others did since."""
    new = record.registered
    if not new:
        return "Nothing was registered and no alias was moved."
    version = f"Version {plain(new.version)} of {plain(new.name)} is registered"
    alias = production_alias(record)
    production = f"the alias {alias}" if alias else "the production alias"
    if record.promoted:
        return f"{version} and promoted: {production} was moved to it."
    waits = f" under the alias {plain(new.alias)}" if new.alias else ""
    return f"{version}{waits}; {production} was not moved."


def form(record: Record) -> str:
    """What is served where this repair is promoted, as one sentence; empty where nothing was trained."""
    if not (record.form or record.challenger or record.evidence):
        return ""
    if not record.form or record.form.name == "one":
        return "One network."
    served = "Champion and repaired network, guarded"
    if not (record.evidence and (found := record.evidence.routing)):
        return f"{served}."
    clean, failures = (percent(ratio(part.routed, part.total)) for part in (found.clean, found.heldout))
    return f"{served}: the repaired network answers for {clean} of the clean images and {failures} of the failures."


def production_alias(record: Record) -> str:
    """The alias that the champion was found under; empty where it was named by its version."""
    return plain(record.model.alias) if record.model and record.model.alias else ""


def looks(record: Record) -> str:
    """The looks of the failures with their shares, and what of each is repaired; empty where there is one."""
    if not record.style or not record.style.summary:
        return ""
    parts = record.evidence.heldout_by_cluster.values() if record.evidence else ()
    repaired = ", ".join(of(part.repaired, part.total) for part in parts)
    return f"The failures have {plain(record.style.summary)}." + (f" Repaired of each: {repaired}." if repaired else "")


def foreseen(record: Record) -> str:
    """What the gate could show, as it was known before the training; empty where it was not."""
    told = in_words(record.power or (), record.least_harm, record.policy or GateConfig())
    return told and plain(told)


def why(record: Record) -> list[str]:
    """The reasons behind anything that is no plain pass, most important first."""
    if kind(record) in ("failed", "inconclusive"):
        reasons = [f"{check_name(c)}: {plain(c.summary)}" for c in deciding(record, "FAIL", "INCONCLUSIVE")]
        return reasons or _beyond_checks(record)
    if kind(record) == "passed" and not record.exit_code:
        return []
    return [plain(reason) for reason in broken_rules(record) or (record.message,) if reason]


def _beyond_checks(record: Record) -> list[str]:
    """What no level can switch off: outputs that are not finite, and a missing baseline."""
    if not (found := record.evidence):
        return []
    finite = {"challenger": found.challenger_finite, "champion": found.champion_finite}
    reasons = [f"The {who}'s outputs hold NaN or infinity." for who, all_finite in finite.items() if not all_finite]
    return reasons or ([] if found.clean.n else ["There is no clean image to compare on."])


def before_after(record: Record) -> list[tuple[str, str, str, str]]:
    """Rows (what, champion, challenger, change)."""
    found, rows = effect(record), []
    if found.before is not None or found.after is not None:
        moved = DASH if found.points is None else f"{signed(found.points)} points"
        what = f"Clean accuracy (n = {count(found.images)})"
        rows.append((what, percent(found.before, 2), percent(found.after, 2), moved))
    if found.failures:
        share, right = f"{percent(ratio(found.repaired, found.failures))} repaired", of(found.repaired, found.failures)
        rows.append(("Held-out failures right", of(found.kept, found.failures), right, share))
    if record.evidence and (counts := record.evidence.earlier) and counts.n:
        before, after = (of(right, counts.n) for right in (counts.champion_right, counts.challenger_right))
        lost = f"{counts.champion_only} lost, {counts.challenger_only} won"
        rows.append(("Held out by earlier repairs, right", before, after, lost))
    if found.lost is not None:
        share = percent(ratio(found.lost, found.images), 2)
        rows.append(("Negative flips on the clean set", DASH, of(found.lost, found.images), share))
    return rows + traffic.before_after(record)
