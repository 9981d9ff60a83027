"""The end of a run in a shell or a scheduled job's log: at most 20 lines of plain ASCII signs."""

from __future__ import annotations

from repairops.report import commands, facts
from repairops.report.advice import next_steps
from repairops.report.facts import Outcome
from repairops.report.wording import DASH, mapping, plain

MAX_LINES = 20
_ASCII = str.maketrans({"–": "-", "−": "-", "→": "->", "’": "'"})


def render_terminal(outcome: Outcome) -> str:
    """The page's words in the page's order, but for the next step: it comes last, above the prompt."""
    lines = [_title(outcome), facts.headline(outcome), facts.standing(outcome)]
    lines += [f"  {reason}" for reason in facts.why(outcome)[:3]]
    rows = facts.before_after(outcome)
    lines += [f"  {row[0]:<34} {_moved(*row[1:])}" for row in rows]
    lines += _checks(outcome)
    command = commands.promote_command(outcome) or (
        commands.rollback_command(outcome) if outcome.get("promoted") else ""
    )
    steps = [command] if command else next_steps(outcome)
    lines = lines[: MAX_LINES - 1] + [f"Next: {step}" for step in steps]
    return "\n".join(line.translate(_ASCII) for line in lines[:MAX_LINES]) + "\n"


def _checks(outcome: Outcome) -> list[str]:
    """Every required check; of the advisory ones how many pass and which do not."""
    groups = facts.by_level(outcome)
    lines = [f"  {plain(c.get('result')):<13} {facts.check_name(c)}" for c in groups.get("required", [])]
    if advisory := groups.get("advisory"):
        lines.append(f"  {'advisory':<13} {facts.tally(advisory)}")
    return lines


def _moved(before: str, after: str, change: str) -> str:
    return f"{after} ({change})" if before == DASH else f"{before} -> {after} ({change})"


def _title(outcome: Outcome) -> str:
    model, new = mapping(outcome.get("model")), mapping(outcome.get("registered"))
    title = facts.verdict_word(outcome).upper()
    if model:
        title += f": {plain(model.get('name'))} version {plain(model.get('version'))}"
    return f"{title} -> version {plain(new.get('version'))}" if new else title
