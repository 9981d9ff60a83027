"""Draws docs/images/default-command.svg, the README's picture, from the table of docs/benchmarks.md.

    python docs/extensions/default_command.py

A dot is a job: the share of held-out failures that it repaired, and the change of clean accuracy, by their look.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[1]
PICTURE = DOCS / "images" / "default-command.svg"
WIDTH, ROW, TOP, LEFT, SPLIT, RIGHT = 860, 34, 62, 224, 540, 600  # pixels; the panels begin at LEFT and RIGHT
LOW, HIGH, MARGIN = -0.6, 0.3, -0.5  # percentage points of the right panel, and the gate's limit
BLUE, GREEN, GREY, INK, RED = "#1f5a9e", "#e6f3ea", "#dfe2e6", "#1a1d21", "#b0261c"


class Look(NamedTuple):
    name: str
    repaired: tuple[float, ...]  # shares in 0..1, one a job
    clean: tuple[float, ...]  # percentage points


def looks() -> list[Look]:
    """The rows of the table 'By the default command'."""
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    text = page.split("## By the default command", 1)[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if " of " in line and line.startswith("| ")]
    return [
        Look(
            cells[0],
            tuple(int(right) / int(total) for right, total in re.findall(r"(\d+) of (\d+)", cells[1])),
            tuple(map(float, cells[3].split(", "))),
        )
        for cells in rows
    ]


def drawn(found: list[Look]) -> str:
    """The picture as SVG."""
    bottom = TOP + ROW * len(found)
    font, label = 'font-family="sans-serif" font-size="13"', "Failures repaired and change of clean accuracy, by look"
    allowed = f'width="{_points(HIGH) - _points(MARGIN):.1f}" height="{bottom - TOP + 8}" fill="{GREEN}"'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 34}" {font} fill="{INK}">',
        f"<title>{label}</title>",
        f'<rect width="{WIDTH}" height="{bottom + 34}" fill="#fff"/>',
        _text(LEFT, 24, "Held-out failures that are right after the repair", weight=650),
        _text(LEFT, 42, "before it, none were: 0%"),
        _text(RIGHT, 24, "Change of clean accuracy", weight=650),
        _text(RIGHT, 42, "points; shaded: what the gate allows"),
        f'<rect x="{_points(MARGIN):.1f}" y="{TOP - 8}" {allowed}/>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        out += [_line(_share(share), TOP - 8, bottom, GREY)]
        out += [_text(_share(share), bottom + 18, f"{share:.0%}", "middle")]
    for points, name in ((MARGIN, "−0.5"), (0, "0"), (0.25, "+0.25")):
        out += [_line(_points(points), TOP - 8, bottom, RED if points == MARGIN else GREY)]
        out += [_text(_points(points), bottom + 18, name, "middle")]
    for number, look in enumerate(found):
        y = TOP + ROW * number + ROW / 2
        out.append(_text(LEFT - 14, y + 4, look.name, "end"))
        out += [_dot(_share(share), y) for share in look.repaired]
        out += [_dot(_points(points), y) for points in look.clean]
    return "\n".join([*out, "</svg>"]) + "\n"


def _share(share: float) -> float:
    return LEFT + share * (SPLIT - LEFT)


def _points(points: float) -> float:
    return RIGHT + (points - LOW) / (HIGH - LOW) * (WIDTH - 24 - RIGHT)


def _text(x: float, y: float, text: str, anchor: str = "start", weight: int = 400) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{text}</text>'


def _line(x: float, top: float, bottom: float, colour: str) -> str:
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" stroke="{colour}"/>'


def _dot(x: float, y: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{BLUE}" fill-opacity="0.75" stroke="#fff"/>'


if __name__ == "__main__":
    PICTURE.write_text(drawn(looks()), encoding="utf-8")
