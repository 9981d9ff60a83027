"""Untrusted bytes to pixels as a network takes them, and pixels to identifiers: one image at a time.

What is read of a file, and within which limits, says `picture.py`.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from repairops.data.picture import (
    FORMATS,
    GREY_MODES,
    Unreadable,
    decode,
    in_channels,
    open_image,
    orientation,
    quiet,
    resized,
)
from repairops.data.records import InputSpec
from repairops.errors import UnreadableImage

if TYPE_CHECKING:
    from torch import Tensor

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
    with _named():
        image = decode(data, max_pixels=max_pixels, max_bytes=max_bytes)
        scaled = resized(image, spec.height, spec.width, spec.resize, max_pixels)
        return np.ascontiguousarray(in_channels(scaled, spec.channels))


def open_any(data: bytes, max_pixels: int) -> Image.Image | None:
    """The picture in an encoded file in mode L or RGB, upright, in its own size, for the eye; None where it does not
    decode or has more than `max_pixels`.
    """
    try:
        return decode(data, max_pixels=max_pixels, max_bytes=len(data))
    except Unreadable:
        return None


def peek_shape(data: bytes, *, max_pixels: int, max_bytes: int) -> tuple[int, int, int]:
    """(channels, height, width) of an encoded image from its header; a palette counts as colour.

    Raises UnreadableImage as `decode_image` does, except for damage behind the header.
    """
    with _named(), quiet(data):
        image = open_image(data, max_pixels, max_bytes)
        turned = orientation(image) in (5, 6, 7, 8)  # it lies on its side
    width, height = image.size[::-1] if turned else image.size
    return (1 if image.mode in GREY_MODES else 3), height, width


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
        with quiet(data):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            array = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    except Exception:  # Pillow raises many kinds for broken files
        return hashlib.sha256(data).hexdigest()
    return sample_id(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


@contextmanager
def _named() -> Iterator[None]:
    """Raises UnreadableImage for what `picture` cannot use."""
    try:
        yield
    except Unreadable as error:
        raise UnreadableImage(error.reason, error.detail) from error
