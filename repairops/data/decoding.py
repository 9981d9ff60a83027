"""Untrusted bytes to pixels, and pixels to identifiers: one image at a time.

Every limit is checked on the header before any pixel is decoded, and only the common raster formats are opened
(Pillow would hand others to external programs).
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFile

from repairops.data.records import InputSpec
from repairops.errors import UnreadableImage

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_GREY_MODES = ("1", "L", "LA")
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
_ID_BLOCK = 1024  # images that `sample_ids` reads from a memory-mapped file at a time


def decode_image(data: bytes, spec: InputSpec, *, max_pixels: int, max_bytes: int) -> np.ndarray:
    """The picture in an encoded file, as the network takes it: uint8 (C, H, W) of the specification's size.

    Converted without loss: 1-bit, grey, palette, RGB, and an alpha channel that is opaque everywhere. Grey is
    repeated for a network with 3 channels; colour is taken for 1 channel only where R = G = B. The orientation that
    a camera wrote into EXIF is applied, so that a phone's portrait stands upright. Of a stereo JPEG (MPO), which
    phones write for portraits, the first picture is taken.

    max_pixels, max_bytes: caps on the header's width x height and on the file, checked before decoding.

    Raises UnreadableImage with its reason: "does_not_decode" (empty, truncated, no image of `FORMATS`), "too_large"
    (also where scaling it would take more than `max_pixels`), "animated" (more than one frame), "wrong_mode" (16 bits,
    float, CMYK, transparency, colour for 1 channel), "wrong_size" (with `spec.resize` "exact").
    """
    with _quiet(data):
        image = _load(_open(data, max_pixels, max_bytes))
    return np.ascontiguousarray(_channels(_resized(image, spec, max_pixels), spec.channels))


def peek_shape(data: bytes, *, max_pixels: int, max_bytes: int) -> tuple[int, int, int]:
    """(channels, height, width) of an encoded image from its header; a palette counts as colour.

    Raises UnreadableImage as `decode_image` does, except for damage behind the header.
    """
    with _quiet(data):
        image = _open(data, max_pixels, max_bytes)
        turned = _orientation(image) in (5, 6, 7, 8)  # it lies on its side
    width, height = image.size[::-1] if turned else image.size
    return (1 if image.mode in _GREY_MODES else 3), height, width


def encode_png(pixels: Tensor) -> bytes:
    """A PNG of uint8 (C, H, W) pixels, C = 1 or 3, without loss."""
    array = pixels.cpu().numpy()
    image = Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def sample_id(pixels: np.ndarray | Tensor) -> str:
    """sha256 (64 hexadecimal digits) over shape and pixels of one uint8 (C, H, W) image."""
    array = pixels if isinstance(pixels, np.ndarray) else pixels.cpu().numpy()
    digest = hashlib.sha256("x".join(map(str, array.shape)).encode())
    digest.update(np.asarray(array, dtype=np.uint8).tobytes())
    return digest.hexdigest()


def sample_ids(pixels: Tensor) -> np.ndarray:
    """`sample_id` of each image of uint8 (N, C, H, W), as (N,) strings; reads a memory-mapped tensor in blocks."""
    ids = np.empty(len(pixels), dtype="<U64")
    for start in range(0, len(pixels), _ID_BLOCK):
        block = pixels[start : start + _ID_BLOCK].cpu().numpy()
        ids[start : start + len(block)] = [sample_id(image) for image in block]
    return ids


def file_id(data: bytes) -> str:
    """`sample_id` of an encoded file's pixels in the file's own size (grey files 1 channel, all others 3, no
    orientation applied), or the sha256 of its bytes where they do not decode.

    This is what a failure is logged under before anyone knows which network will read it.
    """
    try:
        with _quiet(data):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            array = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    except Exception:  # Pillow raises many kinds for broken files
        return hashlib.sha256(data).hexdigest()
    return sample_id(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


@contextmanager
def _quiet(data: bytes) -> Iterator[None]:
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


def _open(data: bytes, max_pixels: int, max_bytes: int) -> Image.Image:
    """The image with its header read, single-framed and below the caps, in a mode that can be converted."""
    if len(data) == 0:
        raise UnreadableImage("does_not_decode", "the file is empty (0 bytes)")
    if len(data) > max_bytes:
        raise UnreadableImage("too_large", f"the file has {len(data):,} bytes; the limit is {max_bytes:,}")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage("too_large", f"the header announces too many pixels: {error}") from error
    except Exception as error:  # Pillow's readers raise many kinds on hostile headers
        start = data[:8].hex(" ")
        raise UnreadableImage(
            "does_not_decode", f"{len(data):,} bytes that start with {start} are no image of {', '.join(FORMATS)}"
        ) from error
    width, height = image.size
    if width * height > max_pixels:
        raise UnreadableImage("too_large", f"{width} x {height} pixels; the limit is {max_pixels:,} pixels")
    if _frames_follow(image):
        raise UnreadableImage("animated", f"the {image.format} has more than one frame")
    if image.mode not in _GREY_MODES + _COLOUR_MODES or _has_16_bits(image):
        found = f"{image.mode}, 16 bits a channel" if image.mode in _COLOUR_MODES + _GREY_MODES else image.mode
        raise UnreadableImage("wrong_mode", f"pixel mode {found}; only 8-bit grey and RGB can be converted")
    return image


def _frames_follow(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False)) and image.format != "MPO"
    except Exception as error:  # reading on to a second frame may find the damage
        raise UnreadableImage("does_not_decode", f"the {image.format} is damaged: {error}") from error


def _has_16_bits(image: Image.Image) -> bool:
    """Pillow opens 16-bit RGB as RGB and drops the low bits in silence; the raw mode gives it away."""
    tile = getattr(image, "tile", None)
    arguments = tile[0][3] if tile else None
    if image.format == "PPM" and isinstance(arguments, tuple):
        return any(isinstance(a, int) and a > 255 for a in arguments)  # the greatest value of a sample
    raw_mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return isinstance(raw_mode, str) and ";16" in raw_mode


def _load(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB, upright, all pixels decoded."""
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    if lenient:  # another library's wish; it would fill what is missing with grey
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image.load()
    except Exception as error:  # OSError where truncated; decoders raise others too
        raise UnreadableImage("does_not_decode", f"the {image.format} is damaged: {error}") from error
    finally:
        if lenient:
            ImageFile.LOAD_TRUNCATED_IMAGES = True
    turn = _UPRIGHT.get(_orientation(image))
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = _opaque(image)
    if turn is not None:
        image = image.transpose(turn)
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode in _GREY_MODES else "RGB")


def _orientation(image: Image.Image) -> int:
    """The orientation from EXIF; upright where that is missing or unreadable, as viewers do."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow raises many kinds on damaged EXIF; the pixels are sound
        return 1


def _opaque(image: Image.Image) -> Image.Image:
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    with_alpha = image.convert("RGBA")
    lowest = int(np.asarray(with_alpha.getchannel("A")).min())
    if lowest < 255:
        raise UnreadableImage("wrong_mode", f"{image.mode} with transparent pixels (lowest alpha {lowest} of 255)")
    return with_alpha.convert("RGB") if mode == "RGB" else with_alpha.getchannel("R")


def _resized(image: Image.Image, spec: InputSpec, max_pixels: int) -> Image.Image:
    """In the network's size. Of center_crop only the part that is kept is scaled.

    Between its two passes Pillow holds as many rows as are scaled, in the new width: of a long, narrow image gigabytes.
    """
    width, height = image.size
    wanted = spec.width, spec.height
    if (width, height) == wanted:
        return image
    if spec.resize == "exact":
        raise UnreadableImage(
            "wrong_size", f"{width} x {height} pixels; the model takes {spec.width} x {spec.height} (width x height)"
        )
    box = (0.0, 0.0, float(width), float(height))
    if spec.resize == "center_crop":
        scale = max(spec.width / width, spec.height / height)
        wide, high = max(spec.width, round(width * scale)), max(spec.height, round(height * scale))
        left, top = (wide - spec.width) // 2 * width / wide, (high - spec.height) // 2 * height / high
        box = (left, top, left + spec.width * width / wide, top + spec.height * height / high)
    if spec.width * (box[3] - box[1]) > max(max_pixels, 4 * spec.width * spec.height):
        fact = f"{width} x {height} pixels are too long and narrow to be scaled to {spec.width} x {spec.height}"
        raise UnreadableImage("too_large", f"{fact}; the limit on the way is {max_pixels:,} pixels")
    return image.resize(wanted, Image.Resampling.BILINEAR, box=box)


def _channels(image: Image.Image, channels: int) -> np.ndarray:
    array = np.asarray(image)
    if array.ndim == 2:
        return np.broadcast_to(array, (channels, *array.shape))
    if channels == 3:
        return array.transpose(2, 0, 1)
    grey = array[..., 0]
    if not (np.array_equal(grey, array[..., 1]) and np.array_equal(grey, array[..., 2])):
        raise UnreadableImage("wrong_mode", "a colour image; the model takes 1 channel (grey)")
    return grey[None]
