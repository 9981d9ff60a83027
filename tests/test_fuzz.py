"""Damaged files of every kind: each is read, or refused by an error of our own, in seconds and without much memory.

REPAIROPS_FUZZ sets how many of each kind a long run tries (`pytest -m slow`), REPAIROPS_FUZZ_SEED the first seed.
"""

from __future__ import annotations

import json
import os
import random
import struct
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from fuzz_helpers import (
    TEXTS,
    damaged_bytes,
    damaged_image,
    damaged_values,
    peak_memory,
    some_image,
    some_parquet,
)
from safetensors.torch import save_file
from store_helpers import CLASSES, SPEC, TinyNet, digits

from repairops.cli import main
from repairops.cli.log import load_network
from repairops.config import Config, ImagesConfig, ModelConfig, load_config
from repairops.core.styles.wct2 import load_weights
from repairops.core.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from repairops.data.decoding import decode_image, encode_png, file_id, peek_shape
from repairops.data.records import InputSpec
from repairops.data.sets import load_image_set, peek_image_size
from repairops.data.sources import peek_class_names, read_column
from repairops.errors import OutcomeUnreadable, RepairError
from repairops.outcome import read_outcome
from repairops.report import render_terminal
from repairops.store.champion import open_champion
from repairops.store.failure_files import rows_from_path
from repairops.store.failure_rows import FailureRows
from repairops.store.flavors import ClassifierFlavors
from repairops.store.models import ModelRef
from repairops.validation.facts import gather

SECONDS, BYTES, LONGEST = 5, 10**9, 4000  # LONGEST: characters of a message
SHORT, LONG = 12, int(os.environ.get("REPAIROPS_FUZZ", "300"))
SEED = int(os.environ.get("REPAIROPS_FUZZ_SEED", "0"))
CAPS = {"max_pixels": ImagesConfig().max_image_pixels, "max_bytes": ImagesConfig().max_image_bytes}
Trial = Callable[[Path, random.Random], None]  # makes one damaged file in an empty folder's place, and reads it


def judged(rows: FailureRows) -> None:
    """What validation finds out about rows: one that cannot be used is quarantined, and none is fatal."""
    answers = lambda pixels: (np.zeros(len(pixels), np.int64), np.ones(len(pixels), np.float32))  # noqa: E731
    facts = gather(rows.frame(), SPEC, answers, {}, ImagesConfig())
    assert len(facts.holds) == len(rows)
    assert rows.digest()


def failure_csv(folder: Path, draw: random.Random) -> None:
    names = ["file", "label", "predicted", "confidence", "captured_at", "source", "group"]
    lines = [names, *(["0.png", "zero", "one", "0.5", "2024-05-06", "camera", "a"] for _ in range(5))]
    (folder / "0.png").write_bytes(PNG)
    kind, coding = draw.randrange(4), "utf-8"
    if kind == 0:  # a value
        for _ in range(draw.choice((1, 2, 4))):
            draw.choice(lines)[draw.randrange(7)] = draw.choice(TEXTS)
    elif kind == 1:  # a line
        line = draw.choice(lines)
        line[draw.randrange(7) :] = draw.choice((line[:1], line[-2:], [], ["a"] * 8))
    elif kind == 2:  # what a spreadsheet does
        coding = draw.choice(("utf-8-sig", "utf-16", "utf-16-le", "latin-1"))
        lines[1][1] = draw.choice(("zéro", "zero"))
    mark = draw.choice(",,,,,;\t")
    data = ("\r\n" if draw.random() < 0.2 else "\n").join(mark.join(line) for line in lines).encode(coding, "replace")
    (folder / "failures.csv").write_bytes(damaged_bytes(data, draw) if kind == 3 else data)
    judged(rows_from_path(folder))


def failure_parquet(folder: Path, draw: random.Random) -> None:
    judged(rows_from_path(damaged_parquet(folder, draw)))


def set_parquet(folder: Path, draw: random.Random) -> None:
    load_image_set(damaged_parquet(folder, draw), SPEC, ImagesConfig(), cache_dir=folder)


def names_of_parquet(folder: Path, draw: random.Random) -> None:
    path = damaged_parquet(folder, draw)
    peek_image_size(path)
    read_column(path, "label", "gate.clean_slices")
    peek_class_names(path)


def damaged_parquet(folder: Path, draw: random.Random) -> Path:
    path = folder / "field.parquet"
    some_parquet(path, PNG, draw)
    if draw.random() < 0.3:
        path.write_bytes(damaged_bytes(path.read_bytes(), draw))
    return path


def image(folder: Path, draw: random.Random) -> None:
    data = some_image(draw)
    data = damaged_image(data, draw) if draw.random() < 0.7 else data
    file_id(data)
    peek_shape(data, **CAPS)
    spec = InputSpec(draw.choice((1, 3)), 224, 224, CLASSES, resize=draw.choice(("exact", "stretch", "center_crop")))
    assert decode_image(data, spec, **CAPS).shape == (spec.channels, 224, 224)


def configuration(folder: Path, draw: random.Random) -> None:
    values = Config().to_dict()
    del values["gate"]["policy_sha256"]
    damage(folder / "repair.yaml", values, draw, lambda v: yaml.dump(v).encode("utf-8", "surrogatepass"))
    load_config(folder / "repair.yaml")


def policy(folder: Path, draw: random.Random) -> None:
    values = {k: v for k, v in Config().to_dict()["gate"].items() if not k.startswith("policy")}
    damage(folder / "policy.yaml", values, draw, lambda v: yaml.dump(v).encode("utf-8", "surrogatepass"))
    load_config(overrides=[f"gate.policy={folder / 'policy.yaml'}"])


def outcome(folder: Path, draw: random.Random) -> None:
    kept = json.loads((Path(__file__).parent / "outcomes" / f"schema{draw.choice((1, 2))}.json").read_text())
    damage(folder / "outcome.json", kept, draw, lambda v: json.dumps(v).encode())
    result = CliRunner().invoke(main, ["gate", str(folder / "outcome.json"), "--json"])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert render_terminal(read_outcome(folder / "outcome.json").record)
    if result.exit_code == 1 and result.stderr:  # read, and not judged
        raise OutcomeUnreadable(folder, result.stderr.strip())


def model(folder: Path, draw: random.Random) -> None:
    made = folder.parent / "model"
    if not made.exists():
        from mlflow.models import Model

        described = Model(metadata={"repairops": {"input": SPEC.to_dict()}})
        ClassifierFlavors(TinyNet(), SPEC, "pickle").save_model(str(made), described)
    file, kept = made / "MLmodel", folder.parent / "MLmodel"
    if not kept.exists():
        kept.write_bytes(file.read_bytes())
    damage(file, yaml.safe_load(kept.read_text()), draw, lambda v: yaml.dump(v).encode("utf-8", "surrogatepass"))
    open_champion(ModelRef("cls", "1", "", ""), ModelConfig(), made)


def safetensors(folder: Path, draw: random.Random) -> None:
    state = TinyNet().state_dict()
    floats = {name: value for name, value in state.items() if value.is_floating_point()}
    path = save_checkpoint(folder, Checkpoint("fingerprint", floats, floats, {}, [{"epoch": 0.0}]))
    readers: tuple[Callable[[], object], ...] = (
        lambda: load_checkpoint(folder, "fingerprint"),
        lambda: load_network("store_helpers:TinyNet", str(path)),
        lambda: load_weights(str(path)),
    )
    if (reader := draw.choice(readers)) is not readers[0]:
        save_file(state, path)
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.dumps(damaged_values(json.loads(data[8 : 8 + size]), draw)).encode()
    changed = struct.pack("<Q", len(header)) + header + data[8 + size :]
    path.write_bytes(changed if draw.random() < 0.5 else damaged_bytes(data, draw))
    reader()


def damage(path: Path, values: Any, draw: random.Random, write: Callable[[Any], bytes]) -> None:
    """Writes values with some damage to themselves, or to the bytes that they become."""
    sound = write(values)
    path.write_bytes(write(damaged_values(values, draw)) if draw.random() < 0.5 else damaged_bytes(sound, draw))


TRIALS: tuple[Trial, ...] = (
    *(failure_csv, failure_parquet, set_parquet, names_of_parquet, image),
    *(configuration, policy, outcome, model, safetensors),
)
PNG = encode_png(torch.from_numpy(digits(1))[:1])


def tried(trial: Trial, count: int, folder: Path, capfd: pytest.CaptureFixture[str]) -> Counter[str]:
    """How many of `count` seeded trials were read, by the error that refused the others."""
    found: Counter[str] = Counter()
    with warnings.catch_warnings(), peak_memory() as risen:
        warnings.simplefilter("ignore")
        for seed in range(SEED, SEED + count):
            place = folder / str(seed)
            place.mkdir()
            start = time.process_time()
            try:
                trial(place, random.Random(f"{trial.__name__} {seed}"))
                found["read"] += 1
            except RepairError as error:
                found[type(error).__name__ if len(str(error)) < LONGEST else f"too long, seed {seed}"] += 1
            except BaseException as error:
                error.add_note(f"{trial.__name__}, seed {seed}")
                raise
            assert time.process_time() - start < SECONDS, seed
            assert risen() < BYTES, seed
    assert capfd.readouterr().err == ""
    assert not [name for name in found if name.startswith("too long")]
    return found


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.__name__)
def test_damage_is_read_or_refused(trial: Trial, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    count = SHORT // 3 if trial in (outcome, model) else SHORT  # these take their time
    assert tried(trial, count, tmp_path, capfd).total() == count


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.__name__)
def test_much_damage_is_read_or_refused(trial: Trial, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = tried(trial, LONG, tmp_path, capfd)
    print(f"{trial.__name__}: {dict(found)}")
    assert 0 < found["read"] < LONG
