"""The WCT2 style: photorealistic transfer by wavelet-corrected whitening and colouring (Yoo et al. 2019).

Differs from the public implementation in speed alone: batched, and a reference's statistics are computed once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from repairops.config import StyleConfig
from repairops.core.styles.haar import pad_to_multiple
from repairops.core.styles.wct2_network import SITES, Site, Statistics, Wct2Network, concatenate_sites
from repairops.core.styles.wct2_weights import load_weights
from repairops.errors import InvalidOption, StyleNotFittable, StyleWeightsMissing, listing

CACHE_BYTES = 2**30  # statistics above this are not kept but computed again for each batch
PIXELS_AT_ONCE = 2**16  # references are encoded in chunks of about so many pixels
PIXELS_IN_CACHE = 2**15  # content is styled in chunks of so many on a CPU: features of 8 MiB stay in its last cache


@dataclass(frozen=True, eq=False)
class Wct2:
    """References as 3-channel images float32 (R, 3, H, W), and their statistics where these fit the cache."""

    network: Wct2Network  # frozen
    references: Tensor
    statistics: Statistics | None
    levels: int
    alpha: float
    sites: tuple[Site, ...] = SITES

    def apply(self, content: Tensor, reference: Tensor, generator: Generator) -> Tensor:
        """See `Style`; draws nothing. One channel is expanded to three and averaged back."""
        if self.alpha == 0:
            return content.clone()
        device = content.device
        network = self.network.to(device)
        count = self.images_at_once(content)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            parts = [
                network.transfer(
                    prepare(some, self.levels), self._statistics(chosen, device), self.levels, self.sites, self.alpha
                )
                for some, chosen in zip(torch.split(content, count), torch.split(reference, count), strict=True)
            ]
            styled = torch.cat(parts)[..., : content.shape[2], : content.shape[3]]
            if content.shape[1] == 1:
                styled = styled.mean(1, keepdim=True)
            return styled.nan_to_num(0.5, 1, 0).clamp_(0, 1).contiguous()

    def images_at_once(self, content: Tensor) -> int:
        """Images of (B, C, H, W) that are styled at once: all on a GPU, on a CPU as many as its cache holds."""
        if content.device.type != "cpu" or len(content) == 0:
            return max(1, len(content))
        return max(1, PIXELS_IN_CACHE // prepare(content[:1], self.levels)[0, 0].numel())

    def _statistics(self, reference: Tensor, device: torch.device) -> Statistics:
        """Of the chosen references (B,), on `device`."""
        if self.statistics is None:
            chosen = self.references[reference.to(self.references.device)].to(device)
            return self.network.statistics(chosen, self.levels, self.sites)
        return {site: s.pick(reference, device) for site, s in self.statistics.items()}


def check_wct2(config: StyleConfig) -> None:
    """Raises StyleWeightsMissing where no weights are named, InvalidOption for sites that are none."""
    if not config.weights:
        raise StyleWeightsMissing()
    if not config.sites or len(set(config.sites) & set(SITES)) != len(config.sites):
        raise InvalidOption("style.sites", config.sites, f"one or more of {listing(SITES)}")


def fit_wct2(references: Tensor, clean: Tensor, config: StyleConfig, generator: Generator) -> Wct2:
    """WCT2 with the weights at `config.weights`; raises what `check_wct2` and `load_weights` raise."""
    check_wct2(config)
    if references.shape[1] not in (1, 3):
        raise StyleNotFittable("references", f"they have {references.shape[1]} channels", "wct2 takes 1 or 3")
    known = [site for site in SITES if site in config.sites]
    network = load_weights(config.weights, config.weights_sha256)
    network.quick = config.bfloat16
    return build_wct2(network, references, config.levels, config.alpha, tuple(known))


def build_wct2(
    network: Wct2Network,
    references: Tensor,
    levels: int = 4,
    alpha: float = 1.0,
    sites: tuple[Site, ...] = SITES,
    cache_bytes: int = CACHE_BYTES,
) -> Wct2:
    """WCT2 on references float32 (R, C, H, W) in 0..1, C 1 or 3, with the transfer at `sites`."""
    prepared = prepare(references, levels)
    network = network.to(references.device).frozen()
    chunks = torch.split(prepared, max(1, PIXELS_AT_ONCE // prepared[0, 0].numel()))
    with torch.no_grad():
        parts = [network.statistics(chunks[0], levels, sites)]
        each = sum(s.bytes for s in parts[0].values()) / len(chunks[0])
        cached = each * len(prepared) <= cache_bytes
        if cached:
            parts += [network.statistics(chunk, levels, sites) for chunk in chunks[1:]]
    return Wct2(network, prepared, concatenate_sites(parts) if cached else None, levels, alpha, sites)


def prepare(images: Tensor, levels: int) -> Tensor:
    """(B, C, H, W) as 3-channel images whose sides the levels divide, with 2 positions left at the deepest."""
    unit = 2 ** (levels - 1)
    padded = pad_to_multiple(images.expand(-1, 3, -1, -1), unit, minimum=2 * unit)
    return padded.contiguous(memory_format=torch.channels_last)
