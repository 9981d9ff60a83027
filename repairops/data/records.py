"""Frozen values that pass between the stages.

numpy and the standard library only: the gate reads these without torch. Tensors appear in annotations alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from repairops.errors import InvalidInputSpec

if TYPE_CHECKING:
    import torch

    from repairops.data.copies import Looked

LARGEST_SIDE = 2**16  # pixels
Resize = Literal["exact", "stretch", "center_crop"]


@dataclass(frozen=True)
class InputSpec:
    """What a network expects of its input.

    A pixel p in 0..255 becomes ((low + p / 255 * (high - low)) - mean) / std, per channel, with
    (low, high) = `value_range`. A network that normalises inside has mean 0 and std 1.

    `resize` says what happens to an image of another size: "exact" refuses it, "stretch" resizes both
    sides (antialiased), "center_crop" resizes the short side and cuts the middle.
    """

    channels: int
    height: int
    width: int
    class_names: tuple[str, ...]
    value_range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    resize: Resize = "exact"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise InvalidInputSpec("channels", self.channels, "1 or 3")
        for name in ("height", "width"):
            if not 1 <= getattr(self, name) <= LARGEST_SIDE:
                raise InvalidInputSpec(name, getattr(self, name), f"from 1 to {LARGEST_SIDE:,} pixels")
        if len(self.class_names) < 2 or len(set(self.class_names)) != len(self.class_names):
            raise InvalidInputSpec("class_names", list(self.class_names), "two or more different names")
        if len(self.value_range) != 2:
            raise InvalidInputSpec("value_range", self.value_range, "two numbers")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise InvalidInputSpec(name, getattr(self, name), f"one number or {self.channels}")
        for name in ("mean", "std", "value_range"):
            if not all(math.isfinite(value) for value in getattr(self, name)):
                raise InvalidInputSpec(name, getattr(self, name), "finite numbers")
        if min(self.std) <= 0:
            raise InvalidInputSpec("std", self.std, "positive")
        if self.value_range[0] >= self.value_range[1]:
            raise InvalidInputSpec("value_range", self.value_range, "(low, high) with low < high")
        if self.resize not in ("exact", "stretch", "center_crop"):
            raise InvalidInputSpec("resize", self.resize, "exact, stretch or center_crop")

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` gives the same specification back."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputSpec:
        known = {f.name for f in fields(cls)}
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
        return cls(**plain)


class Drawn(NamedTuple):
    """Which images of a large data set are read: `rows` int64 (N,), ascending, of `total`; the others never are."""

    rows: np.ndarray
    total: int

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Where rows of the data set, int64 (M,) and all drawn, stand among the images that were read."""
        found = np.searchsorted(self.rows, rows)
        assert np.array_equal(self.rows[found], rows)
        return found


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of one size.

    pixels: uint8 tensor (N, C, H, W); for sets larger than the memory limit it lies in a memory-mapped file,
        so index it (`pixels[indices]` copies just those rows) and never convert it whole.
    labels: int64 (N,), indices into `class_names`.
    sample_ids: (N,) strings, sha256 of each image's pixels (see `images.sample_id`).
    source: where the images came from, for messages and lineage.
    drawn: of which larger set these images were drawn; None: they are all there are.
    """

    pixels: torch.Tensor
    labels: np.ndarray
    class_names: tuple[str, ...]
    sample_ids: np.ndarray
    source: str = ""
    drawn: Drawn | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def total(self) -> int:
        """Images of the data set, read or not."""
        return self.drawn.total if self.drawn else len(self)

    def subset(self, indices: np.ndarray) -> ImageSet:
        """The images at `indices` (int64), copied into memory, in that order."""
        import torch

        index = torch.as_tensor(np.asarray(indices, dtype=np.int64))
        return ImageSet(
            self.pixels[index], self.labels[indices], self.class_names, self.sample_ids[indices], self.source
        )

    def joined(self, *others: ImageSet) -> ImageSet:
        """These images and then the others', copied into memory; all of one size and of the same classes."""
        import torch

        sets = (self, *others)
        labels, ids = (np.concatenate([getattr(each, name) for each in sets]) for name in ("labels", "sample_ids"))
        return ImageSet(torch.cat([each.pixels for each in sets]), labels, self.class_names, ids, self.source)

    @cached_property
    def looked(self) -> Looked:
        """The images as others are looked for among them, once for all that are; see `copies.look`."""
        from repairops.data.copies import look

        return look(self.pixels)

    @cached_property
    def digest(self) -> str:
        """sha256 over sample ids, labels and class names, in order."""
        digest = hashlib.sha256("\0".join(self.class_names).encode())
        digest.update("".join(self.sample_ids.tolist()).encode())
        digest.update(np.ascontiguousarray(self.labels, dtype=np.int64).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class FailureBatch:
    """Validated failures: images with their true labels that the pinned champion gets wrong.

    predicted: int64 (N,), the champion's wrong answer, confirmed again at validation.
    confidence: float32 (N,), its softmax probability of that answer.
    groups: (N,) strings; images of one group never stand on both sides of a split. '' = no group known.
    sources: (N,) strings, for example the camera. '' = unknown.
    digests: the digests of the logged batches that the rows come from.
    """

    images: ImageSet
    predicted: np.ndarray
    confidence: np.ndarray
    groups: np.ndarray
    sources: np.ndarray
    digests: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: np.ndarray) -> FailureBatch:
        return FailureBatch(
            self.images.subset(indices),
            self.predicted[indices],
            self.confidence[indices],
            self.groups[indices],
            self.sources[indices],
            self.digests,
        )

    def joined(self, other: FailureBatch) -> FailureBatch:
        """These failures and then the other's."""

        def both(name: str) -> np.ndarray:
            return np.concatenate((getattr(self, name), getattr(other, name)))

        columns = both("predicted"), both("confidence"), both("groups"), both("sources")
        return FailureBatch(self.images.joined(other.images), *columns, (*self.digests, *other.digests))


@dataclass(frozen=True, eq=False)
class CleanSet:
    """The clean holdout. A class of its own, so that nothing that trains or selects accepts it by accident.

    rows: int64 (N,), each image's row in the data set that they come from; None = all of them, in its order.
    """

    images: ImageSet
    rows: np.ndarray | None = None


@dataclass(frozen=True)
class HeldOutFailures:
    """The failures that only judge. A class of its own for the same reason as `CleanSet`."""

    batch: FailureBatch


@dataclass(frozen=True, eq=False)
class FieldRows:
    """A labelled sample of the field's traffic, of which the champion has `images` right: these only judge, too.

    groups: (N,) strings, as in `FailureBatch`. failures: sample ids of those that it has wrong; they are failures like
    all, in the failure batch.
    """

    images: ImageSet
    groups: np.ndarray
    failures: frozenset[str]

    def subset(self, indices: np.ndarray) -> FieldRows:
        return FieldRows(self.images.subset(indices), self.groups[indices], self.failures)


@dataclass(frozen=True)
class FailureSplit:
    """The parts of a failure batch. `repair` guides the repair, `validation` selects, `heldout` only judges."""

    repair: FailureBatch
    validation: FailureBatch
    heldout: HeldOutFailures


@dataclass(frozen=True, eq=False)
class Clusters:
    """Clusters over the repair failures.

    assignments: int64 (R,), cluster of each failure, 0..count-1.
    distances: float32 (R,), L2 distance to the own cluster's centre.
    probabilities: float64 (R,), chance of each failure to be drawn as its cluster's reference (Eq. 4 of the
        paper, normalised); sums to 1 within each cluster.
    space: maps uint8 images (N, C, H, W) to the features float32 (N, D) that were clustered; None for pixels.
    """

    assignments: np.ndarray
    distances: np.ndarray
    probabilities: np.ndarray
    space: Callable[[torch.Tensor], np.ndarray] | None = None

    @property
    def by_look(self) -> bool:
        return self.space is not None

    @property
    def count(self) -> int:
        return int(self.assignments.max()) + 1 if len(self.assignments) else 0

    def members(self, cluster: int) -> np.ndarray:
        """Indices of a cluster's failures, nearest to the centre first."""
        index = np.flatnonzero(self.assignments == cluster)
        return index[np.argsort(self.distances[index], kind="stable")]


class GuardAnswers(NamedTuple):
    """The guard's probability that images have the failures' look, and the repaired network's part of the answer:
    float32 (N,) in 0..1 each, both 0 without a guard.
    """

    probability: np.ndarray
    weight: np.ndarray

    @property
    def routed(self) -> np.ndarray:
        """Which images the repaired network answers, in whole or in part: bool (N,)."""
        return self.weight > 0


@dataclass(frozen=True, eq=False)
class Predictions:
    """One network's answers on one image set: label int64 (N,), confidence float32 (N,), right bool (N,)."""

    labels: np.ndarray
    confidence: np.ndarray
    right: np.ndarray

    @property
    def accuracy(self) -> float:
        return float(self.right.mean()) if len(self.right) else float("nan")
