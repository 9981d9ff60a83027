"""Near copies: one photo that stands in two sets, encoded anew or a grey level off.

Images that are merely alike are none, however alike all of their set are: what is near is measured by the set.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from repairops.data.records import ImageSet

THUMBNAIL, SIDE = 8, 16  # pixels a side: what all are compared by, and then each one's nearest
ALIKE = 0.2  # of an image's distance from the third nearest of the other set
MOST = 8.0  # grey levels; about what a strong JPEG changes in a photo of 32 pixels
COMPARED, BYTES = 200_000, 4 * 2**30  # images of the other set, and of their pixels, that are looked at at most
_ROWS, _BYTES_AT_ONCE = 2048, 64 * 2**20  # of images at once
_BROAD, _AT_ONCE = 16, 256  # directions, and thumbnails, whose distances from a block stay in the processor's cache


class Overlap(NamedTuple):
    """Which images of a set, bool (N,), stand in another set: with the same pixels, and as a near copy alone."""

    same: np.ndarray
    near: np.ndarray

    @property
    def either(self) -> np.ndarray:
        found: np.ndarray = self.same | self.near
        return found


class Looked(NamedTuple):
    """Images as they are compared: uint8 pixels (N, C, H, W), which rows of them, int64 (R,), and these rows'
    thumbnails, float32 (R, D).
    """

    pixels: Tensor
    rows: np.ndarray
    small: Tensor


def look(pixels: Tensor, rows: np.ndarray | None = None) -> Looked:
    """At these rows; None: at those that other images are looked for among, see `compared`."""
    rows = compared(pixels) if rows is None else rows
    return Looked(pixels, rows, thumbnails(pixels, rows))


def overlap(images: ImageSet, others: ImageSet) -> Overlap:
    """Of sets that were decoded for one network."""
    known = frozenset(others.sample_ids.tolist())
    same = np.array([sample_id in known for sample_id in images.sample_ids.tolist()], dtype=bool)
    return Overlap(same, near_copies(images.pixels, others.looked) & ~same)


def near_copies(images: Tensor | Looked, others: Tensor | Looked) -> np.ndarray:
    """Which of the images, bool (N,), are nearly one of the others, or just one: uint8 (N, C, H, W) and (M, C, H, W).

    The distance of two images is the root mean square of their difference, in grey levels, after both are reduced to
    `SIDE` pixels by averaging and lose their mean. A copy of the nearest is an image that is at most `MOST` from it,
    in brightness too, less than a fifth of the distance to the third nearest, and of its own contrast. So photos of
    one scene that differ by their noise alone, and pieces of sky, are no copies; nor is one that stands there three
    times.

    Of many others a random part is looked at, see `compared`. Pixels are read once, and nothing is decoded. Who
    compares a set with several, or several with it, looks at it once.
    """
    mine = images if isinstance(images, Looked) else look(images, np.arange(len(images)))
    theirs = others if isinstance(others, Looked) else look(others)
    found = np.zeros(len(mine.rows), bool)
    if not len(found) or len(theirs.rows) < 3:
        return found
    nearest = nearest_within(mine.small, theirs.small, 2 * MOST * math.sqrt(mine.small.shape[1]))
    near = np.flatnonzero(nearest >= 0)
    apart, brighter, contrast = _apart(mine.pixels, near, theirs.pixels, theirs.rows[nearest[near]])
    kept = (apart < np.minimum(MOST, ALIKE * contrast)) & (brighter <= MOST)
    near, apart = near[kept], apart[kept]
    third = theirs.rows[_nearest(mine.small[torch.from_numpy(near)], theirs.small, 3)[:, 2]]
    found[near] = apart < ALIKE * _apart(mine.pixels, near, theirs.pixels, third)[0]
    return found


def compared(others: Tensor) -> np.ndarray:
    """The rows, int64, ascending, of a set that near copies are looked for among: all, or a random part of a large one,
    `COMPARED` images or `BYTES` of pixels.
    """
    most = most_compared(others[:1].numel())
    if len(others) <= most:
        return np.arange(len(others))
    return np.sort(np.random.default_rng(0).choice(len(others), most, replace=False))


def most_compared(size: int) -> int:
    """Images of `size` bytes each that another set's images are looked for among, at most."""
    return max(3, min(COMPARED, BYTES // max(size, 1)))


def thumbnails(pixels: Tensor, rows: np.ndarray) -> Tensor:
    """Grey thumbnails of uint8 pixels (N, C, H, W) without their mean, float32 (R, h * w), in grey levels.

    Of images of 128 pixels a side and more every second, third ... pixel is enough for it.
    """
    if not len(rows):
        return torch.empty(0, THUMBNAIL**2)
    step = _at_once(pixels)
    parts = [_averaged(pixels, rows[start : start + step], THUMBNAIL, grey=True) for start in range(0, len(rows), step)]
    found = torch.cat(parts).flatten(1)
    return found - found.mean(dim=1, keepdim=True)


def _at_once(pixels: Tensor) -> int:
    """Images that are converted at once."""
    return max(1, min(_ROWS, _BYTES_AT_ONCE // max(4 * pixels[:1].numel(), 1)))


def _averaged(pixels: Tensor, rows: np.ndarray, side: int, *, grey: bool = False) -> Tensor:
    """Images at `side` pixels a side at most, float32 (R, C, h, w), C = 1 where grey."""
    step = max(1, min(pixels.shape[2:]) // 64) if grey else 1
    images = pixels[torch.as_tensor(rows)][:, :, ::step, ::step].float()
    images = images.mean(dim=1, keepdim=True) if grey else images
    return F.adaptive_avg_pool2d(images, (min(side, pixels.shape[2]), min(side, pixels.shape[3])))


def nearest_within(mine: Tensor, theirs: Tensor, limit: float) -> np.ndarray:
    """For each row of `mine`, float32 (N, D), its nearest row of `theirs`, int64 (N,); -1 where none is within `limit`.

    Along `_BROAD` directions alone no two are further apart than in all, so those in which `theirs` spread most tell
    which rows a block of `theirs` can have a neighbour of, and only these are compared in full.
    """
    broad = torch.linalg.eigh(theirs.T @ theirs)[1].flip(1)[:, :_BROAD]
    ours, others = mine @ broad, theirs @ broad
    order = others[:, 0].argsort()  # rows of a block lie together, so that they are near to few
    ours, own = torch.cat([ours, torch.ones(len(ours), 1)], 1), ours.square().sum(1)
    others = torch.cat([-2 * others, others.square().sum(1, keepdim=True)], 1)
    least, found = torch.full((len(mine),), torch.inf), torch.full((len(mine),), -1)
    for block in torch.split(order, _ROWS):
        sides, full = others[block].T.contiguous(), theirs[block]
        bounds = [(part @ sides).amin(1) for part in torch.split(ours, _AT_ONCE)]
        near = torch.nonzero(torch.cat(bounds) + own <= 1.001 * limit**2 + 1)[:, 0]  # more than rounding takes
        apart, place = torch.addmm(full.square().sum(1), mine[near], full.T, alpha=-2).min(1)
        nearer = apart < least[near]
        near = near[nearer]
        least[near], found[near] = apart[nearer], block[place[nearer]]
    far = (mine - theirs[found]).square().sum(dim=1).sqrt() > limit
    found[far] = -1
    return found.numpy()


def _nearest(mine: Tensor, theirs: Tensor, count: int) -> np.ndarray:
    """For each row of `mine`, float32 (N, D), the `count` nearest rows of `theirs`, nearest first: int64 (N, count)."""
    squares, found = theirs.square().sum(dim=1), [torch.empty(0, count, dtype=torch.int64)]
    for part in torch.split(mine, _ROWS):
        least, place = torch.empty(len(part), 0), torch.empty(len(part), 0, dtype=torch.int64)
        for start in range(0, len(theirs), _ROWS):
            block = slice(start, start + _ROWS)
            apart = torch.addmm(squares[block], part, theirs[block].T, alpha=-2)
            near = apart.topk(min(count, apart.shape[1]), largest=False) if count > 1 else apart.min(1, keepdim=True)
            least, place = torch.cat([least, near[0]], 1), torch.cat([place, near[1] + start], 1)
        found.append(place.gather(1, least.topk(count, largest=False)[1]))
    return torch.cat(found).numpy()


def _apart(images: Tensor, rows: np.ndarray, others: Tensor, partners: np.ndarray) -> np.ndarray:
    """How far the images' `rows` are from their partners, how much brighter either is, and their own contrast:
    float32 (3, R).
    """
    found, step = [np.empty((3, 0), np.float32)], _at_once(images)
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        own, other = _averaged(images, rows[block], SIDE), _averaged(others, partners[block], SIDE)
        apart, middle = own - other, own.mean(dim=(2, 3), keepdim=True)
        spread = [part.flatten(1).std(dim=1, correction=0) for part in (apart, own - middle)]
        found.append(torch.stack([spread[0], apart.mean(dim=(1, 2, 3)).abs(), spread[1]]).numpy())
    return np.concatenate(found, axis=1)
