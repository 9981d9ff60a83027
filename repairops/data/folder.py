"""A folder of images in the field that nobody has labelled, decoded a part at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from repairops.config import ImagesConfig
from repairops.data.decoding import decode_image
from repairops.data.records import InputSpec
from repairops.data.sources import EXTENSIONS, image_files
from repairops.errors import NoImagesInFolder, UnreadableImage
from repairops.files import read_file

CHUNK = 256  # images that are decoded at once


class Part(NamedTuple):
    """names: of the files below the folder, with '/'. pixels: uint8 (N, C, H, W)."""

    names: list[str]
    pixels: Tensor


def field_files(folder: Path) -> list[Path]:
    """The image files below a folder, at any depth: no hidden ones, none without an image's suffix.

    Raises NoImagesInFolder, UnreadableDataset.
    """
    files = image_files(folder)
    if not files:
        raise NoImagesInFolder(folder, ", ".join(sorted(EXTENSIONS)))
    return files


def read_parts(
    folder: Path, files: Sequence[Path], spec: InputSpec, images: ImagesConfig, unreadable: dict[str, str]
) -> Iterator[Part]:
    """The files in their order, decoded as failures are, at most CHUNK in a part.

    One that cannot be read or decoded is left out and noted: `unreadable` gets its name and why.
    """
    for start in range(0, len(files), CHUNK):
        names, pixels = [], []
        for file in files[start : start + CHUNK]:
            name = file_name(file, folder)
            try:
                pixels.append(_decoded(file, spec, images))
                names.append(name)
            except UnreadableImage as error:
                unreadable[name] = error.detail
        if pixels:
            yield Part(names, torch.from_numpy(np.stack(pixels)))


def file_name(file: Path, folder: Path) -> str:
    """The path below the folder as text that can be printed, also where its bytes are no UTF-8."""
    return file.relative_to(folder).as_posix().encode("utf-8", "backslashreplace").decode()


def source_of(name: str) -> str:
    """The first folder of a file's name, '' where it lies in none."""
    return name.partition("/")[0] if "/" in name else ""


def _decoded(file: Path, spec: InputSpec, limits: ImagesConfig) -> np.ndarray:
    """uint8 (C, H, W). Raises UnreadableImage."""
    try:
        data = read_file(file, limits.max_image_bytes)
    except OSError as error:
        raise UnreadableImage("does_not_decode", f"it cannot be read ({error.strerror})") from error
    return decode_image(data, spec, max_pixels=limits.max_image_pixels, max_bytes=limits.max_image_bytes)
