"""Weights of the WCT2 network: one safetensors file, or the two public checkpoints, in a folder or from URLs."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import torch
from torch import Tensor

from repairops.core.styles.wct2_network import DECODER, Wct2Network
from repairops.errors import StyleWeightsDamaged, StyleWeightsMissing, StyleWeightsUnchecked

PARTS = ("encoder", "decoder")
_FIXED = re.compile(r"(pool|recon_block)\d\.")  # the public checkpoints also hold the Haar filters; these are ours


def load_weights(path: str, sha256: str = "") -> Wct2Network:
    """The network with weights from `path`.

    path: a safetensors file with keys 'encoder.*' and 'decoder.*' (see `save_weights`); or a folder that holds
    wave_encoder_cat5_l4 and wave_decoder_cat5_l4 (or the pair of 'sum'), each .pth or .safetensors; or one of these
    two files; or the URL of the one file, or of both as 'ENCODER,DECODER', which is fetched once.
    sha256: checked when given, the file's digest; for two files 'ENCODER,DECODER'; a URL needs it. A .pth is read
    with weights_only=True, never unpickled. Raises StyleWeightsMissing, StyleWeightsUnchecked, StyleWeightsDamaged.
    """
    files = fetch_weights(path, sha256) if "://" in path else find_weights(Path(path).expanduser())
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    wanted = [digest.strip().lower() for digest in sha256.split(",") if digest.strip()]
    if wanted and wanted != digests:
        raise StyleWeightsDamaged(path, f"sha256 is {','.join(digests)} instead of {','.join(wanted)}")
    tensors = _read(files[0], path) if len(files) == 1 else _join(files, path)
    tensors = {key: value.float() for key, value in tensors.items()}
    broken = [key for key, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise StyleWeightsDamaged(path, f"{broken[0]} has values that are not finite")
    width = tensors.get("decoder.conv1_2_2.weight", torch.empty(0, 0)).shape[1]
    network = Wct2Network("sum" if width == DECODER["conv1_2_2"][0] else "cat5")
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
    pairs = [[_first_of(folder, f"wave_{part}_{kind}_l4") for part in PARTS] for kind in kinds]
    found = next((pair for pair in pairs if None not in pair), pairs[0])
    single = sorted(folder.glob("*.safetensors")) if path.is_dir() else []
    if found[0] is None or found[1] is None:
        if len(single) == 1:
            return single
        raise StyleWeightsMissing(str(path))
    return [found[0], found[1]]


def fetch_weights(urls: str, sha256: str) -> list[Path]:
    """The files behind one URL, or two by comma, kept by their digests below REPAIROPS_HOME or the user's cache."""
    digests = [digest.strip().lower() for digest in sha256.split(",") if digest.strip()]
    addresses = [url.strip() for url in urls.split(",")]
    if len(digests) != len(addresses):
        raise StyleWeightsUnchecked(urls)
    home = os.environ.get("REPAIROPS_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = (Path(home).expanduser() if home else cache / "repairops") / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for url, digest in zip(addresses, digests, strict=True):
        file = folder / f"{digest}{'.safetensors' if url.endswith('.safetensors') else '.pth'}"
        if not file.is_file():
            content = _download(url)
            found = hashlib.sha256(content).hexdigest()
            if found != digest:
                raise StyleWeightsDamaged(url, f"sha256 is {found} instead of {digest}")
            partial = file.with_suffix(f".{os.getpid()}.part")
            partial.write_bytes(content)
            partial.replace(file)
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
