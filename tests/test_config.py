import dataclasses
import hashlib
import json
import os
from typing import Any

import pytest

from repairops.config import (
    Config,
    SplitConfig,
    config_from_dict,
    derive_seed,
    load_config,
    looser_than_default,
    option_names,
)
from repairops.config.fields import PART, POSITIVE, Range
from repairops.config.load import PRESETS
from repairops.errors import InvalidOption, UnknownOption, UnreadableConfiguration, UsageError


def test_defaults_then_file_then_overrides(tmp_path):
    file = tmp_path / "repair.yaml"
    file.write_text("seed: 3\ntraining:\n  epochs: 9\n  learning_rate: 1e-3\nmodel:\n  class_names: [cat, dog]\n")
    config = load_config(file, ["training.epochs=2", "clustering.per_class=yes", "model.mean=0.1, 0.2,0.3"])
    assert (config.seed, config.training.epochs, config.training.learning_rate) == (3, 2, 1e-3)
    assert config.clustering.per_class is True
    assert config.model.mean == (0.1, 0.2, 0.3)
    assert config.model.class_names == ("cat", "dog")
    assert config.gate == Config().gate
    assert load_config() == Config()


def test_an_empty_file_is_the_defaults(tmp_path):
    file = tmp_path / "repair.yaml"
    file.write_text("# nothing\n")
    assert load_config(file) == Config()


def test_values_may_hold_an_equals_sign():
    assert load_config(overrides=["model.factory=a.b:c=d"]).model.factory == "a.b:c=d"


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("training.epochs", UsageError, "has no '='"),
        ("training.epoch=3", UnknownOption, r"training\.epoch"),
        ("trainings.epochs=3", UnknownOption, "trainings"),
        ("training.epochs=3.5", InvalidOption, "whole number"),
        ("training.epochs=three", InvalidOption, "whole number"),
        ("training.learning_rate=nan", InvalidOption, "a number"),
        ("gate.margin_points=inf", InvalidOption, "a number"),
        ("training.epochs=inf", InvalidOption, "whole number"),
        (f"training.epochs={10**400}", InvalidOption, "1 or more"),
        ("clustering.per_class=perhaps", InvalidOption, "true or false"),
        ("gate.latency=optional", InvalidOption, "required, advisory, off"),
        ("training=3", InvalidOption, "a stage with options below it"),
        ("seed.x=3", InvalidOption, "seed"),
        ("model.mean=0.1,x", InvalidOption, r"model\.mean"),
        ("model.image_size=1,2,3", InvalidOption, "height and width, or one number"),
        (f"seed={10**400}", InvalidOption, "seed is a whole number of about 398 digits; it must be .* 18 digits"),
        (f"training.epochs={'9' * 5000}", InvalidOption, r"is '999+\.\.\.9+'; it must be a whole number"),
        (f"{'x' * 5000}=3", UnknownOption, r"^Unknown option 'x{100}'"),
    ],
)
def test_a_wrong_option_is_refused_by_name(override, error, message):
    with pytest.raises(error, match=message):
        load_config(overrides=[override])


@pytest.mark.parametrize("text", ["- a\n- b\n", "3\n", "a: [\n"])
def test_a_file_that_holds_no_stages_is_refused(text, tmp_path):
    file = tmp_path / "repair.yaml"
    file.write_text(text)
    with pytest.raises(UsageError):
        load_config(file)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("training: {epochs: 3} # é".encode("latin-1"), "line 1 holds the byte 0xe9, which is not UTF-8"),
        ("seed: 3".encode("utf-16"), "it is UTF-16"),
        (b"\x89PNG\r\n\x1a\n\0", "0x89"),
        (b"seed: \0", "a NUL"),
        (b"a: " + b"[" * 900 + b"]" * 900, "nested more than 10 deep"),
        (b"[" * 20_000, "nested more than 10 deep"),
        (b"a: &a [*a]", "nested more than 10 deep"),
        (LAUGHS.encode(), "more than 100,000 values"),
        (b"seed: 1" + b"0" * 5000, "digits"),
        (b"training: {epochs: 2001-99-99}", "month must be in"),
        (b"training: {epochs: !!timestamp x}", "cannot be read"),
        (b'model: {factory: "\\ud800"}', "half a character"),
        (b"- a", "it holds a list"),
        (b"margin_points: 1\nmargin_points: 9", "it has 'margin_points' twice"),
    ],
    ids=range(14),
)
def test_a_file_that_cannot_be_read_is_refused_as_configuration_and_as_policy(data, said, tmp_path):
    file = tmp_path / "file.yaml"
    file.write_bytes(data)
    with pytest.raises(UnreadableConfiguration, match=said):
        load_config(file)
    with pytest.raises(UnreadableConfiguration, match=said):
        load_config(overrides=[f"gate.policy={file}"])


@pytest.mark.parametrize("value", [["a", "b"], {"a": 1}])
def test_a_text_is_no_list(value):
    with pytest.raises(InvalidOption, match=r"style\.weights is .*; it must be one text"):
        config_from_dict({"style": {"weights": value}})


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path):
        with pytest.raises(UnreadableConfiguration, match="no regular file"):
            load_config(path)


def test_a_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")


def test_infinity_in_yaml_is_refused(tmp_path):
    file = tmp_path / "repair.yaml"
    for text in ("training: {epochs: .inf}", "training: {learning_rate: .inf}", "training: {epochs: .nan}"):
        file.write_text(text)
        with pytest.raises(InvalidOption, match=r"training\."):
            load_config(file)


@pytest.mark.parametrize(
    "option",
    [
        *("training.epochs=0", "training.learning_rate=-1", "training.batch_size=0"),
        *("training.validation_fraction=1", "training.ema=1", "training.epoch_images=-1", "training.crop_padding=-2"),
        *("training.max_minutes=-1", "training.max_clean_drop=-0.1", "training.patience=-1", "training.workers=-2"),
        *("method.failure_share=-1", "method.population=0", "method.cutout_side=0", "method.chains=0"),
        *("method.style_share=1.1", "method.trial_share=1", "method.mix_alpha=0", "method.severity=11"),
        *("style.alpha=1.5", "style.levels=5", "clustering.clusters=0", "clustering.restarts=0"),
        *("split.heldout_fraction=1", "split.clean_validation_fraction=-0.1", "validation.max_class_share=2"),
        *("images.max_image_pixels=0", "gate.confidence=95", "split.near_duplicate_similarity=7", "model.channels=-3"),
        *("model.channels=2",),
    ],
)
def test_a_number_out_of_its_range_is_named_with_the_range(option):
    name, _, value = option.partition("=")
    with pytest.raises(InvalidOption, match=rf"^Option {name} is {float(value):g}(\.0)?; it must be (.*\d|positive)"):
        load_config(overrides=[option])


STAGES = {f.name: getattr(Config(), f.name) for f in dataclasses.fields(Config) if f.name not in ("seed", "preset")}


@pytest.mark.parametrize("stage", STAGES)
def test_every_number_of_a_stage_and_no_other_option_has_a_range_which_holds_its_default(stage):
    for field in dataclasses.fields(STAGES[stage]):
        numbers, number = field.metadata["numbers"], any(kind in field.type for kind in ("int", "float"))
        assert (numbers is not None) == number, field.name
        if number:
            listed = field.type.startswith("tuple")
            default = field.default if listed else [field.default]
            assert all(numbers.holds(value) for value in default)
            for wrong in (float("nan"), float("inf")):
                with pytest.raises(InvalidOption, match=rf"^Option {stage}\.{field.name} is .*; it must be"):
                    dataclasses.replace(STAGES[stage], **{field.name: (1.0, wrong) if listed else wrong})


def test_a_range_holds_its_ends_and_nothing_beyond():
    assert [PART.holds(x) for x in (-1e-9, 0, 0.999, 1)] == [False, True, True, False]
    assert [POSITIVE.holds(x) for x in (0, 1e-300, 1e300)] == [False, True, True]
    few = Range("1 or 3", only=(1, 3))
    assert [few.holds(x) for x in (0, 1, 2, 3)] == [False, True, False, True]


def test_a_stage_checks_single_options_by_name():
    SplitConfig.check(heldout_fraction=0.5, validation_fraction=0)
    with pytest.raises(InvalidOption, match=r"split\.heldout_fraction is 1; it must be at least 0 and below 1"):
        SplitConfig.check(heldout_fraction=1)
    with pytest.raises(KeyError):
        SplitConfig.check(heldout=0.5)


@pytest.mark.parametrize("option", ["model.image_size=-4", "model.image_size=32,0", "model.std=1,0", "model.std=-1"])
def test_each_number_of_a_list_is_in_the_range_of_its_option(option):
    with pytest.raises(
        InvalidOption, match=rf"^Option {option.partition('=')[0]} is \(.*\); it must be (1 or more|positive)"
    ):
        load_config(overrides=[option])


@pytest.mark.parametrize("value", [3.5, True, None, [3], "3.0"])
def test_a_value_of_yaml_that_is_no_whole_number_is_refused(value):
    with pytest.raises(InvalidOption, match=r"training\.epochs .* a whole number"):
        config_from_dict({"training": {"epochs": value}})
    assert config_from_dict({"training": {"epochs": 3.0}}).training.epochs == 3


def test_on_and_off_in_yaml_are_words_where_words_are_wanted(tmp_path):
    file = tmp_path / "repair.yaml"
    file.write_text("training: {amp: off}\ngate: {latency: off}\n")
    config = load_config(file)
    assert (config.training.amp, config.gate.latency) == ("off", "off")


def test_a_configuration_survives_a_round_trip_through_json():
    config = load_config(overrides=["model.std=0.2,0.3,0.4", "gate.margin_points=1", "seed=9"])
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_digest_is_of_canonical_json():
    """It is part of every job's key: where its form or a default changes, jobs that were done are done again."""
    values = Config().to_dict()
    free = [("images", "memory_limit_mb"), ("images", "cache_mb"), ("validation", "data_docs")]
    free += [("training", "device"), ("training", "workers")]
    free += [("gate", "policy"), ("gate", "policy_sha256"), ("register", "alias"), ("register", "promote")]
    for stage, name in free:
        del values[stage][name]
    del values["preset"]
    assert Config().digest() == hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def test_the_digest_names_what_affects_the_result_only():
    digest = Config().digest()
    assert digest == load_config(overrides=["training.device=cpu", "images.memory_limit_mb=1"]).digest()
    for override in ("seed=1", "training.epochs=6", "gate.margin_points=1", "style.name=subband_wct"):
        assert load_config(overrides=[override]).digest() != digest
    assert len(digest) == 64


def test_equal_numbers_give_one_digest_however_they_are_written():
    assert (
        load_config(overrides=["gate.margin_points=1"]).digest()
        == load_config(overrides=["gate.margin_points=1.0"]).digest()
    )
    assert (
        config_from_dict({"gate": {"margin_points": 1}}).digest()
        == config_from_dict({"gate": {"margin_points": 1.0}}).digest()
    )


def test_every_field_is_an_option():
    names = option_names()
    assert "seed" in names
    assert "gate.margin_points" in names
    fields = [f"{stage}.{field.name}" for stage, options in STAGES.items() for field in dataclasses.fields(options)]
    assert names == ["seed", "preset", *fields]


def test_derived_seeds_differ_by_seed_and_name_and_stay():
    seeds = {derive_seed(s, *names) for s in (0, 1) for names in (("a",), ("b",), ("a", "b"), ("ab",))}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "split") == 1783370809290332293  # an old job's split can be made again


def test_a_preset_fills_in_what_is_not_given() -> None:
    quick, paper = (load_config(overrides=[f"preset={name}", "training.epochs=7"]) for name in ("quick", "paper"))
    assert (quick.training.epochs, quick.training.epoch_images) == (7, 5000)
    assert (paper.training.epochs, paper.training.batch_size, paper.method.recipe) == (7, 128, "paper")
    assert load_config(overrides=["preset=default"]).digest() == Config().digest()
    assert load_config(overrides=["preset=quick"]).digest() != Config().digest()


def test_what_chooses_allows_the_loss_that_the_gate_allows() -> None:
    wide = load_config(overrides=["training.epochs=7", "gate.margin_points=2"])
    assert (wide.training.epochs, wide.training.max_clean_drop) == (7, 2.0)
    assert load_config(overrides=["gate.margin_points=2", "training.max_clean_drop=0.3"]).training.max_clean_drop == 0.3
    assert load_config(overrides=["gate.class_margin_points=2"]).training.max_clean_drop == 0.5
    assert Config().training.max_clean_drop == Config().gate.margin_points
    with pytest.raises(InvalidOption, match=r"gate\.margin_points"):
        load_config(overrides=["training.epochs=7", "gate.margin_points=wide"])


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_configuration_whose_values_stand_in_it(name: str) -> None:
    config = load_config(overrides=[f"preset={name}"])
    for stage, values in PRESETS[name].items():
        assert values.items() <= dataclasses.asdict(getattr(config, stage)).items()


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidOption, match=r"preset is 'fast'.*quick, default, paper"):
        load_config(overrides=["preset=fast"])


def test_without_a_guard_the_training_keeps_clean_accuracy_by_more_clean_images() -> None:
    def shares(*overrides: str) -> tuple[float, float]:
        method = load_config(overrides=overrides).method
        return method.style_share, method.failure_share

    assert shares() == shares("guard.mode=on") == (0.75, 0.4)
    assert shares("guard.mode=off") == (0.5, 0.2)
    assert shares("guard.mode=off", "method.style_share=0.6") == (0.6, 0.2)
    assert shares("preset=paper")[0] == 0.5
    assert config_from_dict({"guard": {"mode": False}}).method.failure_share == 0.2


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"margin_points": 0.1, "confidence": 0.99, "min_repair_rate": 0.9, "latency": "required"}, []),  # all stricter
        ({"clean_slices": "site", "corruption_images": 10}, []),  # no limits
        ({"confidence": 0.9, "repair_rate": "advisory", "latency": "off"}, ["confidence", "repair_rate", "latency"]),
        ({"max_latency_ratio": 3.0, "margin_points": 2.0}, ["margin_points", "max_latency_ratio"]),
        ({"parity_tolerance": 1.0, "min_repair_rate": 0.1}, ["min_repair_rate", "parity_tolerance"]),
    ],
)
def test_limits_that_are_looser_than_the_default(changes: dict[str, Any], found: list[str]) -> None:
    policy = dataclasses.replace(Config().gate, **changes)
    looser = looser_than_default(policy)
    assert [each.name for each in looser] == found
    assert all(each.value == changes[each.name] != each.default for each in looser)
