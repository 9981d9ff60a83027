"""The whitening-colouring transform, batched, on cached style statistics.

Universal Style Transfer (Li et al. 2017, section 3.1) in the '+I' form that the public WCT2 results rest on:

    T(F) = (I + C_s)^(1/2) (I + C_c)^(-1/2) (F - mean_c) + mean_s,  clamped to the range of F before centring

with C = A A' of the centred features A = (F - mean) / sqrt(n - 1), n positions. Two identities make it cheap: with
fewer positions than channels (I + A A')^(-1/2) A = A (I + A' A)^(-1/2), and (I + C_s)^(1/2) = I + K K', where K has
min(C, n) columns and is all that a style needs to keep. No eigenvalue is cut: those of I + C are at least 1.

The roots come from symmetric eigenvalues on a CPU. Newton-Schulz (Higham, Functions of Matrices, 2008, chapter 6) needs
products alone, but 9 to 14 steps of three: on a CPU it is level at 64 channels and half as fast at 128, on a GPU, whose
`eigh` takes one matrix after the other, 20 to 50 times as fast (benchmarks/style_speed.py). There it gives the
root of the content.

Features are taken as rows, (B, n, C), which is how channels_last stores them: no copy. Roots are always found in
float32; the map that results is applied in the features' own precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NEWTON_STEPS, NEWTON_ERROR = 30, 1e-3


@dataclass(frozen=True, eq=False)
class StyleStatistics:
    """Colouring for R references: mean (R, C) and factor K (R, C, r), with (I + C_s)^(1/2) = I + K K'."""

    mean: Tensor
    factor: Tensor

    def pick(self, reference: Tensor, device: torch.device) -> StyleStatistics:
        """The statistics of reference (B,) int64, on `device`."""
        index = reference.to(self.mean.device)
        return StyleStatistics(self.mean[index].to(device), self.factor[index].to(device))

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.mean, self.factor))


def concatenate(parts: list[StyleStatistics]) -> StyleStatistics:
    """Statistics of all references from those of their chunks."""
    return StyleStatistics(torch.cat([p.mean for p in parts]), torch.cat([p.factor for p in parts]))


def safe_eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (B, n), ascending, and eigenvectors (B, n, n) of symmetric float32 matrices, always finite.

    float32 `eigh` can return NaN without an error for matrices with dead rows and a tiny norm, and can fail to
    converge; such matrices are solved again in float64.
    """
    try:
        values, vectors = torch.linalg.eigh(matrices)
    except RuntimeError:  # torch.linalg.LinAlgError is one
        values, vectors = torch.linalg.eigh(matrices.double())
        return values.to(matrices.dtype), vectors.to(matrices.dtype)
    bad = ~(values.isfinite().all(-1) & vectors.isfinite().all(-1).all(-1))
    if bad.any():
        values64, vectors64 = torch.linalg.eigh(matrices[bad].double())
        values[bad], vectors[bad] = values64.to(matrices.dtype), vectors64.to(matrices.dtype)
    return values, vectors


def matrix_power(covariance: Tensor, power: float, floor: float) -> Tensor:
    """(C + floor I)^power of covariances (B, C, C), negative eigenvalues taken as zero."""
    if covariance.shape[-1] == 1:
        return (covariance.clamp_min(0) + floor) ** power
    values, vectors = safe_eigh(covariance)
    return (vectors * (values.clamp_min(0) + floor).pow(power)[..., None, :]) @ vectors.transpose(-1, -2)


def style_statistics(features: Tensor) -> StyleStatistics:
    """What colouring keeps of reference features (R, C, H, W)."""
    mean, centred, _ = _rows(features)
    values, vectors = _gram_eigen(centred)
    if centred.shape[1] < centred.shape[2]:
        scaled = centred.transpose(1, 2) / math.sqrt(max(centred.shape[1] - 1, 1))
        factor = (scaled @ vectors) * (1 + values.sqrt()).rsqrt()[:, None, :]
    else:
        factor = vectors * (values.sqrt() - 1).sqrt()[:, None, :]
    return StyleStatistics(mean[:, 0], factor)


def whiten_colour(features: Tensor, style: StyleStatistics, alpha: float = 1.0) -> Tensor:
    """Content features (B, C, H, W) with the mean and covariance of the style (B references).

    features: float32, or bfloat16 to have the map applied in it. alpha: 0 = content, 1 = full transfer, linear
    between. The result stays in each content's own range, and has its dtype and memory format.
    """
    _, centred, (low, high) = _rows(features)
    gram = _gram(centred)
    root = inverse_root_by_newton_schulz(gram) if gram.is_cuda else inverse_root_by_eigenvalues(gram)
    factor, mean = style.factor, style.mean[:, None, :]
    if root.shape[1] < centred.shape[2]:
        exact = (centred, root, factor, mean)
        centred, root, factor, mean = (t.to(features.dtype) for t in exact)
        whitened = root @ centred
        moved = torch.baddbmm(whitened + mean, whitened @ factor, factor.transpose(1, 2))
    else:  # more positions than channels: the whole map first, (C, C), and the positions through it once
        whole = torch.baddbmm(root, root @ factor, factor.transpose(1, 2))
        centred, whole, mean = (t.to(features.dtype) for t in (centred, whole, mean))
        moved = torch.baddbmm(mean, centred, whole)
    moved = torch.minimum(torch.maximum(moved, low), high)
    coloured: Tensor = moved.transpose(1, 2).reshape(features.shape)  # a view, in channels_last
    return coloured if alpha == 1 else alpha * coloured + (1 - alpha) * features


def _rows(features: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Mean (B, 1, C) and centred features (B, n, C), float32; each image's range, (B, 1, 1), as the features are."""
    rows = features.permute(0, 2, 3, 1).flatten(1, 2)
    mean = rows.mean(1, keepdim=True, dtype=torch.float32)
    limits = (rows.amin(1).amin(1)[:, None, None], rows.amax(1).amax(1)[:, None, None])
    return mean, rows - mean, limits


def _gram(centred: Tensor) -> Tensor:
    """I + AA' or I + A'A, whichever is smaller, of rows (B, n, C)."""
    n, channels = centred.shape[1:]
    first = centred if n < channels else centred.transpose(1, 2)
    identity = torch.eye(min(n, channels), device=centred.device)
    return torch.baddbmm(identity, first, first.transpose(1, 2), alpha=1 / max(n - 1, 1))


def _gram_eigen(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (at least 1) and vectors of `_gram`.

    The shift by I also keeps float32 away from the tiny norms at which `eigh` returns NaN.
    """
    values, vectors = safe_eigh(_gram(centred))
    return values.clamp_min(1), vectors


def inverse_root_by_eigenvalues(matrices: Tensor) -> Tensor:
    """M^(-1/2) of symmetric float32 matrices (B, n, n) with eigenvalues of at least 1."""
    values, vectors = safe_eigh(matrices)
    return (vectors * values.clamp_min(1).rsqrt()[:, None, :]) @ vectors.transpose(1, 2)


def inverse_root_by_newton_schulz(matrices: Tensor) -> Tensor:
    """As `inverse_root_by_eigenvalues`, from products alone.

    The coupled iteration Y -> M^(1/2), Z -> M^(-1/2) of the matrix over its norm; one that has not come to Z M Z = I
    within NEWTON_STEPS is solved by its eigenvalues.
    """
    norm = matrices.flatten(1).norm(dim=1)[:, None, None]
    unit = torch.eye(matrices.shape[-1], device=matrices.device)
    root, inverse = matrices / norm, unit.expand_as(matrices)
    for step in range(NEWTON_STEPS):
        change = torch.baddbmm(1.5 * unit, inverse, root, alpha=-0.5)
        root, inverse = root @ change, change @ inverse
        if step % 3 == 2 and bool((change - unit).abs().max() < 1e-4):  # quadratic: the next step would be exact
            break
    found: Tensor = inverse / norm.sqrt()
    apart = (found @ matrices @ found - unit).abs().flatten(1).amax(1)
    failed = ~(apart < NEWTON_ERROR)  # NaN too
    if failed.any():
        found[failed] = inverse_root_by_eigenvalues(matrices[failed])
    return found
