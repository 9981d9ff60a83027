"""Renews the tables of docs/reference/configuration.md: `python docs/extensions/configuration.py`.

A table stands between `<!-- options: STAGE -->` and `<!-- end -->`, and comes from the fields of `repairops.config`.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from repairops.config import Config

PAGE = Path(__file__).parents[1] / "reference" / "configuration.md"
PART = re.compile(r"(<!-- options: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
HEAD = "| option | default | values | |\n| --- | --- | --- | --- |\n"


def rendered(text: str) -> str:
    """The page's text with its tables renewed."""
    return PART.sub(lambda match: f"{match[1]}\n{HEAD}{''.join(rows(match[2]))}\n{match[3]}", text)


def rows(name: str) -> list[str]:
    """The rows of a stage, or the one of an option that stands outside the stages."""
    found = getattr(Config(), name)
    if dataclasses.is_dataclass(found):
        return [row(found, field, f"{name}.") for field in dataclasses.fields(found)]
    return [row(Config(), field) for field in dataclasses.fields(Config) if field.name == name]


def row(values: Any, field: dataclasses.Field[Any], prefix: str = "") -> str:
    default, kind = getattr(values, field.name), get_type_hints(type(values))[field.name]
    words = get_args(kind) if get_origin(kind) is Literal else ("true", "false") if kind is bool else ()
    numbers = field.metadata["numbers"]
    allowed = numbers.wanted if numbers else ", ".join(f"`{word}`" for word in words)
    return f"| `{prefix}{field.name}` | {shown(default)} | {allowed} | {field.metadata['sentence']} |\n"


def shown(default: Any) -> str:
    if default in ("", ()):
        return "unset"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stderr.write(f"{PAGE} renewed\n")
