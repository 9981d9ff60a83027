"""The registered version's description: Markdown that MLflow shows beside the version."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from repairops.outcome import Record
from repairops.report import commands, provenance, statements
from repairops.report.advice import next_steps
from repairops.report.formats import count, plain, short, when

MAX_BATCHES = 10  # a version's description has at most 5,000 characters
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~&!])")


def render_markdown(record: Record, takes: str = "") -> str:
    """The page's words in the page's order, as Markdown without HTML: verdict, why, next, figures, checks, lineage.

    takes: what the version takes and answers, Markdown.
    """
    parts = [f"**{statements.verdict_word(record)}.** {escaped(statements.headline(record))}"]
    parts += [escaped(statements.standing(record)), escaped(statements.form(record))]
    remarks = (provenance.looser(record), provenance.reuse(record), statements.looks(record))
    parts += [escaped(remark) for remark in remarks if remark]
    parts += [_bullets(statements.why(record))]
    parts += ["**What to do next**", _bullets(next_steps(record))]
    rows = statements.before_after(record)
    parts += [_table(("", "Champion", "Challenger", "Change"), rows)] if rows else []
    parts += [_checks(record), f"**What it takes and answers.** {takes}" if takes else ""]
    parts += [_lineage(record), _commands(record)]
    return "\n\n".join(part for part in parts if part) + "\n"


def escaped(text: Any) -> str:
    """Text in which Markdown and HTML see only text; one line."""
    return _SPECIAL.sub(r"\\\1", plain(text))


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join(lines + [f"| {' | '.join(map(escaped, row))} |" for row in rows])


def _checks(record: Record) -> str:
    """Every required check; of the advisory ones how many pass, and those that do not."""
    groups = statements.by_level(record)
    advisory = groups.get("advisory", [])
    shown = [*groups.get("required", []), *(c for c in advisory if c.result != "PASS")]
    rows = [(statements.check_name(c), c.result, c.level, c.summary) for c in shown]
    title = "**Checks**\n\n"  # MLflow sets two tables without a line between them as one
    table = title + _table(("Check", "Result", "Level", "What it found"), rows) if rows else ""
    return f"{table}\n\nAdvisory checks: {escaped(statements.tally(advisory))}." if advisory else table


def _lineage(record: Record) -> str:
    lines = []
    if model := record.model:
        alias = f" (alias {escaped(model.alias)})" if model.alias else ""
        lines.append(f"- Parent: {escaped(model.name)} version {escaped(model.version)}{alias}")
    for batch in record.batches[:MAX_BATCHES]:
        details = f"{count(batch.rows)} rows, logged {escaped(when(batch.logged_at))}"
        lines.append(f"- Failure batch `{_code(short(batch.digest))}`: {details}")
    if len(record.batches) > MAX_BATCHES:
        lines.append(f"- {len(record.batches) - MAX_BATCHES} more failure batches are in outcome.json")
    if record.config_digest:
        lines.append(f"- Configuration `{_code(short(record.config_digest))}`, seed {escaped(record.seed)}")
    options = ", ".join(f"`{_code(option)}`" for option in commands.changed_options(record))
    lines += [f"- Options that differ from the defaults: {options}"] if options else []
    if method := record.method:
        lines.append(f"- Method: {escaped(method.name)}, style {escaped(method.style)}")
    if (chosen := record.clean_validation) and chosen.note:
        lines.append(f"- Chosen by clean images too: {escaped(chosen.note)}")
    made = [f"commit `{_code(short(record.commit))}`"] if record.commit else []
    made += [f"run `{_code(plain(record.tracking.run_id))}`"] if record.tracking.run_id else []
    lines += [f"- Made by {', '.join(made)} on {escaped(when(record.created_at))}"] if made else []
    return "\n".join(lines)


def _code(text: str) -> str:
    return text.replace("`", "'")


def _commands(record: Record) -> str:
    rows = [
        ("Promote", commands.promote_command(record)),
        ("Serve, images in and classes out", commands.serve_command(record)),
        ("Roll back, after a promotion", commands.rollback_command(record)),
        ("Reproduce", commands.reproduce_command(record)),
    ]
    return "\n\n".join(f"{title}:\n\n```\n{command}\n```" for title, command in rows if command)
