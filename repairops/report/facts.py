"""What an outcome says, in the words that page, Markdown and terminal share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repairops.config import RULES
from repairops.report.wording import (
    DASH,
    count,
    dig,
    fixed,
    mapping,
    mappings,
    number,
    of,
    percent,
    plain,
    ratio,
    series,
    signed,
)

Outcome = Mapping[str, Any]

VERDICT_WORDS = {
    "passed": "Passed",
    "failed": "Failed",
    "inconclusive": "Inconclusive",
    "nothing_to_repair": "Nothing to repair",
    "error": "Error",
}
SIGNS = {"PASS": "✓", "FAIL": "✕", "INCONCLUSIVE": "?"}


def kind(outcome: Outcome) -> str:
    """One of VERDICT_WORDS; an unknown outcome counts as an error.

    'alias_moved' and 'not_promoted' are passed repairs that were not promoted; their exit code tells them apart.
    """
    value = outcome.get("outcome")
    if value in ("alias_moved", "not_promoted"):
        return "passed"
    return value if value in VERDICT_WORDS else "error"


def batch_rejected(outcome: Outcome) -> bool:
    """Whether the job ended because the failure batch did not pass validation."""
    return kind(outcome) == "error" and bool(dig(outcome, "validation", "broken"))


def verdict_word(outcome: Outcome) -> str:
    return "Batch rejected" if batch_rejected(outcome) else VERDICT_WORDS[kind(outcome)]


def checks(outcome: Outcome) -> list[Mapping[str, Any]]:
    return mappings(dig(outcome, "verdict", "checks"))


def check(outcome: Outcome, name: str) -> Mapping[str, Any]:
    """The check of this name; empty where the gate did not ask it."""
    return next((c for c in checks(outcome) if c.get("name") == name), {})


def by_level(outcome: Outcome) -> dict[str, list[Mapping[str, Any]]]:
    """The checks by level, required ones first, in the gate's order."""
    levels = ("required", "advisory")
    return {level: found for level in levels if (found := [c for c in checks(outcome) if c.get("level") == level])}


def tally(found: Sequence[Mapping[str, Any]]) -> str:
    """How many of some checks pass, and what the others say: '3 of 4 pass; ONNX parity fails'."""
    passed = sum(c.get("result") == "PASS" for c in found)
    words = {"FAIL": ("fails", "fail"), "INCONCLUSIVE": ("is inconclusive", "are inconclusive")}
    rest = []
    for result, (one, many) in words.items():
        names = [check_name(c) for c in found if c.get("result") == result]
        if names:
            rest.append(f"{series(names)} {one if len(names) == 1 else many}")
    return "; ".join([f"{passed} of {len(found)} pass", *rest])


def check_name(check: Mapping[str, Any]) -> str:
    name = plain(check.get("name"))
    return RULES[name].title if name in RULES else name.replace("_", " ").capitalize()


def deciding(outcome: Outcome, *results: str) -> list[Mapping[str, Any]]:
    """The required checks that have one of these results."""
    return [c for c in checks(outcome) if c.get("level") == "required" and c.get("result") in results]


def clean_accuracy(outcome: Outcome, who: str) -> float | None:
    """Clean accuracy in 0..1 of 'champion' or 'challenger', from the evidence where it is not written out."""
    written = number(dig(outcome, who, "clean_accuracy"))
    if written is not None:
        return written
    clean = mapping(dig(outcome, "evidence", "clean"))
    both, lost, won, wrong = (
        number(clean.get(k)) for k in ("both_right", "champion_only", "challenger_only", "both_wrong")
    )
    if both is None or lost is None or won is None or wrong is None:
        return None
    return ratio(both + (lost if who == "champion" else won), both + lost + won + wrong)


def clean_images(outcome: Outcome) -> float | None:
    written = number(dig(outcome, "champion", "clean_n"))
    counts = [number(v) for v in mapping(dig(outcome, "evidence", "clean")).values()]
    return written if written is not None or not counts else sum(c or 0 for c in counts)


def repaired(outcome: Outcome) -> tuple[float | None, float | None]:
    """Held-out failures that are right now, and all of them."""
    own = [number(dig(outcome, "challenger", f"heldout_{k}")) for k in ("repaired", "total")]
    evidence = [number(dig(outcome, "evidence", f"heldout_{k}")) for k in ("repaired", "total")]
    return (own[0], own[1]) if None not in own else (evidence[0], evidence[1])


def negative_flips(outcome: Outcome) -> float | None:
    written = number(outcome.get("negative_flips"))
    return written if written is not None else number(dig(outcome, "evidence", "clean", "champion_only"))


def positive_flips(outcome: Outcome) -> float | None:
    """Clean images that the champion had wrong and the challenger has right."""
    return number(dig(outcome, "evidence", "clean", "challenger_only"))


def clean_change_points(outcome: Outcome) -> float | None:
    before, after = clean_accuracy(outcome, "champion"), clean_accuracy(outcome, "challenger")
    return None if before is None or after is None else 100 * (after - before)


def clean_validation(outcome: Outcome) -> str:
    """Which clean images chose, in a sentence; empty where the outcome does not say."""
    note = dig(outcome, "clean_validation", "note")
    return plain(note) if note else ""


def headline(outcome: Outcome) -> str:
    """The verdict as one plain sentence."""
    match kind(outcome):
        case "passed":
            return f"The repair passed its gate: {_effect(outcome)}."
        case "failed":
            named = _named(outcome, "FAIL")
            return f"The repair failed its gate: {named} failed." if named else "The repair failed its gate."
        case "inconclusive":
            named = _named(outcome, "INCONCLUSIVE")
            return f"The gate could not decide{f': the evidence on {named} is too thin' if named else ''}."
        case "nothing_to_repair":
            return "There was nothing to repair."
    if batch_rejected(outcome):
        return "The failure batch was rejected by validation, so no repair was tried."
    return "The repair stopped with an error."


def _named(outcome: Outcome, result: str) -> str:
    return series(check_name(c).lower().replace("onnx", "ONNX") for c in deciding(outcome, result))


def _effect(outcome: Outcome) -> str:
    right, total = repaired(outcome)
    change = clean_change_points(outcome)
    before, after = (clean_accuracy(outcome, who) for who in ("champion", "challenger"))
    repair = f"{of(right, total)} held-out failures are right now" if total else "every required check passes"
    if change is None:
        return repair
    if fixed(change) == "0.00":
        return f"{repair}, and clean accuracy stays at {percent(after, 2)}"
    return f"{repair}, and clean accuracy goes from {percent(before, 2)} to {percent(after, 2)}"


def standing(outcome: Outcome) -> str:
    """What this job registered and which alias it moved, as one sentence. It says nothing of what others did since."""
    new = mapping(outcome.get("registered"))
    if not new:
        return "Nothing was registered and no alias was moved."
    version = f"Version {plain(new.get('version'))} of {plain(new.get('name'))} is registered"
    alias = production_alias(outcome)
    production = f"the alias {alias}" if alias else "the production alias"
    if outcome.get("promoted"):
        return f"{version} and promoted: {production} was moved to it."
    waits = f" under the alias {plain(new['alias'])}" if new.get("alias") else ""
    return f"{version}{waits}; {production} was not moved."


def production_alias(outcome: Outcome) -> str:
    """The alias that the champion was found under; empty where it was named by its version."""
    alias = dig(outcome, "model", "alias")
    return plain(alias) if alias else ""


def why(outcome: Outcome) -> list[str]:
    """The reasons behind anything that is no plain pass, most important first."""
    if kind(outcome) in ("failed", "inconclusive"):
        reasons = [f"{check_name(c)}: {plain(c.get('summary'))}" for c in deciding(outcome, "FAIL", "INCONCLUSIVE")]
        return reasons or _beyond_checks(outcome)
    if kind(outcome) == "passed" and not number(outcome.get("exit_code")):
        return []
    broken = [plain(b) for b in dig(outcome, "validation", "broken") or []] if batch_rejected(outcome) else []
    message = plain(outcome.get("message"))
    return broken or ([message] if message != DASH else [])


def _beyond_checks(outcome: Outcome) -> list[str]:
    """What no level can switch off: outputs that are not finite, and a missing baseline."""
    found = mapping(outcome.get("evidence"))
    words = {"challenger_finite": "challenger", "champion_finite": "champion"}
    reasons = [f"The {who}'s outputs hold NaN or infinity." for key, who in words.items() if found.get(key) is False]
    return reasons or (["There is no clean image to compare on."] if found and not clean_images(outcome) else [])


def before_after(outcome: Outcome) -> list[tuple[str, str, str, str]]:
    """Rows (what, champion, challenger, change). Held-out failures are wrong for the champion by validation."""
    right, total = repaired(outcome)
    n, flips = clean_images(outcome), negative_flips(outcome)
    champion, challenger = (clean_accuracy(outcome, who) for who in ("champion", "challenger"))
    change = clean_change_points(outcome)
    rows = []
    if champion is not None or challenger is not None:
        moved = DASH if change is None else f"{signed(change)} points"
        rows.append((f"Clean accuracy (n = {count(n)})", percent(champion, 2), percent(challenger, 2), moved))
    if total:
        rows.append(
            ("Held-out failures right", of(0, total), of(right, total), f"{percent(ratio(right, total))} repaired")
        )
    if flips is not None:
        rows.append(("Negative flips on the clean set", DASH, of(flips, n), percent(ratio(flips, n), 2)))
    return rows
