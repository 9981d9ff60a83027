"""Pictures of the review page: images as small PNGs inside the page, within a fixed number of bytes."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, NamedTuple

import numpy as np

from repairops.outcome.given import Suspect

MAX_SAMPLES = 20  # clusters' samples shown
SAMPLES_A_CLUSTER = 2
MAX_FLIPS = 24
MAX_ROUTED = 12  # clean images that the guard sends away, and failures that it misses, each
MAX_FAILURES = 24  # held-out failures that are right now, and that are still wrong, each
MAX_SUSPECTS = 24  # failures whose label looks wrong
MAX_SIDE = 112  # pixels; larger images are scaled down for the page
PICTURE_BYTES = 1_500_000  # of pixels, all small pictures together: 2.0 MB in base64 where nothing compresses
GRID_BYTES = 480_000  # of the cluster grid's PNG: 0.64 MB in base64


@dataclass(frozen=True, eq=False)
class SamplePair:
    """What guided the repair in one cluster. Images are uint8 (C, H, W) with 1 or 3 channels.

    failure: a failure of the cluster; reference: the failure that a style was taken from; styled: a train image
    in that style; content: the same train image before, where known.
    """

    cluster: int
    failure: Any
    reference: Any
    styled: Any
    content: Any = None
    label: str = ""  # true class of the failure
    predicted: str = ""  # the champion's wrong answer

    @property
    def images(self) -> list[tuple[str, Any]]:
        """(role, image) of those that exist, in reading order."""
        roles = ("failure", "reference", "content", "styled")
        return [(role, getattr(self, role)) for role in roles if getattr(self, role) is not None]


class NegativeFlip(NamedTuple):
    """A clean image, uint8 (C, H, W), that the champion had right and the challenger has wrong."""

    image: Any
    label: str
    champion: str
    challenger: str


class JudgedFailure(NamedTuple):
    """A held-out failure, uint8 (C, H, W): true class, nearest cluster, both answers with confidences in 0..1."""

    image: Any
    label: str
    cluster: int
    champion: str
    champion_confidence: float
    challenger: str
    challenger_confidence: float


class SuspectImage(NamedTuple):
    """A failure, uint8 (C, H, W), whose logged label looks wrong; champion: the champion's answer."""

    image: Any
    suspect: Suspect
    champion: str


class GuardedImage(NamedTuple):
    """An image, uint8 (C, H, W), with its true class, the guarded version's answer, and the guard's probability."""

    image: Any
    label: str
    answer: str
    probability: float


@dataclass(frozen=True, eq=False)
class Pictures:
    """The page's pictures; all may be missing. `cluster_grid` is a finished PNG.

    routed_clean: clean images that the guard sends to the repaired network. missed_failures: held-out failures that it
    leaves to the champion. repaired_failures, remaining_failures: held-out ones that are right now, and still wrong.
    suspects: failures whose label looks wrong.
    """

    cluster_grid: bytes | None = None
    samples: Sequence[SamplePair] = ()
    negative_flips: Sequence[NegativeFlip] = ()
    routed_clean: Sequence[GuardedImage] = ()
    missed_failures: Sequence[GuardedImage] = ()
    repaired_failures: Sequence[JudgedFailure] = ()
    remaining_failures: Sequence[JudgedFailure] = ()
    suspects: Sequence[SuspectImage] = ()

    def shown_samples(self) -> list[SamplePair]:
        """At most SAMPLES_A_CLUSTER of each cluster and MAX_SAMPLES in all, in the order given."""
        taken: Counter[int] = Counter()
        shown = []
        for sample in self.samples:
            taken[sample.cluster] += 1
            if taken[sample.cluster] <= SAMPLES_A_CLUSTER:
                shown.append(sample)
        return shown[:MAX_SAMPLES]

    def shown_flips(self) -> Sequence[NegativeFlip]:
        return self.negative_flips[:MAX_FLIPS]

    def shown_guarded(self) -> tuple[Sequence[GuardedImage], Sequence[GuardedImage]]:
        """Clean images that are routed, failures that are missed."""
        return self.routed_clean[:MAX_ROUTED], self.missed_failures[:MAX_ROUTED]

    def shown_failures(self) -> tuple[Sequence[JudgedFailure], Sequence[JudgedFailure]]:
        """Those that are right now, those that are still wrong."""
        return self.repaired_failures[:MAX_FAILURES], self.remaining_failures[:MAX_FAILURES]

    def shown_suspects(self) -> Sequence[SuspectImage]:
        return self.suspects[:MAX_SUSPECTS]

    @property
    def side(self) -> int:
        """Longest side in pixels so that all shown pictures fit in PICTURE_BYTES, even uncompressed."""
        shown = sum(len(sample.images) for sample in self.shown_samples()) + len(self.shown_flips())
        shown += sum(map(len, (*self.shown_guarded(), *self.shown_failures(), self.shown_suspects())))
        return min(MAX_SIDE, isqrt(PICTURE_BYTES // (3 * shown))) if shown else MAX_SIDE


def png_uri(image: Any, side: int = MAX_SIDE) -> str:
    """A uint8 (C, H, W) or (H, W) image as a data: URI of a PNG, scaled down to `side` where it is larger.

    Raises ValueError for another shape or dtype.
    """
    from PIL import Image

    array = np.asarray(image)
    array = array[0] if array.ndim == 3 and array.shape[0] == 1 else array
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[0] == 3)):
        raise ValueError(f"A picture is {array.dtype} {array.shape}; it must be uint8 (C, H, W) with C of 1 or 3.")
    picture = Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0) if array.ndim == 3 else array))
    if max(picture.size) > side:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return data_uri(_encoded(picture))


def fitted_png(png: bytes, limit: int = GRID_BYTES) -> bytes:
    """The PNG itself, or a smaller copy that has at most `limit` bytes."""
    from PIL import Image

    fitted = png
    with Image.open(io.BytesIO(png)) as opened:
        picture = opened.convert("RGB")
    scale = 1.0
    while len(fitted) > limit:
        scale *= min(0.9, (limit / len(fitted)) ** 0.5)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        fitted = _encoded(picture.resize(size, Image.Resampling.LANCZOS))
    return fitted


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height from a PNG's header."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _encoded(picture: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
