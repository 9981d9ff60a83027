"""The registered version's description: Markdown that MLflow shows beside the version."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from repairops.report import commands, facts
from repairops.report.advice import next_steps
from repairops.report.facts import Outcome
from repairops.report.wording import DASH, count, mapping, mappings, plain, short, when

MAX_BATCHES = 10  # a version's description has at most 5,000 characters
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~&!])")


def render_markdown(outcome: Outcome) -> str:
    """The page's words in the page's order, as Markdown without HTML: verdict, why, next, figures, checks, lineage."""
    parts = [f"**{facts.verdict_word(outcome)}.** {escaped(facts.headline(outcome))}"]
    parts.append(escaped(facts.standing(outcome)))
    parts += [_bullets(facts.why(outcome))]
    parts += ["**What to do next**", _bullets(next_steps(outcome))]
    rows = facts.before_after(outcome)
    parts += [_table(("", "Champion", "Challenger", "Change"), rows)] if rows else []
    parts += [_checks(outcome), _lineage(outcome), _commands(outcome)]
    return "\n\n".join(part for part in parts if part) + "\n"


def escaped(text: Any) -> str:
    """Text in which Markdown and HTML see only text; one line."""
    return _SPECIAL.sub(r"\\\1", plain(text))


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join(lines + [f"| {' | '.join(map(escaped, row))} |" for row in rows])


def _checks(outcome: Outcome) -> str:
    """Every required check; of the advisory ones how many pass, and those that do not."""
    groups = facts.by_level(outcome)
    advisory = groups.get("advisory", [])
    shown = [*groups.get("required", []), *(c for c in advisory if c.get("result") != "PASS")]
    rows = [
        (facts.check_name(c), plain(c.get("result")), plain(c.get("level")), plain(c.get("summary"))) for c in shown
    ]
    table = _table(("Check", "Result", "Level", "What it found"), rows) if rows else ""
    return f"{table}\n\nAdvisory checks: {escaped(facts.tally(advisory))}." if advisory else table


def _lineage(outcome: Outcome) -> str:
    model = mapping(outcome.get("model"))
    lines = []
    if model:
        alias = f" (alias {escaped(model['alias'])})" if model.get("alias") else ""
        lines.append(f"- Parent: {escaped(model.get('name'))} version {escaped(model.get('version'))}{alias}")
    batches = mappings(outcome.get("batches"))
    for batch in batches[:MAX_BATCHES]:
        details = f"{count(batch.get('rows'))} rows, logged {escaped(when(batch.get('logged_at')))}"
        lines.append(f"- Failure batch `{_code(short(batch.get('digest')))}`: {details}")
    if len(batches) > MAX_BATCHES:
        lines.append(f"- {len(batches) - MAX_BATCHES} more failure batches are in outcome.json")
    if outcome.get("config_digest"):
        lines.append(f"- Configuration `{_code(short(outcome['config_digest']))}`, seed {escaped(outcome.get('seed'))}")
    options = ", ".join(f"`{_code(option)}`" for option in commands.changed_options(outcome))
    lines += [f"- Options that differ from the defaults: {options}"] if options else []
    method = mapping(outcome.get("method"))
    if method:
        lines.append(f"- Method: {escaped(method.get('name'))}, style {escaped(method.get('style'))}")
    chosen = facts.clean_validation(outcome)
    lines += [f"- Chosen by clean images too: {escaped(chosen)}"] if chosen else []
    made = [f"commit `{_code(short(outcome['commit']))}`"] if outcome.get("commit") else []
    made += [f"run `{_code(_run(outcome))}`"] if _run(outcome) != DASH else []
    lines += [f"- Made by {', '.join(made)} on {escaped(when(outcome.get('created_at')))}"] if made else []
    return "\n".join(lines)


def _run(outcome: Outcome) -> str:
    return plain(mapping(outcome.get("tracking")).get("run_id"))


def _code(text: str) -> str:
    return text.replace("`", "'")


def _commands(outcome: Outcome) -> str:
    rows = [
        ("Promote", commands.promote_command(outcome)),
        ("Roll back, after a promotion", commands.rollback_command(outcome)),
        ("Reproduce", commands.reproduce_command(outcome)),
    ]
    return "\n\n".join(f"{title}:\n\n```\n{command}\n```" for title, command in rows if command)
