import dataclasses
import json

import pytest

from repairops.config import Config, config_from_dict, derive_seed, load_config, option_names
from repairops.config.presets import PRESETS
from repairops.config.ranges import RANGES
from repairops.errors import InvalidOption, UnknownOption, UsageError


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
        ("clustering.per_class=perhaps", InvalidOption, "true or false"),
        ("gate.latency=optional", InvalidOption, "required, advisory, off"),
        ("training=3", InvalidOption, "a stage with options below it"),
        ("seed.x=3", InvalidOption, "seed"),
        ("model.mean=0.1,x", InvalidOption, r"model\.mean"),
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
        *("training.epochs=0", "training.learning_rate=-1", "training.learning_rate=0", "training.batch_size=0"),
        *("training.validation_fraction=1", "training.ema=1", "training.epoch_images=-1", "training.crop_padding=-2"),
        *("training.max_minutes=-1", "training.max_clean_drop=-0.1", "training.patience=-1", "training.workers=-2"),
        *("method.failure_share=-1", "method.population=0", "method.cutout_side=0", "method.chains=0"),
        *("method.style_share=1.1", "method.trial_share=1", "method.mix_alpha=0", "method.severity=11"),
        *("style.alpha=1.5", "style.levels=5", "clustering.clusters=0", "clustering.restarts=0"),
        *("split.heldout_fraction=1", "split.clean_validation_fraction=-0.1", "validation.max_class_share=2"),
        *("images.max_image_pixels=0", "gate.confidence=95"),
    ],
)
def test_a_number_out_of_its_range_is_named_with_the_range(option):
    name, _, value = option.partition("=")
    with pytest.raises(InvalidOption, match=rf"^Option {name} is {float(value):g}(\.0)?; it must be (.*\d|positive)"):
        load_config(overrides=[option])


def test_every_range_belongs_to_a_number_of_a_stage_and_holds_its_default():
    options = Config()
    for stage, ranges in RANGES.items():
        for name, (low, high, _) in ranges.items():
            assert low <= getattr(getattr(options, stage), name) <= high
            with pytest.raises(InvalidOption, match=rf"{stage}\.{name}"):
                dataclasses.replace(getattr(options, stage), **{name: float("nan")})


def test_on_and_off_in_yaml_are_words_where_words_are_wanted(tmp_path):
    file = tmp_path / "repair.yaml"
    file.write_text("training: {amp: off}\ngate: {latency: off}\n")
    config = load_config(file)
    assert (config.training.amp, config.gate.latency) == ("off", "off")


def test_a_configuration_survives_a_round_trip_through_json():
    config = load_config(overrides=["model.std=0.2,0.3,0.4", "gate.margin_points=1", "seed=9"])
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


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
    assert len(names) == len(set(names))
    fields = [
        f
        for stage in dataclasses.fields(Config)
        if stage.name not in ("seed", "preset")
        for f in dataclasses.fields(getattr(Config(), stage.name))
    ]
    assert len(names) == 2 + len(fields)


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
