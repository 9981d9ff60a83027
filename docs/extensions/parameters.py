"""A griffe extension for the Python reference: docstring lines such as `name: text` become items of a list."""

from __future__ import annotations

import re
from typing import Any

import griffe

_PARAMETER = re.compile(r"(\w+(?:, \w+)*): (.*)")


def itemised(text: str) -> str:
    """Markdown of a docstring: paragraphs that start with `name: ` as a list, all others as they are.

    Lines that go on in such a paragraph are indented, as the docstrings here are written.
    """
    return "\n\n".join(
        _list(paragraph) if _PARAMETER.match(paragraph) else paragraph for paragraph in text.split("\n\n")
    )


def _list(paragraph: str) -> str:
    items = []
    for line in paragraph.split("\n"):
        found = _PARAMETER.match(line)
        if found:
            names = ", ".join(f"`{name}`" for name in found[1].split(", "))
            items.append(f"- {names}: {found[2]}")
        else:
            items.append(f"    {line.strip()}")
    return "\n".join(items)


class Parameters(griffe.Extension):
    """Applied to every docstring that mkdocstrings collects."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = itemised(obj.docstring.value)
