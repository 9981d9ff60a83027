"""The WCT2 style: photorealistic transfer by wavelet-corrected whitening and colouring (Yoo et al. 2019).

Differs from the public implementation in speed alone: batched, and a reference's statistics are computed once. Weights
come from one safetensors file, or the two public checkpoints, in a folder or from URLs.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from repairops.config import StyleConfig
from repairops.core.styles.haar import pad_to_multiple
from repairops.core.styles.wct2_network import DECODER, SITES, Site, Statistics, Wct2Network, concatenate_sites
from repairops.data.sets import whole_file
from repairops.errors import (
    InvalidOption,
    StyleNotFittable,
    StyleWeightsDamaged,
    StyleWeightsMissing,
    StyleWeightsUnchecked,
    listing,
)

CACHE_BYTES = 2**30  # statistics above this are not kept but computed again for each batch
PIXELS_AT_ONCE = 2**16  # references are encoded in chunks of about so many pixels
PIXELS_IN_CACHE = 2**15  # content is styled in chunks of so many on a CPU: features of 8 MiB stay in its last cache
PARTS = ("encoder", "decoder")
_FIXED = re.compile(r"(pool|recon_block)\d\.")  # the public checkpoints also hold the Haar filters; these are ours


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


def load_weights(path: str, sha256: str = "") -> Wct2Network:
    """The network with weights from `path`.

    path: a safetensors file with keys 'encoder.*' and 'decoder.*' (see `save_weights`); or a folder that holds
    wave_encoder_cat5_l4 and wave_decoder_cat5_l4 (or the pair of 'sum'), each .pth or .safetensors; or one of these
    two files; or the URL of the one file, or of both as 'ENCODER,DECODER', which is fetched once.
    sha256: checked when given, the file's digest; for two files 'ENCODER,DECODER'; a URL needs it. A .pth is read
    with weights_only=True, never unpickled. Raises StyleWeightsMissing, StyleWeightsUnchecked, StyleWeightsDamaged.
    """
    wanted = [digest.strip().lower() for digest in sha256.split(",") if digest.strip()]
    files = fetch_weights(path, wanted) if "://" in path else find_weights(Path(path).expanduser())
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    if wanted and wanted != digests:
        raise StyleWeightsDamaged(path, f"sha256 is {','.join(digests)} instead of {','.join(wanted)}")
    tensors = _read(files[0], path) if len(files) == 1 else _join(files, path)
    tensors = {key: value.float() for key, value in tensors.items()}
    broken = [key for key, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise StyleWeightsDamaged(path, f"{broken[0]} has values that are not finite")
    width = tensors.get("decoder.conv1_2_2.weight", torch.empty(0)).shape[1:2]
    network = Wct2Network("sum" if width == (DECODER["conv1_2_2"][0],) else "cat5")
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise StyleWeightsDamaged(path, " ".join(str(error).split())[:300]) from error
    return network.eval().requires_grad_(False)


def save_weights(network: Wct2Network, path: str | Path) -> None:
    """Writes one safetensors file that `load_weights` reads."""
    from safetensors.torch import save_file

    save_file({key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}, path)


def find_weights(path: Path) -> list[Path]:
    """One file with both parts, or the encoder's and the decoder's file."""
    if path.is_file() and not re.match(r"wave_(encoder|decoder)", path.name):
        return [path]
    folder = path if path.is_dir() else path.parent
    kinds = ("sum",) if "_sum_" in path.name else ("cat5", "sum")
    for kind in kinds:
        pair = [file for part in PARTS if (file := _first_of(folder, f"wave_{part}_{kind}_l4"))]
        if len(pair) == len(PARTS):
            return pair
    single = sorted(folder.glob("*.safetensors")) if path.is_dir() else []
    if len(single) != 1:
        raise StyleWeightsMissing(str(path))
    return single


def fetch_weights(urls: str, digests: list[str]) -> list[Path]:
    """The files behind one URL, or two by comma, kept by their digests below REPAIROPS_HOME or the user's cache."""
    addresses = [url.strip() for url in urls.split(",")]
    if len(digests) != len(addresses):
        raise StyleWeightsUnchecked(urls)
    home = os.environ.get("REPAIROPS_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = (Path(home).expanduser() if home else cache / "repairops") / "weights"
    files = []
    for url, digest in zip(addresses, digests, strict=True):
        file = folder / f"{digest}{'.safetensors' if url.endswith('.safetensors') else '.pth'}"
        if not file.is_file():
            content = _download(url)
            found = hashlib.sha256(content).hexdigest()
            if found != digest:
                raise StyleWeightsDamaged(url, f"sha256 is {found} instead of {digest}")
            with whole_file(file) as part:
                part.write_bytes(content)
        files.append(file)
    return files


def _download(url: str) -> bytes:
    from urllib.error import URLError
    from urllib.request import urlopen

    if not url.startswith(("https://", "http://", "file://")):
        raise StyleWeightsDamaged(url, "the address is neither https, http nor file")
    try:
        with urlopen(url, timeout=60) as answer:  # noqa: S310  (the scheme is checked, and so is the content's digest)
            content: bytes = answer.read()
    except (URLError, OSError) as error:
        raise StyleWeightsDamaged(url, f"they cannot be fetched ({error})") from error
    return content


def _first_of(folder: Path, name: str) -> Path | None:
    return next((f for suffix in (".safetensors", ".pth") if (f := folder / f"{name}{suffix}").is_file()), None)


def _join(files: list[Path], path: str) -> dict[str, Tensor]:
    joined: dict[str, Tensor] = {}
    for part, file in zip(PARTS, files, strict=True):
        joined |= {f"{part}.{key}": value for key, value in _read(file, path).items() if not _FIXED.match(key)}
    return joined


def _read(file: Path, path: str) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded = load_file(file)
        else:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise many kinds; all mean that the file is no checkpoint
        raise StyleWeightsDamaged(path, f"{file.name} cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise StyleWeightsDamaged(path, f"{file.name} holds no dictionary of tensors")
    return loaded
