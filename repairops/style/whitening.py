"""The whitening-colouring transform, batched, on cached style statistics.

Universal Style Transfer (Li et al. 2017, section 3.1) in the '+I' form that the public WCT2 results rest on:

    T(F) = (I + C_s)^(1/2) (I + C_c)^(-1/2) (F - mean_c) + mean_s,  clamped to the range of F before centring

with C = A A' of the centred features A = (F - mean) / sqrt(n - 1), n positions. Two identities make it cheap: with
fewer positions than channels (I + A A')^(-1/2) A = A (I + A' A)^(-1/2), and (I + C_s)^(1/2) = I + K K', where K has
min(C, n) columns and is all that a style needs to keep. No eigenvalue is cut: those of I + C are at least 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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
    """What colouring keeps of reference features float32 (R, C, H, W)."""
    mean, scaled = _centre(features)
    values, vectors = _gram_eigen(scaled)
    if scaled.shape[2] < scaled.shape[1]:
        factor = (scaled @ vectors) * (1 + (1 + values).sqrt()).rsqrt()[:, None, :]
    else:
        factor = vectors * ((1 + values).sqrt() - 1).clamp_min(0).sqrt()[:, None, :]
    return StyleStatistics(mean, factor)


def whiten_colour(features: Tensor, style: StyleStatistics, alpha: float = 1.0) -> Tensor:
    """Content features float32 (B, C, H, W) with the mean and covariance of the style (B references).

    alpha: 0 = content, 1 = full transfer, linear between. The result stays in each content's own range.
    """
    _, scaled = _centre(features)
    values, vectors = _gram_eigen(scaled)
    shrink = (1 + values).rsqrt()[:, None, :]
    factor = style.factor
    if scaled.shape[2] < scaled.shape[1]:
        whitened = ((scaled @ vectors) * shrink) @ vectors.transpose(1, 2)
        moved = whitened + factor @ (factor.transpose(1, 2) @ whitened)
    else:  # more positions than channels: the whole map first, (C, C), and the positions through it once
        whitening = (vectors * shrink) @ vectors.transpose(1, 2)
        moved = (whitening + factor @ (factor.transpose(1, 2) @ whitening)) @ scaled
    coloured = moved * _root_count(features) + style.mean[:, :, None]
    low, high = (limit(features.flatten(1), 1)[:, None, None] for limit in (torch.amin, torch.amax))
    coloured = torch.minimum(torch.maximum(coloured, low), high).view_as(features)
    return coloured if alpha == 1 else alpha * coloured + (1 - alpha) * features


def _root_count(features: Tensor) -> float:
    return math.sqrt(max(features.shape[2] * features.shape[3] - 1, 1))


def _centre(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B, C), and A = (F - mean) / sqrt(n - 1) as (B, C, n)."""
    flat = features.flatten(2)
    mean = flat.mean(2)
    return mean, (flat - mean[:, :, None]) / _root_count(features)


def _gram_eigen(scaled: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (at least 0) and vectors of A'A or AA', whichever is smaller.

    Solved as G + I: the shift keeps float32 away from the tiny norms at which `eigh` returns NaN.
    """
    transposed = scaled.transpose(1, 2)
    gram = transposed @ scaled if scaled.shape[2] < scaled.shape[1] else scaled @ transposed
    values, vectors = safe_eigh(gram + torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device))
    return (values - 1).clamp_min(0), vectors
