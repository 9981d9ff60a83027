"""Decoding untrusted bytes, identifiers, and image sets from folders, parquet and arrays."""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fuzz_helpers import peak_memory
from PIL import Image, ImageFile, ImageOps

from repairops.config import ImagesConfig
from repairops.data.decoding import decode_image, encode_png, file_id, sample_id, sample_ids
from repairops.data.parquet import read_columns
from repairops.data.records import InputSpec
from repairops.data.sets import from_arrays, load_image_set, peek_image_size, to_pixels, write_parquet
from repairops.data.sources import image_files, peek_class_names, read_column, resolve_label
from repairops.errors import (
    ClassMismatch,
    DatasetImageUnusable,
    DatasetNotFound,
    InvalidImages,
    InvalidLabels,
    NoSpaceForImages,
    UnreadableDataset,
    UnreadableImage,
)
from repairops.files import DEEPEST

NAMES = ("cat", "dog", "eel")
RGB = InputSpec(3, 8, 6, NAMES)  # height 8, width 6: a swap of the two would show
GREY = InputSpec(1, 8, 6, NAMES)
CAPS = {"max_pixels": 10_000, "max_bytes": 100_000}
CONFIG = ImagesConfig()


def random_pixels(seed: int, n: int = 1, channels: int = 3, height: int = 8, width: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, height, width), generator=generator, dtype=torch.uint8)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(pixels: torch.Tensor) -> Image.Image:
    array = pixels.numpy()
    return Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def reason(data: bytes, spec: InputSpec = RGB, **caps: int) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode_image(data, spec, **(CAPS | caps))
    assert caught.value.detail
    return caught.value.reason


def noisy_png(height: int = 8, width: int = 6) -> bytes:
    return encode_png(random_pixels(0, height=height, width=width)[0])


# Decoding


@pytest.mark.parametrize("spec", [RGB, GREY], ids=["rgb", "grey"])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_pixels_back(spec: InputSpec, kind: str) -> None:
    pixels = random_pixels(1, channels=spec.channels)[0]
    decoded = decode_image(saved(picture(pixels), kind), spec, **CAPS)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    assert np.array_equal(decoded, pixels.numpy())


def test_grey_is_repeated_for_three_channels() -> None:
    pixels = random_pixels(2, channels=1)[0]
    decoded = decode_image(encode_png(pixels), RGB, **CAPS)
    assert np.array_equal(decoded, np.repeat(pixels.numpy(), 3, axis=0))


def test_colour_is_taken_for_one_channel_only_where_it_is_grey() -> None:
    grey = random_pixels(3, channels=1)[0]
    assert np.array_equal(decode_image(encode_png(grey.repeat(3, 1, 1)), GREY, **CAPS), grey.numpy())
    tinted = grey.repeat(3, 1, 1)
    tinted[2, 0, 0] ^= 1
    assert reason(encode_png(tinted), GREY) == "wrong_mode"


def test_palette_one_bit_and_opaque_alpha_are_converted() -> None:
    indices = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(8, 6) % 4).convert("P")
    indices.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7])
    expected = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]], dtype=np.uint8)
    expected = expected[np.arange(48).reshape(8, 6) % 4].transpose(2, 0, 1)
    assert np.array_equal(decode_image(saved(indices), RGB, **CAPS), expected)
    bits = random_pixels(4, channels=1)[0] > 127
    one_bit = picture(bits.to(torch.uint8) * 255).convert("1")
    assert np.array_equal(decode_image(saved(one_bit), GREY, **CAPS), bits.numpy() * np.uint8(255))
    pixels = random_pixels(5)[0]
    opaque = picture(pixels)
    opaque.putalpha(255)
    assert np.array_equal(decode_image(saved(opaque), RGB, **CAPS), pixels.numpy())
    opaque.putpixel((3, 3), (1, 2, 3, 254))
    assert reason(saved(opaque)) == "wrong_mode"


def test_a_transparent_colour_key_is_refused_only_where_it_is_used() -> None:
    pixels = random_pixels(6)[0].clamp(min=1)
    assert np.array_equal(decode_image(saved(picture(pixels), transparency=(0, 0, 0)), RGB, **CAPS), pixels.numpy())
    used = tuple(int(v) for v in pixels[:, 2, 2])
    assert reason(saved(picture(pixels), transparency=used)) == "wrong_mode"


def test_camera_orientation_is_applied() -> None:
    pixels = random_pixels(7, height=6, width=8)[0]  # lies on its side
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees
    wanted = np.rot90(pixels.numpy(), k=-1, axes=(1, 2))
    transparent = picture(pixels)
    transparent.putalpha(255)
    for image, kind in ((picture(pixels), "PNG"), (picture(pixels), "TIFF"), (transparent, "TIFF")):
        assert np.array_equal(decode_image(saved(image, kind, exif=exif), RGB, **CAPS), wanted)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_every_orientation_is_turned_as_pillow_does(orientation: int) -> None:
    pixels = random_pixels(7, height=7, width=7)[0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(picture(pixels), exif=exif)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))).transpose(2, 0, 1)
    assert not np.array_equal(wanted, pixels.numpy())
    assert np.array_equal(decode_image(data, InputSpec(3, 7, 7, NAMES), **CAPS), wanted)


def test_damaged_exif_leaves_the_picture_as_it_is() -> None:
    pixels = random_pixels(7)[0]
    data = saved(picture(pixels), exif=b"Exif\0\0neither II nor MM")
    assert np.array_equal(decode_image(data, RGB, **CAPS), pixels.numpy())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_truncated_files_do_not_decode(kind: str) -> None:
    data = saved(picture(random_pixels(8, height=40, width=30)[0]), kind)
    spec = InputSpec(3, 40, 30, NAMES)
    decode_image(data, spec, **CAPS)
    assert reason(data[: len(data) // 2], spec) == "does_not_decode"


def test_truncation_is_found_where_another_library_asks_pillow_to_ignore_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = saved(picture(random_pixels(8, height=40, width=30)[0]))
    assert reason(data[: len(data) // 2], InputSpec(3, 40, 30, NAMES)) == "does_not_decode"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 100, b"no image at all", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 8\n"],
    ids=["empty", "zeros", "text", "only a signature", "postscript"],
)
def test_what_is_no_raster_image_does_not_decode(data: bytes) -> None:
    assert reason(data) == "does_not_decode"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [101, 12_000, 60_000])
def test_bombs_are_refused_by_their_header(side: int) -> None:
    """No pixel data follows at all: only the header can have been read."""
    assert reason(raw_png(side, side, 8, 2, b"")) == "too_large"


def test_files_above_the_byte_cap_are_refused() -> None:
    data = noisy_png()
    assert reason(data, max_bytes=len(data) - 1) == "too_large"
    decode_image(data, RGB, max_pixels=48, max_bytes=len(data))
    assert reason(data, max_pixels=47) == "too_large"


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_are_refused(kind: str) -> None:
    frames = [picture(p) for p in random_pixels(9, n=3)]
    assert reason(saved(frames[0], kind, save_all=True, append_images=frames[1:])) == "animated"


def test_a_single_frame_gif_is_an_image() -> None:
    flat = Image.new("RGB", (6, 8), (10, 20, 30))
    assert decode_image(saved(flat, "GIF"), RGB, **CAPS)[:, 0, 0].tolist() == [10, 20, 30]


def test_modes_that_lose_something_are_refused() -> None:
    rgb = picture(random_pixels(10)[0])
    assert reason(saved(rgb.convert("CMYK"), "JPEG")) == "wrong_mode"
    deep = Image.fromarray(np.arange(48, dtype=np.uint16).reshape(8, 6) * 1000)
    assert reason(saved(deep)) == "wrong_mode"
    assert reason(saved(rgb.convert("L").convert("F"), "TIFF")) == "wrong_mode"
    rgb_16_bit = raw_png(6, 8, 16, 2, (b"\0" + bytes(range(36))) * 8)
    assert reason(rgb_16_bit) == "wrong_mode"
    assert reason(b"P6 6 8 65535\n" + bytes(6 * 8 * 3 * 2)) == "wrong_mode"


def test_other_sizes_are_refused_or_resized() -> None:
    halves = torch.zeros(3, 16, 24, dtype=torch.uint8)
    halves[:, :, 12:] = 200  # left dark, right bright
    data = encode_png(halves)
    assert reason(data) == "wrong_size"
    stretched = decode_image(data, InputSpec(3, 8, 6, NAMES, resize="stretch"), **CAPS)
    assert stretched.shape == (3, 8, 6)
    assert stretched[0, 0].tolist()[0] == 0
    assert stretched[0, 0].tolist()[-1] == 200
    marked = torch.zeros(1, 4, 8, dtype=torch.uint8)
    marked[0] = torch.arange(8, dtype=torch.uint8)
    cropped = decode_image(encode_png(marked), InputSpec(1, 4, 4, NAMES, resize="center_crop"), **CAPS)
    assert cropped[0, 0].tolist() == [2, 3, 4, 5]  # short side fits, so the middle is cut without resampling


def test_a_long_narrow_image_takes_little_memory() -> None:
    wide = CAPS | {"max_pixels": 20_000_000}
    data = saved(Image.new("L", (1, 40_000)))
    with peak_memory() as risen:
        for side in (4, 1024):  # the crop alone is scaled, else the image would become 1024 x 40,960,000
            found = decode_image(data, InputSpec(1, side, side, NAMES, resize="center_crop"), **wide)
            assert found.shape == (1, side, side)
        assert decode_image(data, InputSpec(1, 4, 4, NAMES, resize="stretch"), **wide).shape == (1, 4, 4)
        with pytest.raises(UnreadableImage, match="too long and narrow") as raised:
            decode_image(data, InputSpec(1, 1024, 1024, NAMES, resize="stretch"), **wide)
    assert raised.value.reason == "too_large"
    assert risen() < 100 * 2**20


def test_the_middle_is_scaled_as_in_the_whole_image() -> None:
    image = Image.fromarray(random_pixels(3, n=1)[0].permute(1, 2, 0).numpy()).resize((30, 20))
    whole = np.asarray(image.resize((12, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    cropped = decode_image(saved(image), InputSpec(3, 8, 6, NAMES, resize="center_crop"), **CAPS)
    assert np.abs(cropped.astype(int) - whole[:, :, 3:9]).max() <= 1  # the order of Pillow's passes may round otherwise


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_a_damaged_tiff_says_nothing_itself(compression: str, capfd: pytest.CaptureFixture[str]) -> None:
    file = io.BytesIO()
    Image.fromarray(random_pixels(5)[0].permute(1, 2, 0).numpy()).save(file, "TIFF", compression=compression)
    data = file.getvalue()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for place in range(8, len(data), 5):
            damaged = data[:place] + b"\xff" + data[place + 1 :]
            file_id(damaged)
            with contextlib.suppress(UnreadableImage):
                decode_image(damaged, RGB, **CAPS)
    assert said == []
    assert capfd.readouterr().err == ""


# Identifiers and PNG


def test_sample_ids_tell_pixels_and_shapes_apart() -> None:
    pixels = random_pixels(11, n=2100, height=2, width=3)
    ids = sample_ids(pixels)
    assert ids.tolist() == [sample_id(p) for p in pixels]
    assert ids[0] == sample_id(pixels[0].numpy())
    assert len(set(ids.tolist())) == len(np.unique(pixels.flatten(1).numpy(), axis=0))
    assert sample_id(pixels[0]) != sample_id(pixels[0].reshape(3, 3, 2))
    assert all(len(i) == 64 for i in ids)
    assert sample_ids(pixels[:0]).shape == (0,)


def test_file_id_names_the_pixels_in_the_files_own_size() -> None:
    pixels = random_pixels(12, height=20, width=10)[0]
    assert file_id(encode_png(pixels)) == sample_id(pixels)
    assert file_id(saved(picture(pixels), "BMP")) == sample_id(pixels)
    assert file_id(b"broken") != file_id(b"other")


@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trip(channels: int) -> None:
    pixels = random_pixels(13, channels=channels)[0]
    decoded = decode_image(encode_png(pixels), RGB if channels == 3 else GREY, **CAPS)
    assert np.array_equal(decoded, pixels.numpy())


# Arrays


def test_to_pixels_takes_the_usual_layouts() -> None:
    pixels = random_pixels(14, n=5)
    last = pixels.permute(0, 2, 3, 1)
    for given in (pixels, pixels.numpy(), last, last.numpy(), last.float() / 255, last.numpy() / 255.0):
        assert torch.equal(to_pixels(given), pixels)
    assert torch.equal(to_pixels([picture(p) for p in pixels]), pixels)
    assert torch.equal(to_pixels(list(last.numpy())), pixels)
    grey = random_pixels(15, n=4, channels=1)
    assert torch.equal(to_pixels(grey[:, 0]), grey)
    assert torch.equal(to_pixels([picture(p) for p in grey]), grey)
    assert to_pixels(np.zeros((0, 8, 6, 3), np.uint8)).shape == (0, 3, 8, 6)


def test_to_pixels_copies() -> None:
    array = random_pixels(16, n=2).numpy()
    pixels = to_pixels(array)
    before = pixels.clone()
    array[:] = 0
    assert torch.equal(pixels, before)


@pytest.mark.parametrize(
    "images",
    [
        np.full((2, 3, 8, 6), 1.01),
        np.full((2, 3, 8, 6), -0.01),
        np.full((2, 3, 8, 6), np.nan),
        np.zeros((2, 3, 8, 3), np.uint8),
        np.zeros((2, 4, 8, 6), np.uint8),
        np.zeros((8, 6, 3), np.uint8),
        np.zeros((8, 6), np.uint8),
        np.zeros((2, 3, 8, 6), np.int64),
        torch.zeros(2, 3, 8, 6, dtype=torch.int32),
        [],
        [Image.new("RGB", (6, 8)), Image.new("RGB", (8, 6))],
        [Image.new("CMYK", (6, 8))],
        {"images": 1},
    ],
)
def test_to_pixels_refuses_what_can_be_misread(images: object) -> None:
    with pytest.raises(InvalidImages):
        to_pixels(images)


def test_from_arrays_takes_indices_and_names() -> None:
    pixels = random_pixels(17, n=3)
    by_index = from_arrays(pixels, [2, 0, 1], NAMES)
    assert by_index.labels.dtype == np.int64
    assert from_arrays(pixels, ["eel", "cat", "dog"], NAMES).digest == by_index.digest
    assert from_arrays(pixels, np.array([2, 0, 1], dtype=np.int8), NAMES).digest == by_index.digest
    assert from_arrays(pixels, torch.tensor([2, 0, 1]), NAMES).digest == by_index.digest
    for bad in (["eel", "cat", "fox"], [0, 1, 3], [0, 1, -1], [0, 1], [0, 1, 0.5], [0, 1, None]):
        with pytest.raises(InvalidLabels):
            from_arrays(pixels, bad, NAMES)


def test_a_class_named_by_a_number_wins_over_the_index() -> None:
    assert resolve_label("1", ("3", "2", "1")) == 2
    assert resolve_label("0", ("3", "2", "1")) == 0
    assert resolve_label(" dog ", NAMES) == 1
    for unknown in ("", "-1", "3", "Dog", "1.0", "²", "1" * 5000):
        assert resolve_label(unknown, NAMES) is None


# Data sets


def folder_set(root: Path, names: tuple[str, ...], per_class: int = 3, channels: int = 3) -> dict[str, torch.Tensor]:
    pixels = {}
    for seed, name in enumerate(names):
        (root / name).mkdir(parents=True)
        pixels[name] = random_pixels(100 + seed, n=per_class, channels=channels)
        for i, image in enumerate(pixels[name]):
            (root / name / f"{i}.png").write_bytes(encode_png(image))
    return pixels


def table_file(path: Path, columns: dict[str, pa.Array], metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return path


def structs(pixels: torch.Tensor) -> pa.Array:
    return pa.array([{"bytes": encode_png(p), "path": f"{i}.png"} for i, p in enumerate(pixels)])


def test_folders_are_matched_by_name(tmp_path: Path) -> None:
    pixels = folder_set(tmp_path, ("eel", "cat", "dog"))
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "cat" / "._0.png").write_bytes(b"a Mac's resource fork")
    spec = InputSpec(3, 8, 6, ("dog", "eel", "cat"))
    loaded = load_image_set(tmp_path, spec, CONFIG)
    assert loaded.class_names == spec.class_names
    assert loaded.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert torch.equal(loaded.pixels, torch.cat([pixels["dog"], pixels["eel"], pixels["cat"]]))
    assert loaded.sample_ids.tolist() == sample_ids(loaded.pixels).tolist()
    assert peek_class_names(tmp_path) == ("cat", "dog", "eel")
    assert peek_image_size(tmp_path) == (3, 8, 6)


def test_folders_of_other_classes_are_refused(tmp_path: Path) -> None:
    folder_set(tmp_path / "missing", ("cat", "dog"))
    folder_set(tmp_path / "extra", ("cat", "dog", "eel", "fox"))
    for name in ("missing", "extra"):
        with pytest.raises(ClassMismatch, match="cat, dog"):
            load_image_set(tmp_path / name, RGB, CONFIG)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableDataset, match="neither class folders"):
        load_image_set(tmp_path / "empty", RGB, CONFIG)
    with pytest.raises(DatasetNotFound, match="clean set"):
        load_image_set(tmp_path / "nowhere", RGB, CONFIG, role="clean set")


def test_a_bad_image_of_a_data_set_is_named(tmp_path: Path) -> None:
    folder_set(tmp_path / "folder", NAMES)
    (tmp_path / "folder" / "dog" / "1.png").write_bytes(noisy_png()[:60])
    with pytest.raises(DatasetImageUnusable, match=r"1\.png.*damaged"):
        load_image_set(tmp_path / "folder", RGB, CONFIG)
    images = structs(random_pixels(20, n=3)).to_pylist()
    images[2]["bytes"] = noisy_png(width=9)
    file = table_file(tmp_path / "a.parquet", {"image": pa.array(images), "label": pa.array([0, 1, 2])})
    with pytest.raises(DatasetImageUnusable, match=r"row 2: 9 x 8 pixels"):
        load_image_set(file, RGB, CONFIG)
    images[2]["bytes"] = None
    file = table_file(tmp_path / "b.parquet", {"image": pa.array(images), "label": pa.array([0, 1, 2])})
    with pytest.raises(UnreadableDataset, match="row 2 holds no image bytes"):
        load_image_set(file, RGB, CONFIG)


def test_links_are_followed_once_and_only_regular_files_are_read(tmp_path: Path) -> None:
    folder_set(tmp_path / "data", NAMES, per_class=1)
    folder_set(tmp_path / "elsewhere", ("more",), per_class=1)
    cat, dog = tmp_path / "data" / "cat", tmp_path / "data" / "dog"
    for link, target in (("itself", cat), ("again", cat), ("up", tmp_path / "data"), ("dogs", dog)):
        (cat / link).symlink_to(target)
    for name in ("more", "more again"):
        (dog / name).symlink_to(tmp_path / "elsewhere" / "more")
    loaded = load_image_set(tmp_path / "data", RGB, CONFIG)
    assert loaded.labels.tolist() == [0, 1, 1, 2]
    assert len(image_files(cat)) == 3  # asked for alone, it leads to the dogs, and never to what is around it
    os.mkfifo(dog / "pipe.png")
    with pytest.raises(DatasetImageUnusable, match=r"pipe\.png: it is no regular file"):
        load_image_set(tmp_path / "data", RGB, CONFIG)
    (dog / "pipe.png").unlink()
    (dog / "zero.png").symlink_to("/dev/zero")
    with pytest.raises(DatasetImageUnusable, match=r"zero\.png: it is no regular file"):
        load_image_set(tmp_path / "data", RGB, CONFIG)
    (dog / "zero.png").unlink()
    with pytest.raises(DatasetImageUnusable, match="it has more than 50 bytes"):
        load_image_set(tmp_path / "data", RGB, ImagesConfig(max_image_bytes=50))


def test_folders_that_lie_too_deep_are_refused_at_once(tmp_path: Path) -> None:
    folder_set(tmp_path / "data", NAMES, per_class=1)
    deep = tmp_path / "data" / "cat"
    for _ in range(DEEPEST + 1):
        deep /= "a"
        deep.mkdir()
    with pytest.raises(UnreadableDataset, match="nested more than 100 deep"):
        load_image_set(tmp_path / "data", RGB, CONFIG)


def test_a_small_parquet_that_unpacks_to_a_large_one_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repairops.data.parquet._BATCH_BYTES", 2**22)
    columns = {"image": pa.array([bytes(2**16)] * 100), "label": pa.array([0] * 100)}
    found: dict[str, list[Any]] = {"said": [], "repeated": []}
    for name, rows in found.items():
        file = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table(columns), file, compression="zstd", use_dictionary=name == "repeated")
        with pytest.raises(UnreadableDataset, match=r"bytes and unpacks to more than 4,194,304"):
            rows.extend(read_columns(file, file, ["image", "label"]))
        assert len(list(read_columns(file, file, ["label"]))) == 100
        assert len(list(read_columns(file, file, ["image"], bounded=False))) == 100
    assert len(found["said"]) == 0  # the file says it
    assert len(found["repeated"]) <= 64  # it does not, and the values say it


def test_rows_that_cannot_be_there_are_not_counted(tmp_path: Path) -> None:
    same = pa.array([0]).take(pa.array(np.zeros(10_000, np.int64)))
    images = pa.array([b"x"]).take(same)
    file = table_file(tmp_path / "a.parquet", {"image": images, "label": same})
    with pytest.raises(UnreadableDataset, match=r"says that it has 10,000 rows in [\d,]+ bytes"):
        load_image_set(file, RGB, CONFIG)


@pytest.mark.parametrize("stored", ["[" * 9000, "cat,dog", '{"a": "cat"}', '["cat", null]', "7", '"cat"', "\0"])
def test_class_names_that_are_none_are_refused(tmp_path: Path, stored: str) -> None:
    columns = {"image": structs(random_pixels(20, n=1)), "label": pa.array([0])}
    file = table_file(tmp_path / "a.parquet", columns, {"class_names": stored})
    for read in (peek_class_names, lambda path: load_image_set(path, RGB, CONFIG)):
        with pytest.raises(UnreadableDataset, match="in its schema"):
            read(file)


def test_damaged_pages_are_found_where_only_names_are_read(tmp_path: Path) -> None:
    columns = {"image": structs(random_pixels(20, n=3)), "label": pa.array(["cat", "dog", "eel"])}
    file = table_file(tmp_path / "a.parquet", columns)
    place = pq.read_metadata(file).row_group(0).column(2).dictionary_page_offset
    data = file.read_bytes()
    file.write_bytes(data[:place] + b"\xff" * 20 + data[place + 20 :])
    for read in (peek_class_names, lambda path: read_column(path, "label", "gate.clean_slices")):
        with pytest.raises(UnreadableDataset, match="no parquet file, or damaged"):
            read(file)


@pytest.mark.parametrize("key", ["class_names", "huggingface"])
def test_parquet_labels_are_matched_by_the_names_in_the_schema(tmp_path: Path, key: str) -> None:
    stored = ["eel", "dog", "cat"]
    features = {"info": {"features": {"label": {"names": stored, "_type": "ClassLabel"}}}}
    metadata = {key: json.dumps(stored if key == "class_names" else features)}
    pixels = random_pixels(21, n=4)
    file = table_file(tmp_path / "a.parquet", {"img": structs(pixels), "label": pa.array([0, 1, 2, 0])}, metadata)
    loaded = load_image_set(file, RGB, CONFIG)
    assert [NAMES[i] for i in loaded.labels] == ["eel", "dog", "cat", "eel"]
    assert torch.equal(loaded.pixels, pixels)
    assert peek_class_names(file) == ("eel", "dog", "cat")
    with pytest.raises(ClassMismatch, match="eel, dog, cat"):
        load_image_set(file, InputSpec(3, 8, 6, ("cat", "dog", "fox")), CONFIG)


def test_parquet_labels_without_names(tmp_path: Path) -> None:
    pixels = random_pixels(22, n=3)
    binary = pa.array([encode_png(p) for p in pixels])
    number = table_file(tmp_path / "n.parquet", {"picture": binary, "fine_label": pa.array([2, 0, 1], pa.int8())})
    assert load_image_set(number, RGB, CONFIG).labels.tolist() == [2, 0, 1]
    assert peek_class_names(number) is None
    assert peek_image_size(number) == (3, 8, 6)
    text = pa.array(["eel", "cat", "eel"]).dictionary_encode()
    named = table_file(tmp_path / "t.parquet", {"image": binary, "labels": text})
    assert load_image_set(named, RGB, CONFIG).labels.tolist() == [2, 0, 2]
    assert peek_class_names(named) == ("cat", "eel")
    for values, error in (
        ([0, 1, 3], UnreadableDataset),
        ([0, -1, 1], UnreadableDataset),
        ([0, None, 1], UnreadableDataset),
    ):
        file = table_file(tmp_path / "bad.parquet", {"image": binary, "label": pa.array(values)})
        with pytest.raises(error, match="row"):
            load_image_set(file, RGB, CONFIG)
    file = table_file(tmp_path / "fox.parquet", {"image": binary, "label": pa.array(["cat", "fox", "eel"])})
    with pytest.raises(ClassMismatch, match="fox"):
        load_image_set(file, RGB, CONFIG)


def test_parquet_shards_are_read_in_order_and_splits_are_never_mixed(tmp_path: Path) -> None:
    pixels = random_pixels(23, n=600)
    labels = np.arange(600) % 3
    metadata = {"class_names": json.dumps(NAMES)}
    for shard, part in enumerate((slice(0, 520), slice(520, 600))):
        columns = {"image": structs(pixels[part]), "label": pa.array(labels[part])}
        table_file(tmp_path / f"train-0000{shard}-of-00002.parquet", columns, metadata)
    loaded = load_image_set(tmp_path, RGB, CONFIG)
    assert torch.equal(loaded.pixels, pixels)
    assert np.array_equal(loaded.labels, labels)
    other = {"image": structs(pixels[:2]), "label": pa.array([0, 1])}
    table_file(tmp_path / "test-00000-of-00001.parquet", other, metadata)
    with pytest.raises(UnreadableDataset, match="test, train"):
        load_image_set(tmp_path, RGB, CONFIG)
    (tmp_path / "test-00000-of-00001.parquet").unlink()
    table_file(tmp_path / "train-00001-of-00002.parquet", other, {"class_names": json.dumps(NAMES[::-1])})
    with pytest.raises(UnreadableDataset, match="differ"):
        load_image_set(tmp_path, RGB, CONFIG)


def test_parquet_without_the_columns_says_what_it_has(tmp_path: Path) -> None:
    file = table_file(tmp_path / "a.parquet", {"text": pa.array(["a"]), "label": pa.array([0])})
    with pytest.raises(UnreadableDataset, match="columns are text, label"):
        load_image_set(file, RGB, CONFIG)
    empty = {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}
    with pytest.raises(UnreadableDataset, match="no rows"):
        load_image_set(table_file(tmp_path / "b.parquet", empty), RGB, CONFIG)
    (tmp_path / "c.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UnreadableDataset, match="no parquet file"):
        load_image_set(tmp_path / "c.parquet", RGB, CONFIG)


def test_a_large_set_is_memory_mapped_and_leaves_nothing_behind(tmp_path: Path) -> None:
    folder_set(tmp_path / "data", NAMES)
    spec = InputSpec(3, 600, 500, NAMES, resize="stretch")  # 9 images of 0.9 MB
    in_memory = load_image_set(tmp_path / "data", spec, CONFIG)
    mapped = load_image_set(tmp_path / "data", spec, ImagesConfig(memory_limit_mb=1), cache_dir=tmp_path / "cache")
    assert (tmp_path / "cache").is_dir()
    assert list((tmp_path / "cache").iterdir()) == []
    assert torch.equal(mapped.pixels, in_memory.pixels)
    assert mapped.digest == in_memory.digest
    index = torch.tensor([4, 0])
    assert torch.equal(mapped.pixels[index], in_memory.pixels[index])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NoSpaceForImages, match="memory_limit_mb"):
        load_image_set(tmp_path / "data", spec, ImagesConfig(memory_limit_mb=1), cache_dir=tmp_path / "file")


@pytest.mark.parametrize("channels", [1, 3])
def test_write_parquet_round_trip(tmp_path: Path, channels: int) -> None:
    spec = InputSpec(channels, 8, 6, NAMES)
    written = from_arrays(random_pixels(24, n=1003, channels=channels), np.arange(1003) % 3, NAMES)
    write_parquet(written, tmp_path / "new" / "set.parquet")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["set.parquet"]
    loaded = load_image_set(tmp_path / "new" / "set.parquet", spec, CONFIG)
    assert torch.equal(loaded.pixels, written.pixels)
    assert loaded.digest == written.digest
    turned = InputSpec(channels, 8, 6, NAMES[::-1])
    assert load_image_set(tmp_path / "new" / "set.parquet", turned, CONFIG).labels.tolist()[:3] == [2, 1, 0]
    features = json.loads(pq.read_schema(tmp_path / "new" / "set.parquet").metadata[b"huggingface"])["info"]["features"]
    assert features["label"] == {"names": list(NAMES), "_type": "ClassLabel"}
    assert features["image"] == {"_type": "Image"}
