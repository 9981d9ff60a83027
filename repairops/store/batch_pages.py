"""What MLflow's pages show of a failure batch: where it comes from, what it holds, and its images at a glance."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence

from repairops.store.failure_rows import FailureRows

SHEET = "contact_sheet.png"
COLUMNS, MOST = 12, 96  # images of the sheet, evenly spread over the batch
SIDE, GAP, GREY = 72, 2, (160, 160, 160)  # pixels; the colour between
_PIXELS = 64 * 2**20  # of one image that is drawn
_NAMES = 5  # sources and classes that the description names


def summary_tags(rows: FailureRows, model: str, version: str) -> dict[str, str]:
    """Tags of the batch's run: its source, user and commit as MLflow tags runs that it starts itself, the sources that
    the rows name, and a description.
    """
    from mlflow.tracking.context.registry import resolve_tags

    sources = _listed(rows.source)
    of = f"version {version} of {model}" if version else model
    lines = [f"{said(rows)} of {of}" + (f", from `{sources}`" if sources else "") + "."]
    lines += [f"By true class: `{_listed(rows.label)}`."]
    lines += [f"`{SHEET}` among the artifacts shows {'them' if len(rows) <= MOST else f'{MOST} of them'}."]
    found = {"mlflow.note.content": "\n\n".join(lines)} | ({"repairops.sources": sources} if sources else {})
    return {str(key): str(value) for key, value in resolve_tags().items()} | found


def said(rows: FailureRows) -> str:
    """'30 failures', '1,000 images of its traffic, right and wrong alike', or both."""
    marked = sum(rows.field)
    parts = [(len(rows) - marked, "failures"), (marked, "images of the traffic, right and wrong alike,")]
    return " and ".join(f"{count:,} {what}" for count, what in parts if count)


def contact_sheet(images: Sequence[bytes]) -> bytes:
    """A PNG of some of the encoded images, in their order; b'' where none decodes. Small ones are not smoothed."""
    from PIL import Image

    from repairops.data.decoding import open_any

    chosen = [images[number * len(images) // MOST] for number in range(MOST)] if len(images) > MOST else images
    found = [image for image in (open_any(data, _PIXELS) for data in chosen) if image is not None]
    if not found:
        return b""
    width = min(COLUMNS, len(found)) * (SIDE + GAP) + GAP
    sheet = Image.new("RGB", (width, -(-len(found) // COLUMNS) * (SIDE + GAP) + GAP), GREY)
    for number, image in enumerate(found):
        row, column = divmod(number, COLUMNS)
        scale = SIDE / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        small = image.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BILINEAR)
        sheet.paste(small, (GAP + column * (SIDE + GAP), GAP + row * (SIDE + GAP)))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _listed(values: Sequence[str]) -> str:
    """'camera 7 (12), camera 8 (3) and 2 more', most first; '' where all are unknown."""
    counts = Counter(" ".join(value.replace("`", "'").split()) for value in values if value).most_common()
    more = f" and {len(counts) - _NAMES} more" if len(counts) > _NAMES else ""
    return ", ".join(f"{name[:60]} ({count:,})" for name, count in counts[:_NAMES]) + more
