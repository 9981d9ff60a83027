"""The contact sheet of images that wait for a label: one HTML file without a script that fetches nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, NamedTuple

from repairops.report.formats import count, fixed, percent, plain, series
from repairops.report.page import environment
from repairops.report.pictures import MAX_SIDE, png_uri

MAX_IMAGES = 500  # shown; all are in the CSV
IMAGE_BYTES = 8_000_000  # of their pixels: 10.7 MB in base64 where nothing compresses
MAX_FILES = 20  # that could not be used, named
SCORES = {  # what the first images have in common
    "confidence": "the network is least confident of its answer",
    "margin": "the network's second answer is nearly as likely as its first",
    "gini": "the network spreads its answer over several classes (DeepGini)",
    "lsa": "the network's activations are unlikely among those of train images with the same answer (LSA)",
    "dsa": "the network's activations are far from train images with the same answer, and near to others (DSA)",
    "mahalanobis": "the network's activations are far from every class of the train set (Mahalanobis)",
    "guard": "the version's guard sees the failures' look",
}


class SheetImage(NamedTuple):
    """An image that waits for its label. image: uint8 (C, H, W) or (H, W); confidence: NaN where unknown."""

    rank: int
    file: str
    predicted: str
    confidence: float
    cluster: int
    score: float
    image: Any


@dataclass(frozen=True)
class Sheet:
    """target: the model as the user names it. sources: (name, images, chosen ones). missing: scores there are not."""

    model: str
    target: str
    folder: str
    table: str
    score: str
    layers: Sequence[str]
    sources: Sequence[tuple[str, int, int]]
    copies: int
    chosen: int
    missing: Sequence[str]
    unreadable: Mapping[str, str]
    images: Sequence[SheetImage]


def render_sheet(sheet: Sheet) -> str:
    """The page as HTML, at most about 11 MB: of many images the first are shown, and they are scaled down to fit."""
    shown = sheet.images[:MAX_IMAGES]
    side = min(MAX_SIDE, isqrt(IMAGE_BYTES // (3 * len(shown)))) if shown else MAX_SIDE
    template = environment().get_template("sheet.html.j2")
    return str(
        template.render(
            sheet=sheet,
            why=SCORES[sheet.score],
            read=sum(images for _, images, _ in sheet.sources),
            clusters=len({image.cluster for image in sheet.images}),
            layers=series([plain(layer) for layer in sheet.layers]),
            missing=series(sheet.missing),
            files=list(sheet.unreadable.items())[:MAX_FILES],
            command=shlex.join(["repairops", "failures", "log", sheet.target, sheet.folder, "--csv", sheet.table]),
            images=[
                {
                    **image._asdict(),
                    "src": png_uri(image.image, side),
                    "certain": percent(image.confidence, 0),
                    "figure": _figure(image.score),
                }
                for image in shown
            ],
            left=count(sheet.chosen - len(shown)) if sheet.chosen > len(shown) else "",
        )
    )


def _figure(score: float) -> str:
    return fixed(score, 3 if abs(score) < 10 else 1)
