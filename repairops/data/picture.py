"""Untrusted bytes to one picture, on Pillow and numpy. Stands alone.

Every limit is checked on the header before any pixel is decoded, and only the common raster formats are opened
(Pillow would hand others to external programs). A copy of this file travels with each repaired version, as
`repairops_picture.py`, so that images are read there as they were when it was judged.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageFile

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA")
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# With no handler at all, what Pillow logs of a damaged file would go to stderr, beside our own line about it.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class Unreadable(ValueError):
    """A picture that cannot be used: (reason, detail). The reasons are those of `errors.UnreadableImage`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def decode(data: bytes, *, max_pixels: int, max_bytes: int) -> Image.Image:
    """The picture in an encoded file, in its own size: mode L or RGB, upright. Raises Unreadable."""
    with quiet(data):
        return load_image(open_image(data, max_pixels, max_bytes))


@contextmanager
def quiet(data: bytes) -> Iterator[None]:
    """Keeps what Pillow and libtiff say of damage out of stderr: our own error says it.

    libtiff, which has no other switch, writes to the process's stderr itself: that is shut while a TIFF is read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if data[:2] not in (b"II", b"MM"):
            yield
            return
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def open_image(data: bytes, max_pixels: int, max_bytes: int) -> Image.Image:
    """The image with its header read, single-framed and below the caps, in a mode that can be converted."""
    if len(data) == 0:
        raise Unreadable("does_not_decode", "the file is empty (0 bytes)")
    if len(data) > max_bytes:
        raise Unreadable("too_large", f"the file has {len(data):,} bytes; the limit is {max_bytes:,}")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unreadable("too_large", f"the header announces too many pixels: {error}") from error
    except Exception as error:  # Pillow's readers raise many kinds on hostile headers
        start = data[:8].hex(" ")
        raise Unreadable(
            "does_not_decode", f"{len(data):,} bytes that start with {start} are no image of {', '.join(FORMATS)}"
        ) from error
    width, height = image.size
    if width * height > max_pixels:
        raise Unreadable("too_large", f"{width} x {height} pixels; the limit is {max_pixels:,} pixels")
    if _frames_follow(image):
        raise Unreadable("animated", f"the {image.format} has more than one frame")
    if image.mode not in GREY_MODES + _COLOUR_MODES or _has_16_bits(image):
        found = f"{image.mode}, 16 bits a channel" if image.mode in _COLOUR_MODES + GREY_MODES else image.mode
        raise Unreadable("wrong_mode", f"pixel mode {found}; only 8-bit grey and RGB can be converted")
    return image


def _frames_follow(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False)) and image.format != "MPO"
    except Exception as error:  # reading on to a second frame may find the damage
        raise Unreadable("does_not_decode", f"the {image.format} is damaged: {error}") from error


def _has_16_bits(image: Image.Image) -> bool:
    """Pillow opens 16-bit RGB as RGB and drops the low bits in silence; the raw mode gives it away."""
    tile = getattr(image, "tile", None)
    arguments = tile[0][3] if tile else None
    if image.format == "PPM" and isinstance(arguments, tuple):
        return any(isinstance(a, int) and a > 255 for a in arguments)  # the greatest value of a sample
    raw_mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return isinstance(raw_mode, str) and ";16" in raw_mode


def load_image(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB, upright, all pixels decoded."""
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    if lenient:  # another library's wish; it would fill what is missing with grey
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image.load()
    except Exception as error:  # OSError where truncated; decoders raise others too
        raise Unreadable("does_not_decode", f"the {image.format} is damaged: {error}") from error
    finally:
        if lenient:
            ImageFile.LOAD_TRUNCATED_IMAGES = True
    turn = _UPRIGHT.get(orientation(image))
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = _opaque(image)
    if turn is not None:
        image = image.transpose(turn)
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode in GREY_MODES else "RGB")


def orientation(image: Image.Image) -> int:
    """The orientation from EXIF; upright where that is missing or unreadable, as viewers do."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow raises many kinds on damaged EXIF; the pixels are sound
        return 1


def _opaque(image: Image.Image) -> Image.Image:
    mode = "L" if image.mode in GREY_MODES else "RGB"
    with_alpha = image.convert("RGBA")
    lowest = int(np.asarray(with_alpha.getchannel("A")).min())
    if lowest < 255:
        raise Unreadable("wrong_mode", f"{image.mode} with transparent pixels (lowest alpha {lowest} of 255)")
    return with_alpha.convert("RGB") if mode == "RGB" else with_alpha.getchannel("R")


def resized(image: Image.Image, height: int, width: int, resize: str, max_pixels: int) -> Image.Image:
    """In the network's size. Of center_crop only the part that is kept is scaled.

    Between its two passes Pillow holds as many rows as are scaled, in the new width: of a long, narrow image gigabytes.
    """
    across, down = image.size
    if (across, down) == (width, height):
        return image
    if resize == "exact":
        raise Unreadable("wrong_size", f"{across} x {down} pixels; the model takes {width} x {height} (width x height)")
    box = (0.0, 0.0, float(across), float(down))
    if resize == "center_crop":
        scale = max(width / across, height / down)
        wide, high = max(width, round(across * scale)), max(height, round(down * scale))
        left, top = (wide - width) // 2 * across / wide, (high - height) // 2 * down / high
        box = (left, top, left + width * across / wide, top + height * down / high)
    if width * (box[3] - box[1]) > max(max_pixels, 4 * width * height):
        fact = f"{across} x {down} pixels are too long and narrow to be scaled to {width} x {height}"
        raise Unreadable("too_large", f"{fact}; the limit on the way is {max_pixels:,} pixels")
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def in_channels(image: Image.Image, channels: int) -> np.ndarray:
    """uint8 (C, H, W)."""
    array = np.asarray(image)
    if array.ndim == 2:
        return np.broadcast_to(array, (channels, *array.shape))
    if channels == 3:
        return array.transpose(2, 0, 1)
    grey = array[..., 0]
    if not (np.array_equal(grey, array[..., 1]) and np.array_equal(grey, array[..., 2])):
        raise Unreadable("wrong_mode", "a colour image; the model takes 1 channel (grey)")
    return grey[None]
