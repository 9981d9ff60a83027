"""The failure batch's data contract: every row rule and every batch rule, decided by Great Expectations."""

from __future__ import annotations

import io
import json
import logging
import struct
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from repairops.config import ImagesConfig, ValidationConfig
from repairops.data.decoding import encode_png, sample_id
from repairops.data.records import InputSpec
from repairops.errors import ValidationEngineFailed
from repairops.validation import contract
from repairops.validation.contract import ValidationReport, validate
from repairops.validation.facts import ROW_RULES, RowFacts, gather

NAMES = ("cat", "dog", "eel")
SPEC = InputSpec(3, 8, 8, NAMES)
LENIENT = ValidationConfig(min_rows=1, min_classes=1, max_quarantined_share=1, max_class_share=1, max_source_share=1)
CONFIG = ImagesConfig(max_image_pixels=10_000, max_image_bytes=20_000)


def champion(pixels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Answers the class that the first pixel's red value says, modulo 3."""
    assert pixels.dtype == torch.uint8
    return (pixels[:, 0, 0, 0] % 3).numpy().astype(np.int64), np.full(len(pixels), 0.75, np.float32)


def image(seed: int, answer: int = 0, channels: int = 3) -> Tensor:
    """A noise image that the champion takes for class `answer`."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (channels, 8, 8), generator=generator, dtype=torch.uint8)
    pixels[0, 0, 0] = 3 * (seed % 80) + answer
    return pixels


def row(pixels: Tensor, label: str = "dog", **values: Any) -> dict[str, Any]:
    defaults = {
        "sample_id": sample_id(pixels),
        "image": encode_png(pixels),
        "label": label,
        "predicted": "cat",
        "confidence": 0.75,
        "captured_at": "2024-05-01T12:00:00+00:00",
        "source": "",
        "group": "",
        "batch": "b" * 64,
    }
    return defaults | values


def sound(n: int, start: int = 1000) -> list[dict[str, Any]]:
    """n failures that break no rule: the champion says cat, they are dogs and eels in turn."""
    return [row(image(start + i), NAMES[1 + i % 2]) for i in range(n)]


def bad_file(data: bytes | None) -> dict[str, Any]:
    return row(image(0), image=data, sample_id="")


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG whose header announces 5,000 x 5,000 pixels and that holds none."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", 5000, 5000, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def check(rows: list[dict[str, Any]], config: ValidationConfig = LENIENT, **options: Any) -> ValidationReport:
    columns = list(row(image(0)))
    given = {"clean_ids": [], "train_ids": [], "images": CONFIG, "config": config} | options
    return validate(pd.DataFrame(rows, columns=columns), given.pop("spec", SPEC), champion, **given)


def passed(report: ValidationReport) -> bool:
    return report.accepted is not None and not report.broken


def facts(rows: list[dict[str, Any]], spec: InputSpec = SPEC, **options: Any) -> RowFacts:
    return gather(pd.DataFrame(rows), spec, champion, {}, CONFIG, **options)


def broken(found: RowFacts) -> list[list[str]]:
    return [[rule for rule in ROW_RULES if not found.holds[rule][i]] for i in range(len(found.holds))]


# Row rules


def test_every_row_rule_quarantines_its_row_with_a_reason() -> None:
    photo = Image.fromarray(image(1).permute(1, 2, 0).numpy())
    truncated = encode_png(image(2))[:90]
    frames = [Image.fromarray(image(s).permute(1, 2, 0).numpy()) for s in (3, 4)]
    bad = {
        "truncated": (bad_file(truncated), "does_not_decode"),
        "empty": (bad_file(b""), "does_not_decode"),
        "missing": (bad_file(None), "does_not_decode"),
        "text": (bad_file(b"<html>502 Bad Gateway</html>"), "does_not_decode"),
        "bomb": (bad_file(bomb()), "too_large"),
        "bytes": (bad_file(encode_png(image(5)) + bytes(20_000)), "too_large"),
        "gif": (bad_file(saved(frames[0], "GIF", save_all=True, append_images=frames[1:])), "animated"),
        "cmyk": (bad_file(saved(photo.convert("CMYK"), "JPEG")), "wrong_mode"),
        "deep": (bad_file(saved(Image.fromarray(np.full((8, 8), 40_000, np.uint16)))), "wrong_mode"),
        "size": (bad_file(saved(photo.resize((9, 8)))), "wrong_size"),
        "altered": (row(image(6), sample_id="0" * 64), "altered"),
        "unknown": (row(image(7), "fox"), "unknown_label"),
        "unlabelled": (row(image(8), ""), "unknown_label"),
        "two labels a": (row(image(9), "dog"), "conflicting_labels"),
        "two labels b": (row(image(9), "eel"), "conflicting_labels"),
        "clean": (row(image(10)), "in_clean_set"),
        "chooses": (row(image(16)), "in_validation_set"),
        "train": (row(image(11)), "in_train_set"),
        "near": (row(image(17)), "near_copy"),
        "stale": (row(image(12, answer=1), "dog"), "stale"),
        "confidence": (row(image(13), confidence=1.2), "out_of_range"),
        "time": (row(image(14), captured_at="last Tuesday"), "out_of_range"),
        "future": (row(image(15), captured_at="2999-01-01"), "out_of_range"),
    }
    good = sound(4)
    rows = [*good, good[1], *(r for r, _ in bad.values())]
    ids = {"clean_ids": [sample_id(image(10))], "validation_ids": {sample_id(image(16))}}

    def find_copies(pixels: Tensor) -> dict[str, np.ndarray]:
        return {"clean set": (pixels == image(17)).flatten(1).all(dim=1).numpy()}

    report = check(rows, **ids, train_ids=np.array([sample_id(image(11))]), find_copies=find_copies)
    wanted = ["duplicate", *(rule for _, rule in bad.values())]
    assert report.quarantine["rule"].tolist() == wanted
    assert report.quarantine.index.tolist() == list(range(4, len(rows)))
    assert report.quarantine["detail"].str.len().min() > 10
    assert report.quarantine["image"].tolist() == [r["image"] for r in rows[4:]]
    assert report.counts == {rule: wanted.count(rule) for rule in ROW_RULES}
    assert set(wanted) == set(ROW_RULES)
    assert report.rows == len(rows)
    details = dict(zip(bad, report.quarantine["detail"].tolist()[1:], strict=True))
    assert details["bomb"] == "5000 x 5000 pixels; the limit is 10,000 pixels"
    assert details["size"].startswith("9 x 8 pixels; the model takes 8 x 8")
    assert "'fox'" in details["unknown"]
    assert report.results["wrong_size"]["unexpected_index_list"] == [14]
    assert report.results["unknown_label"]["unexpected_count"] == 2
    json.dumps(report.results, allow_nan=False)

    assert len(report.broken) == 1
    assert "different images are in the clean or validation set" in report.broken[0]  # one of each
    assert report.accepted is not None
    assert report.accepted.images.sample_ids.tolist() == [r["sample_id"] for r in good]
    assert report.accepted.images.labels.tolist() == [1, 2, 1, 2]
    assert torch.equal(report.accepted.images.pixels, torch.stack([image(1000 + i) for i in range(4)]))
    assert report.accepted.predicted.tolist() == [0] * 4
    assert report.accepted.confidence.dtype == np.float32
    assert report.accepted.confidence.tolist() == [0.75] * 4


def test_the_first_broken_rule_is_named_and_all_are_listed() -> None:
    pixels = image(1, answer=1)
    rows = [*sound(2), row(pixels, "dog", confidence=-0.5, sample_id="f" * 64)]
    report = check(rows, clean_ids={sample_id(pixels)})
    assert report.quarantine["rule"].tolist() == ["altered"]
    assert report.quarantine["rules"].tolist() == ["altered, in_clean_set, stale, out_of_range"]
    assert sum(report.counts.values()) == 1


def test_accepted_rows_keep_groups_sources_and_digests() -> None:
    rows = [row(image(i), group=g, source=s) for i, (g, s) in enumerate([("g1", "cam a"), (None, np.nan), ("", "b")])]
    report = check(rows, digests=("d1", "d2"))
    assert report.accepted is not None
    assert report.accepted.groups.tolist() == ["g1", "", ""]
    assert report.accepted.sources.tolist() == ["cam a", "", "b"]
    assert report.accepted.digests == ("d1", "d2")


def test_labels_are_names_or_indices_and_a_name_wins() -> None:
    rows = [row(image(i), label) for i, label in enumerate(["dog", "1", " eel ", "3", "-1", "Dog"])]
    assert facts(rows).labels.tolist() == [1, 1, 2, -1, -1, -1]
    numbered = InputSpec(3, 8, 8, ("1", "2", "3"))
    assert facts([row(image(0), "1"), row(image(1), "0")], numbered).labels.tolist() == [0, 0]
    assert facts([row(image(0), None), row(image(1), float("nan"))]).labels.tolist() == [-1, -1]


def test_identifiers_of_resized_and_grey_files_are_not_altered() -> None:
    """They are logged before anyone knows the network, so the file's own pixels or bytes may name them."""
    import hashlib

    wide = torch.randint(0, 256, (3, 10, 20), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    grey = image(2, channels=1)
    spec = InputSpec(3, 8, 8, NAMES, resize="stretch")
    by_bytes = hashlib.sha256(encode_png(image(3))).hexdigest()
    rows = [
        row(wide),
        row(grey),
        row(image(3), sample_id=by_bytes),
        row(image(4), sample_id=None),
        row(wide, sample_id="1" * 64),
    ]
    assert facts(rows, spec).holds["altered"].tolist() == [True, True, True, True, False]


def test_a_sound_copy_is_kept_where_an_earlier_one_is_not_sound() -> None:
    pixels = image(1)
    rows = [row(pixels, confidence=7.0), row(pixels, "fox"), row(pixels), row(pixels), row(pixels, "1")]
    assert broken(facts(rows)) == [["out_of_range"], ["unknown_label"], [], ["duplicate"], ["duplicate"]]


def test_an_altered_copy_does_not_make_labels_conflict() -> None:
    rows = [row(image(1), "dog"), row(image(1), "eel", sample_id="0" * 64)]
    assert broken(facts(rows)) == [[], ["altered"]]


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ({"confidence": float("nan")}, True),
        ({"confidence": None}, True),
        ({"confidence": 1.0 + 1e-7}, True),
        ({"confidence": 1.01}, False),
        ({"confidence": float("inf")}, False),
        ({"confidence": "high"}, False),
        ({"captured_at": ""}, True),
        ({"captured_at": None}, True),
        ({"captured_at": "2024-05-01"}, True),
        ({"captured_at": "2024-05-01T10:00:00Z"}, True),
        ({"captured_at": "2024-05-01 23:00:00-11:00"}, True),
        ({"captured_at": "2024-06-02T09:00:00"}, True),  # local time somewhere east of UTC
        ({"captured_at": "2024-06-03T09:00:00"}, False),
        ({"captured_at": "1714557600"}, False),
        ({"captured_at": "99999-01-01"}, False),
        ({"predicted": None, "source": None, "group": None, "batch": None, "sample_id": None}, True),
    ],
)
def test_ranges(values: dict[str, Any], kept: bool) -> None:
    found = facts([row(image(1), **values)], now=datetime(2024, 6, 2, tzinfo=UTC))
    assert found.holds["out_of_range"].tolist() == [kept]
    assert bool(found.holds.drop(columns="out_of_range").all(axis=None))


def test_a_label_of_thousands_of_digits_is_quarantined_and_long_texts_take_little_room() -> None:
    names = ["g" * 100_000 + end for end in "aab"]
    rows = [row(image(i), label="9" * 5000 if i == 1 else "cat", group=name) for i, name in enumerate(names)]
    found = facts(rows)
    assert found.holds["unknown_label"].tolist() == [True, False, True]
    assert found.groups.itemsize <= 4 * 200
    assert found.groups[0] == found.groups[1] != found.groups[2]
    assert found.groups[0].startswith("ggg")


def test_a_champion_that_answers_nan_is_out_of_range() -> None:
    def failing(pixels: Tensor) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(pixels), np.int64), np.array([0.5, np.nan], np.float32)

    rows = pd.DataFrame([row(image(1)), bad_file(b""), row(image(2))])
    found = gather(rows, SPEC, failing, {}, CONFIG)
    assert found.holds["out_of_range"].tolist() == [True, True, False]
    assert found.position.tolist() == [0, -1, 1]


@pytest.mark.parametrize("channels", [1, 3])
def test_constant_and_grey_images_pass(channels: int) -> None:
    spec = InputSpec(channels, 8, 8, NAMES)
    flat = [torch.full((channels, 8, 8), value, dtype=torch.uint8) for value in (0, 255)]
    found = facts([row(pixels) for pixels in flat], spec)
    assert broken(found) == [[], []]
    assert torch.equal(found.pixels, torch.stack(flat))


# Batch rules


def test_each_batch_rule_states_fact_value_and_limit() -> None:
    rows = [*sound(2), *(row(image(i), source="cam a") for i in range(8)), *(bad_file(b"") for _ in range(10))]
    rows[0]["source"] = "cam b"
    strict = ValidationConfig(
        min_rows=11, min_classes=3, max_quarantined_share=0.4, max_class_share=0.5, max_source_share=0.7
    )
    report = check(rows, strict)
    assert not passed(report)
    assert report.broken == (
        "10 failures are left after quarantine, the minimum is 11",
        "the failures left are of 2 classes, the minimum is 3",
        "of 20 rows (stale and duplicate ones not counted) 10 were quarantined (50.0%), the limit is 40.0%",
        "9 of 10 failures left are of the class 'dog' (90.0%), the limit is 50.0%",
        "8 of 10 failures left come from the source 'cam a' (80.0%), the limit is 70.0%",
    )
    assert report.accepted is not None
    assert len(report.accepted) == 10
    at_limit = ValidationConfig(
        min_rows=10, min_classes=2, max_quarantined_share=0.5, max_class_share=0.9, max_source_share=0.8
    )
    assert passed(check(rows, at_limit))


def test_failures_that_are_to_be_kept_are_not_stale_and_others_are() -> None:
    wrong, right = sound(4), [row(image(i, answer=1), "dog") for i in range(4)]
    kept = {each["sample_id"] for each in (*wrong[:3], *right[:3])}
    report = check([*wrong, *right], kept=kept)
    assert report.accepted is not None
    assert set(report.accepted.images.sample_ids.tolist()) == kept
    assert report.quarantine["sample_id"].tolist() == [wrong[3]["sample_id"], right[3]["sample_id"]]
    assert set(report.quarantine["rule"]) == {"stale"}
    assert set(report.quarantine["detail"]) == {
        "none of the version's repairs took it: it was right then, or quarantined"
    }


def test_stale_and_duplicate_rows_are_no_defects() -> None:
    good = sound(4)
    stale = [row(image(i, answer=1), "dog") for i in range(10)]
    config = ValidationConfig(min_rows=4, min_classes=2, max_quarantined_share=0.0)
    report = check([*good, *good, *stale, *stale], config)
    assert report.counts["duplicate"] == 14
    assert report.counts["stale"] == 10
    assert passed(report)
    assert report.results["max_quarantined_share"]["value"] == 0.0
    assert not passed(check([*good, *stale, bad_file(b"")], config))


def test_the_source_rule_needs_two_named_sources() -> None:
    config = ValidationConfig(min_rows=1, min_classes=1, max_source_share=0.6)
    one = [r | {"source": "cam a"} for r in sound(6)]
    assert "max_source_share" not in check(one, config).results
    two = [*one, sound(1, start=50)[0] | {"source": "cam b"}]
    assert check(two, config).broken == (
        "6 of 7 failures left come from the source 'cam a' (85.7%), the limit is 60.0%",
    )


def test_overlap_with_the_clean_set_fails_the_batch_from_the_second_image() -> None:
    rows = sound(20)
    one = check(rows, clean_ids=[rows[0]["sample_id"], "unrelated"])
    assert passed(one)
    assert one.counts["in_clean_set"] == 1
    two = check(rows, clean_ids=[rows[0]["sample_id"], rows[5]["sample_id"]])
    assert two.broken == ("2 of 20 different images are in the clean or validation set, the limit is 1",)
    assert two.accepted is not None
    assert len(two.accepted) == 18
    each = check(rows, clean_ids=[rows[0]["sample_id"]], validation_ids=[rows[5]["sample_id"]])
    assert each.broken == two.broken
    assert (each.counts["in_clean_set"], each.counts["in_validation_set"]) == (1, 1)
    train = check(rows, train_ids=[r["sample_id"] for r in rows[:5]])
    assert passed(train)
    assert train.counts["in_train_set"] == 5


def test_an_empty_batch_and_one_with_nothing_left_fail_without_a_crash() -> None:
    for rows in ([], [bad_file(b"") for _ in range(3)]):
        report = check(rows, ValidationConfig(min_rows=0, min_classes=0, max_quarantined_share=1.0))
        assert report.accepted is None
        assert not passed(report)
        assert report.broken == ("0 failures are left after quarantine, the minimum is 1",)
        assert len(report.quarantine) == len(rows)
        assert {"rule", "rules", "detail", "image"} <= set(report.quarantine.columns)
        assert report.counts["does_not_decode"] == len(rows)
        json.dumps(report.results, allow_nan=False)


# Great Expectations


def test_a_rule_that_raises_is_an_error_and_never_a_verdict() -> None:
    from great_expectations import expectations

    rules = [expectations.ExpectColumnValuesToBeInSet(column="nowhere", value_set=[True], meta={"rule": "lost"})]
    with pytest.raises(ValidationEngineFailed, match=r"'lost'.*nowhere"):
        contract._run(contract._context(None), "test", pd.DataFrame({"here": [True]}), rules)


def test_data_docs_are_written_and_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = check([*sound(3), bad_file(b"")], docs_dir=tmp_path / "docs")
    assert passed(report)
    assert (tmp_path / "docs" / "index.html").is_file()
    pages = list((tmp_path / "docs" / "validations").rglob("*.html"))
    assert len(pages) == 2
    assert any("does_not_decode" in page.read_text() for page in pages)
    assert not list((tmp_path / "docs").rglob("*.gif"))
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


def test_analytics_are_off() -> None:
    context = contract._context(None)
    assert context.config.analytics_enabled is False
    assert context.variables.progress_bars["globally"] is False


def test_warnings_of_the_process_are_not_rerouted_to_logging() -> None:
    """Importing Great Expectations calls logging.captureWarnings(True)."""
    contract._context(None)
    assert logging._warnings_showwarning is None  # type: ignore[attr-defined]


def test_near_copies_are_quarantined_with_the_set_and_do_not_fail_the_batch() -> None:
    """Exact copies keep their own rule. Copies are looked for among the rows that decode."""
    rows = [bad_file(b"no image"), *sound(20)]
    seen: list[int] = []

    def find_copies(pixels: torch.Tensor) -> dict[str, np.ndarray]:
        seen.append(len(pixels))
        return {"clean set": np.arange(len(pixels)) < 3, "train set": np.arange(len(pixels)) == 19}

    report = check(rows, clean_ids=[rows[1]["sample_id"]], find_copies=find_copies)
    assert seen == [20]
    assert passed(report)
    assert report.quarantine["rule"].tolist() == ["does_not_decode", "in_clean_set", *["near_copy"] * 3]
    assert report.quarantine["detail"].tolist()[2:] == [
        "nearly the same image is in the clean set",
        "nearly the same image is in the clean set",
        "nearly the same image is in the train set",
    ]
