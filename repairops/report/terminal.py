"""The end of a run in a shell or a scheduled job's log: at most 20 lines of plain ASCII signs."""

from __future__ import annotations

from repairops.outcome import Record
from repairops.report import commands, statements
from repairops.report.advice import next_steps
from repairops.report.formats import DASH, plain

MAX_LINES = 20
_ASCII = str.maketrans({"–": "-", "−": "-", "→": "->", "’": "'"})


def render_terminal(record: Record) -> str:
    """The page's words in the page's order, but for the next step: it comes last, above the prompt."""
    lines = [_title(record), statements.headline(record), statements.standing(record)]
    lines += [looks] if (looks := statements.looks(record)) else []
    lines += [f"  {reason}" for reason in statements.why(record)[:3]]
    rows = statements.before_after(record)
    lines += [f"  {row[0]:<34} {_moved(*row[1:])}" for row in rows]
    lines += _checks(record)
    command = commands.promote_command(record) or (commands.rollback_command(record) if record.promoted else "")
    steps = [command] if command else next_steps(record)
    lines = lines[: MAX_LINES - 1] + [f"Next: {step}" for step in steps]
    return "\n".join(line.translate(_ASCII) for line in lines[:MAX_LINES]) + "\n"


def _checks(record: Record) -> list[str]:
    """Every required check; of the advisory ones how many pass and which do not."""
    groups = statements.by_level(record)
    lines = [f"  {c.result:<13} {statements.check_name(c)}" for c in groups.get("required", [])]
    if advisory := groups.get("advisory"):
        lines.append(f"  {'advisory':<13} {statements.tally(advisory)}")
    return lines


def _moved(before: str, after: str, change: str) -> str:
    return f"{after} ({change})" if before == DASH else f"{before} -> {after} ({change})"


def _title(record: Record) -> str:
    model, new = record.model, record.registered
    title = statements.verdict_word(record).upper()
    if model:
        title += f": {plain(model.name)} version {plain(model.version)}"
    return f"{title} -> version {plain(new.version)}" if new else title
