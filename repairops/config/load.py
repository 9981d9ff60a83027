"""How a configuration is read: defaults, a preset, a YAML file, a team's policy for the gate, `key=value` overrides."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from repairops.config.options import Config
from repairops.errors import InvalidOption, UnknownOption, UnreadableConfiguration, UsageError, listing, one_of
from repairops.files import check_bounds, decode_text, read_file

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # A first look in a few minutes, on a CPU too.
    "quick": {"training": {"epochs": 2, "least_steps": 0, "epoch_images": 5000, "max_validation_images": 1000}},
    "default": {},
    # DeepRepair's Algorithm 1 and its training setting; see decision 3 for why it is not the default.
    "paper": {
        "method": {"recipe": "paper"},
        "guard": {"mode": "off"},
        "training": {"epochs": 500, "batch_size": 128, "learning_rate": 0.1, "weight_decay": 5e-4, "patience": 10},
    },
}
UNGUARDED = {"failure_share": 0.2, "style_share": 0.5}
_SWITCH = {**dict.fromkeys(("true", "yes", "on", "1"), True), **dict.fromkeys(("false", "no", "off", "0"), False)}
_BYTES, _VALUES = 2**20, 100_000  # of a file, at most
_OF_THE_FILE = ("policy", "policy_sha256")


def load_config(path: str | Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """The defaults, then a YAML file's values, then `key=value` overrides such as `training.epochs=3`.

    Raises UnknownOption, InvalidOption or UsageError, each naming the option.
    """
    values: dict[str, Any] = read_yaml(Path(path))[0] if path else {}
    for override in overrides:
        key, found, text = override.partition("=")
        if not found:
            raise UsageError(f"Override {override!r} has no '='. Write it as stage.option=value.")
        _put(values, key.strip(), text.strip())
    gate = values.get("gate")
    if isinstance(gate, dict) and gate.get("policy"):
        values["gate"] = with_policy(gate)
    return config_from_dict(values)


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """A configuration from nested plain values, each converted to its field's type or refused by name."""
    built: Config = _build(Config, with_shares(with_margin(with_preset(values))), prefix="")
    return built


def option_names(cls: type = Config, prefix: str = "") -> list[str]:
    """Dotted names of all options, for messages and docs."""
    names: list[str] = []
    for name, hint in get_type_hints(cls).items():
        nested = dataclasses.is_dataclass(hint)
        names += option_names(hint, f"{prefix}{name}.") if nested else [prefix + name]
    return names


def changed_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options by dotted name, of nested plain values, that differ from the defaults; the seed is none of them."""
    defaults, given = _flat(Config().to_dict()), _flat(values)
    return {name: v for name, v in given.items() if name != "seed" and (name not in defaults or defaults[name] != v)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def read_yaml(path: Path, depth: int = 10) -> tuple[dict[str, Any], str]:
    """The values by name in a YAML file, at most `depth` deep, and the sha256 of its bytes.

    Raises UnreadableConfiguration, also for a name that stands in one place twice, of which PyYAML takes the last.
    """
    import yaml

    class Once(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            if twice := [name for name, times in names.items() if times > 1]:
                raise yaml.constructor.ConstructorError(None, None, f"it has {twice[0]!r} twice", node.start_mark)
            return super().construct_mapping(node, deep)

    try:
        data = read_file(path, _BYTES)
        text = decode_text(data)
        if max(accumulate((mark in "[{") - (mark in "]}") for mark in text), default=0) > 10 * depth:
            raise RecursionError  # PyYAML's time grows with its square
        loaded = yaml.load(text, Once)  # noqa: S506
        check_bounds(loaded, depth=depth, items=_VALUES)
    except OSError as error:
        raise UnreadableConfiguration(path, error.strerror) from error
    except yaml.YAMLError as error:
        raise UnreadableConfiguration(path, f"it is not valid YAML ({' '.join(str(error).split())})") from error
    except RecursionError as error:
        raise UnreadableConfiguration(path, f"it is nested more than {depth} deep") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # From `check_bounds`, and from PyYAML what Python says of a number, a date or a tag that is none.
        raise UnreadableConfiguration(path, " ".join(str(error).split())[:200]) from error
    if not isinstance(loaded, dict | None):
        raise UnreadableConfiguration(path, f"it holds a {type(loaded).__name__}")
    return loaded or {}, hashlib.sha256(data).hexdigest()


def _put(values: dict[str, Any], key: str, text: str) -> None:
    *stages, name = key.split(".")
    for stage in stages:
        values = values.setdefault(stage, {})
        if not isinstance(values, dict):
            raise InvalidOption(key, text, "an option inside a stage")
    values[name] = text


def _build(cls: Any, values: Mapping[str, Any], prefix: str) -> Any:
    hints = get_type_hints(cls)
    built: dict[str, Any] = {}
    for name, value in values.items():
        option = f"{prefix}{name}"
        if name not in hints:
            inside = f".{next(iter(value))}" if isinstance(value, Mapping) and value else ""
            raise UnknownOption((option + inside)[:100], option_names())
        if not dataclasses.is_dataclass(hint := hints[name]):
            built[name] = _convert(option, value, hint)
        elif isinstance(value, Mapping):
            built[name] = _build(hint, value, f"{option}.")
        else:
            raise InvalidOption(option, value, "a stage with options below it")
    return cls(**built)


def _convert(option: str, value: Any, hint: Any) -> Any:
    origin = get_origin(hint)
    if origin is Literal:
        if isinstance(value, bool):  # YAML reads on and off as booleans
            value = "on" if value else "off"
        if value not in get_args(hint):
            raise InvalidOption(option, value, f"one of {', '.join(map(str, get_args(hint)))}")
        return value
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        return tuple(_convert(option, p.strip() if isinstance(p, str) else p, get_args(hint)[0]) for p in parts)
    if hint is bool:
        if str(value).lower() not in _SWITCH:
            raise InvalidOption(option, value, "true or false")
        return _SWITCH[str(value).lower()]
    if hint in (int, float):
        try:
            number = hint(value)
        except (TypeError, ValueError, OverflowError):  # int of infinity overflows
            number = math.nan
        cut = isinstance(value, float) and value != number
        if isinstance(value, bool) or cut or not abs(number) < math.inf:
            raise InvalidOption(option, value, "a whole number" if hint is int else "a number")
        return number
    if isinstance(value, Mapping | list | tuple | set):
        raise InvalidOption(option, value, "one text")
    return str(value)


def with_preset(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options, over those of the preset that they name (`preset`). Raises InvalidOption for an unknown one."""
    name = str(values.get("preset", "default"))
    if name not in PRESETS:
        raise InvalidOption("preset", name, one_of(name, PRESETS))
    merged = dict(values)
    for stage, options in PRESETS[name].items():
        given = values.get(stage, {})
        if isinstance(given, Mapping):  # anything else is refused where it is read
            merged[stage] = {**options, **given}
    return merged


def with_margin(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with `training.max_clean_drop` as large as `gate.margin_points` where only the latter is given.

    What chooses and what judges then allow the same loss: else a team with a wide margin would get timid repairs.
    """
    gate, training = values.get("gate", {}), values.get("training", {})
    if not isinstance(gate, Mapping) or not isinstance(training, Mapping) or "margin_points" not in gate:
        return dict(values)
    # The gate comes first, so that a number that is none is refused by the name that was given.
    return {"gate": gate, **values, "training": {"max_clean_drop": gate["margin_points"], **training}}


def with_shares(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with the shares of a training that keeps clean accuracy itself, where no guard does it.

    Behind a guard what the fine-tuned network forgets does not count, and it repairs more with fewer clean images.
    """
    guard, method = values.get("guard", {}), values.get("method", {})
    if not isinstance(guard, Mapping) or not isinstance(method, Mapping) or guard.get("mode") not in ("off", False):
        return dict(values)
    return {**values, "method": {**UNGUARDED, **method}}


def with_policy(gate: Mapping[str, Any]) -> dict[str, Any]:
    """The gate's options from the policy file that they name; nothing else may be said of the gate beside it.

    The file holds options of the gate by their names, without `gate.` before them. Its digest, sha256 of the bytes,
    becomes `policy_sha256`. Unknown names and wrong values are refused later, as all options are.

    Raises UsageError for options beside the file, for a file that cannot be read or is not the one that
    `policy_sha256` names, and for a policy that names a policy.
    """
    path = Path(str(gate["policy"]))
    beside = [f"gate.{name}" for name in gate if name not in _OF_THE_FILE]
    if beside:
        raise UsageError(
            f"The policy {path} decides on the gate, and {listing(beside)} is set beside it. Change the policy file, "
            "or go without --policy."
        )
    values, digest = read_yaml(path)
    if inside := [name for name in values if name in _OF_THE_FILE]:
        raise UsageError(f"The policy {path} holds {listing(inside)}; it must hold options of the gate alone.")
    wanted = str(gate.get("policy_sha256") or digest)
    if wanted != digest:
        raise UsageError(
            f"The policy {path} has the sha256 {digest[:16]}, not {wanted[:16]} as gate.policy_sha256 says. Take the "
            "file that was agreed on, or correct the digest."
        )
    return {**values, "policy": str(path), "policy_sha256": digest}
