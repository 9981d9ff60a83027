"""References to registered models, `log_model`, and loading what was logged."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.models import Model
from store_helpers import (
    CLASSES,
    COLOUR_SPEC,
    SPEC,
    DictNet,
    TinyNet,
    add_version,
    in_processes,
    load,
    unit_images,
)
from torch import Tensor, nn
from torch.fx import GraphModule
from torchvision.transforms import Normalize

from repairops.config import ModelConfig
from repairops.data.records import InputSpec
from repairops.errors import (
    AmbiguousModel,
    DatasetNotFound,
    InvalidInputSpec,
    InvalidOption,
    MetadataUnusable,
    MissingInputSpec,
    ModelNotFound,
    NetworkFails,
    NoGradient,
    NotAClassifier,
    NotFineTunable,
    NotTraceable,
    PickleRefused,
    UsageError,
)
from repairops.model.network import Classifier
from repairops.promotion.history import history
from repairops.promotion.log_model import log_model
from repairops.store.champion import code_paths, input_spec, open_champion
from repairops.store.connection import connect
from repairops.store.flavors import ClassifierFlavors
from repairops.store.models import ModelRef, existing_models, resolve_model, version_at

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's hints on pickle and stages

# References


@pytest.fixture
def client(registry: str) -> MlflowClient:
    return connect()


def found(reference: str, client: MlflowClient) -> tuple[str, str, str]:
    ref = resolve_model(reference, client)
    return ref.name, ref.version, ref.alias


def to_stage(client: MlflowClient, name: str, version: str, stage: str) -> None:
    client.transition_model_version_stage(name, version, stage)


def test_environment_is_an_alias_of_the_model(client: MlflowClient) -> None:
    add_version(client, "cls", "prod")
    add_version(client, "cls", "staging-eu")
    assert found("prod/cls", client) == ("cls", "1", "prod")
    assert found("staging-eu/cls", client) == ("cls", "2", "staging-eu")
    assert found("cls@prod", client) == ("cls", "1", "prod")


def test_environment_is_else_a_legacy_stage_and_its_newest_version(client: MlflowClient) -> None:
    for _ in range(3):
        add_version(client, "cls")
    to_stage(client, "cls", "1", "Production")
    to_stage(client, "cls", "2", "Production")
    to_stage(client, "cls", "3", "Staging")
    assert found("Production/cls", client) == ("cls", "2", "")
    assert found("production/cls", client) == ("cls", "2", "")
    assert found("staging/cls", client) == ("cls", "3", "")


def test_environment_is_else_part_of_the_models_name(client: MlflowClient) -> None:
    add_version(client, "prod.cls", "champion")
    assert found("prod/cls", client) == ("prod.cls", "1", "champion")


def test_alias_wins_over_stage_and_stage_over_name(client: MlflowClient) -> None:
    add_version(client, "Production.cls", "champion")
    assert found("Production/cls", client) == ("Production.cls", "1", "champion")
    add_version(client, "cls")
    to_stage(client, "cls", "1", "Production")
    assert found("Production/cls", client) == ("cls", "1", "")
    add_version(client, "cls", "Production")
    assert found("Production/cls", client) == ("cls", "2", "Production")


def test_aliases_are_case_sensitive(client: MlflowClient) -> None:
    add_version(client, "cls", "prod")
    with pytest.raises(ModelNotFound, match="alias 'Prod' of 'cls'"):
        resolve_model("Prod/cls", client)


def test_mlflow_uris(client: MlflowClient) -> None:
    for _ in range(11):
        add_version(client, "cls")
    client.set_registered_model_alias("cls", "prod", "3")
    to_stage(client, "cls", "4", "Production")
    assert found("models:/cls/1", client) == ("cls", "1", "")
    assert found("models:/cls@prod", client) == ("cls", "3", "prod")
    assert found("models:/cls/Production", client) == ("cls", "4", "")
    assert found("models:/cls/latest", client) == ("cls", "11", "")  # by number: as text, 9 would be the last


def test_model_id(client: MlflowClient) -> None:
    logged = client.create_logged_model("0")
    add_version(client, "other")
    add_version(client, "cls")
    with pytest.raises(ModelNotFound, match=f"versions made from {logged.model_id}"):
        resolve_model(f"models:/{logged.model_id}", client)
    client.create_model_version("cls", f"models:/{logged.model_id}", model_id=logged.model_id)
    assert found(f"models:/{logged.model_id}", client) == ("cls", "2", "")
    client.create_model_version("other", f"models:/{logged.model_id}", model_id=logged.model_id)
    with pytest.raises(AmbiguousModel, match=r"models:/cls/2.*models:/other/2|models:/other/2.*models:/cls/2"):
        resolve_model(f"models:/{logged.model_id}", client)


def test_bare_name_is_ambiguous_and_lists_its_aliases(client: MlflowClient) -> None:
    add_version(client, "cls", "prod")
    add_version(client, "cls", "challenger")
    with pytest.raises(AmbiguousModel) as caught:
        resolve_model("cls", client)
    assert "cls@prod (version 1)" in str(caught.value)
    assert "cls@challenger (version 2)" in str(caught.value)


def test_missing_model_lists_what_was_tried_and_what_exists(client: MlflowClient) -> None:
    add_version(client, "signs", "prod")
    add_version(client, "signs", "challenger")
    add_version(client, "idle")
    with pytest.raises(ModelNotFound) as caught:
        resolve_model("prod/cls", client)
    message = str(caught.value)
    for tried in ("alias 'prod' of 'cls'", "stage 'prod' of 'cls'", "alias 'champion' of 'prod.cls'"):
        assert tried in message
    assert "signs (challenger -> 2, prod -> 1)" in message
    assert "idle (no alias)" in message


def test_what_does_not_exist_is_not_found(client: MlflowClient) -> None:
    add_version(client, "cls")
    bare = ("", "/", "cls", "prod/", "/cls", "cls@", "a/b/c", "a@b@c", "prod/team/cls", "prod/cl's")
    uris = ("", "cls", "cls/9", "cls/Nowhere", "cls@x", "other/latest", "m-0123456789abcdef")
    for reference in (*bare, *(f"models:/{uri}" for uri in uris)):
        with pytest.raises(ModelNotFound, match="The registry has: cls") as caught:
            resolve_model(reference, client)
        assert repr(reference) in str(caught.value)


def test_empty_registry_says_so(client: MlflowClient, registry: str) -> None:
    assert existing_models(client) == [f"no model ({registry})"]
    with pytest.raises(ModelNotFound, match=r"The registry has: no model \(sqlite:///.*mlflow\.db\)"):
        resolve_model("prod/cls", client)


def test_source_run_is_part_of_the_reference(client: MlflowClient) -> None:
    run_id = client.create_run("0").info.run_id
    add_version(client, "cls", "prod", run_id=run_id)
    ref = resolve_model("prod/cls", client)
    assert (ref.run_id, ref.uri, str(ref)) == (run_id, "models:/cls/1", "version 1 of 'cls'")
    assert version_at(client, "cls", "prod") == "1"
    assert version_at(client, "cls", "nobody") is None


# log_model


def test_log_model_registers_moves_the_alias_and_ends_its_run(client: MlflowClient) -> None:
    first = log_model(TinyNet(), "cls", SPEC)
    second = log_model(TinyNet(seed=1), "cls", SPEC, alias="")
    assert first == ModelRef("cls", "1", "prod", first.run_id)
    assert (second.version, second.alias) == ("2", "")
    assert version_at(client, "cls", "prod") == "1"
    third = log_model(TinyNet(seed=2), "cls", SPEC)
    assert version_at(client, "cls", "prod") == third.version == "3"
    assert [(move.kind, move.version_from, move.version_to) for move in history("cls")] == [
        ("logged", "", "1"),
        ("logged", "1", "3"),
    ]
    assert client.get_run(first.run_id).info.status == "FINISHED"
    assert mlflow.active_run() is None


def test_log_model_adopts_the_active_run_and_leaves_it_open(client: MlflowClient) -> None:
    with mlflow.start_run() as run:
        ref = log_model(TinyNet(), "cls", SPEC)
        assert ref.run_id == run.info.run_id
        active = mlflow.active_run()
        assert active is not None
        assert active.info.run_id == run.info.run_id
    assert client.get_model_version("cls", "1").run_id == run.info.run_id


def test_log_model_uses_the_experiment_that_the_user_set(client: MlflowClient) -> None:
    experiment = mlflow.set_experiment("my models")
    ref = log_model(TinyNet(), "cls", SPEC)
    assert client.get_run(ref.run_id).info.experiment_id == experiment.experiment_id


def test_log_model_takes_the_tracking_uri(client: MlflowClient, registry: str) -> None:
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    log_model(TinyNet(), "cls", SPEC, tracking_uri=registry)
    assert version_at(client, "cls", "prod") == "1"


@pytest.mark.parametrize(
    "spec",
    [COLOUR_SPEC, dataclasses.replace(SPEC, class_names=("a", "b")), dataclasses.replace(SPEC, height=9)],
    ids=["channels", "classes", "size"],
)
def test_log_model_refuses_a_specification_that_the_network_does_not_fit(client: MlflowClient, spec: InputSpec) -> None:
    with pytest.raises(NotAClassifier):
        log_model(TinyNet(), "cls", spec)
    assert client.search_registered_models() == []
    assert mlflow.search_runs().empty


class Stubborn(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise AssertionError("not\ntoday")


def test_log_model_refuses_a_network_that_raises_anything(client: MlflowClient) -> None:
    with pytest.raises(NetworkFails, match="raises AssertionError in eval mode on images of 2x1x8x8: not today"):
        log_model(Stubborn(), "cls", SPEC)


def test_log_model_refuses_options_by_name(client: MlflowClient) -> None:
    with pytest.raises(InvalidOption, match="serialization_format"):
        log_model(TinyNet(), "cls", SPEC, serialization_format="torchscript")
    for name in ("", "prod/cls", "a:b"):
        with pytest.raises(InvalidOption, match="name"):
            log_model(TinyNet(), name, SPEC)
    with pytest.raises(InvalidOption, match="code_paths is 'nowhere'"):
        log_model(TinyNet(), "cls", SPEC, code_paths=["nowhere"])
    assert client.search_registered_models() == []


def test_a_failed_log_model_ends_its_run_as_failed(client: MlflowClient, tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound, match="nowhere"):
        log_model(TinyNet(), "cls", SPEC, clean_set=tmp_path / "nowhere")
    assert client.search_registered_models() == []
    assert list(mlflow.search_runs()["status"]) == ["FAILED"]
    assert mlflow.active_run() is None


def test_the_network_stays_usable_and_is_logged_in_eval_mode(client: MlflowClient, tmp_path: Path) -> None:
    network = TinyNet().train()
    ref = log_model(network, "cls", SPEC)
    assert not load(ref, tmp_path / "m").classifier.network.training


class Untraceable(TinyNet):
    """Its way depends on the values, which torch.export does not follow."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if float(x.sum()) > 1e9 else super().forward(-x)


def test_a_network_that_normalises_its_input_by_torchvision_is_logged_as_pt2(client: MlflowClient) -> None:
    network = nn.Sequential(Normalize(SPEC.mean, SPEC.std), TinyNet())
    assert log_model(network, "cls", SPEC, serialization_format="pt2").version == "1"


def test_log_model_refuses_pt2_of_a_network_that_cannot_be_traced(client: MlflowClient) -> None:
    with pytest.raises(NotTraceable, match=r"data-dependent.*serialization_format='pickle'"):
        log_model(Untraceable(), "cls", SPEC, serialization_format="pt2")
    assert client.search_registered_models() == []


# fetch_champion


@pytest.mark.parametrize("spec", [SPEC, COLOUR_SPEC], ids=["grey", "colour"])
def test_pickle_loads_as_the_original_class(client: MlflowClient, tmp_path: Path, spec: InputSpec) -> None:
    network = TinyNet(spec.channels)
    champion = load(log_model(network, "cls", spec), tmp_path / "m")
    assert type(champion.classifier.network) is TinyNet
    assert (champion.spec, champion.serialization_format, champion.frozen) == (spec, "pickle", ())
    assert champion.metadata["input"]["class_names"] == list(CLASSES)
    images = unit_images(spec.channels)
    with torch.no_grad():
        assert torch.equal(champion.classifier(images), Classifier(network, spec)(images))


def test_dict_outputs_are_read(client: MlflowClient, tmp_path: Path) -> None:
    champion = load(log_model(DictNet(), "cls", SPEC), tmp_path / "m")
    with torch.no_grad():
        assert torch.equal(champion.classifier(unit_images()), Classifier(TinyNet().eval(), SPEC)(unit_images()))


def test_pt2_is_traced_unless_a_factory_rebuilds_the_class(client: MlflowClient, tmp_path: Path) -> None:
    network = TinyNet(seed=3)
    ref = log_model(network, "cls", SPEC, serialization_format="pt2")
    images = unit_images()
    with torch.no_grad():
        expected = Classifier(network, SPEC)(images)
        traced = load(ref, tmp_path / "traced")
        assert isinstance(traced.classifier.network, GraphModule)
        assert (traced.frozen, traced.serialization_format) == ((), "pt2")
        torch.testing.assert_close(traced.classifier(images), expected)
        rebuilt = load(ref, tmp_path / "rebuilt", ModelConfig(factory="store_helpers:TinyNet"))
        assert rebuilt.serialization_format == "pt2"
        assert type(rebuilt.classifier.network) is TinyNet
        assert not rebuilt.classifier.network.training
        torch.testing.assert_close(rebuilt.classifier(images), expected)
    for factory, error, said in (
        ("store_helpers.TinyNet", UsageError, "package.module:function"),
        ("store_helpers:Nobody", NotFineTunable, "Nobody"),
        ("no_such_package:TinyNet", NotFineTunable, "no_such_package"),
        ("store_helpers:add_version", NotFineTunable, "add_version"),
        ("store_helpers:WideNet", NotFineTunable, "other weights"),
        ("builtins:dict", NotFineTunable, "it makes a dict"),
        ("sys:exit", NotFineTunable, "SystemExit"),
    ):
        with pytest.raises(error, match=said):
            load(ref, tmp_path / "wrong", ModelConfig(factory=factory))


def test_the_factory_is_remembered_with_the_model(client: MlflowClient, tmp_path: Path) -> None:
    ref = log_model(TinyNet(), "cls", SPEC, serialization_format="pt2", model_factory="store_helpers:TinyNet")
    assert type(load(ref, tmp_path / "m").classifier.network) is TinyNet


def test_pickles_are_refused_where_mlflow_is_told_so(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = log_model(TinyNet(), "pickled", SPEC)
    traced = log_model(TinyNet(), "traced", SPEC, serialization_format="pt2")
    for spelling in ("false", "0"):
        monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", spelling)
        with pytest.raises(PickleRefused, match="version 1 of 'pickled'"):
            load(pickled, tmp_path / "m")
        assert isinstance(load(traced, tmp_path / "n").classifier.network, GraphModule)
    for spelling in ("no", "Off", ""):
        monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", spelling)
        with pytest.raises(InvalidOption, match=f"is '{spelling}'; it must be true or 1, or false or 0"):
            load(pickled, tmp_path / "m")


class Sum(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def predict(self, context: object, model_input: list[float]) -> float:
        return sum(model_input)


def test_another_flavor_is_no_classifier(client: MlflowClient, tmp_path: Path) -> None:
    mlflow.pyfunc.log_model(name="m", python_model=Sum(), registered_model_name="table", pip_requirements=[])
    with pytest.raises(NotAClassifier, match="its flavors are python_function, not pytorch"):
        load(resolve_model("models:/table/1", client), tmp_path / "m")


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    ClassifierFlavors(TinyNet(), SPEC, "pickle").save_model(str(folder), Model(metadata={"repairops": {}}))
    return folder


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "its flavors are|MLmodel file is none"),
        ("- a", "MLmodel file is none that MLflow reads.*it holds a list"),
        ("\0", "MLmodel file is none"),
        ("flavors: 3", "MLmodel file is none"),
        ("flavors: {pytorch: {}}", "MLmodel file is none that MLflow reads .KeyError: 'model_data'"),
        ("flavors: {pytorch: 3}", "MLmodel file is none"),
        ("flavors: {pytorch: {model_data: data}}\nsignature: {inputs: '['}", "MLmodel file is none"),
        ("flavors: {pytorch: {model_data: data}}\nsignature: {inputs: 3}", "MLmodel file is none"),
        ("flavors: {pytorch: {model_data: data}}\nmetadata: 7", "MLmodel file is none"),
    ],
)
def test_an_mlmodel_file_that_is_none(saved_model: Path, tmp_path: Path, text: str, said: str) -> None:
    shutil.copytree(saved_model, tmp_path / "m")
    (tmp_path / "m" / "MLmodel").write_text(text)
    with pytest.raises(NotAClassifier, match=said):
        open_champion(ModelRef("cls", "1", "", ""), ModelConfig(), tmp_path / "m")


def test_what_mlflow_says_of_another_pytorch_is_kept_out(
    saved_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(saved_model, tmp_path / "m")
    described = yaml.safe_load((tmp_path / "m" / "MLmodel").read_text())
    described["flavors"]["pytorch"]["pytorch_version"] = "0.5"
    (tmp_path / "m" / "MLmodel").write_text(yaml.dump(described))
    config = ModelConfig(image_size=(8,), class_names=SPEC.class_names)
    with caplog.at_level(logging.WARNING, "mlflow"):
        open_champion(ModelRef("cls", "1", "", ""), config, tmp_path / "m")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (7, "it is 7, and must hold values by name"),
        ({"input": [1]}, r"input is \[1\], and must be values by name"),
        ({"input": SPEC.to_dict() | {"height": "8"}}, "input.height is '8', and must be a whole number"),
        ({"input": SPEC.to_dict() | {"class_names": "zero"}}, "input.class_names is 'zero', and must be a list"),
        ({"input": SPEC.to_dict() | {"mean": [None, "x"]}}, r"input.mean\[1\] is 'x', and must be a number"),
        ({"input": SPEC.to_dict(), "guard": "hard"}, "guard is 'hard', and must be values by name"),
        ({"input": SPEC.to_dict(), "model_factory": 3}, "model_factory is 3, and must be a text"),
    ],
)
def test_metadata_of_another_shape_is_named(saved_model: Path, tmp_path: Path, metadata: Any, said: str) -> None:
    shutil.copytree(saved_model, tmp_path / "m")
    text = yaml.safe_load((saved_model / "MLmodel").read_text()) | {"metadata": {"repairops": metadata}}
    (tmp_path / "m" / "MLmodel").write_text(yaml.dump(text))
    with pytest.raises(MetadataUnusable, match=said):
        open_champion(ModelRef("cls", "1", "", ""), ModelConfig(), tmp_path / "m")


def test_a_frozen_network_cannot_be_fine_tuned(client: MlflowClient, tmp_path: Path) -> None:
    frozen = TinyNet().requires_grad_(False)
    with pytest.raises(NoGradient, match="none of its parameters"):
        load(log_model(frozen, "cls", SPEC), tmp_path / "m")


def plain_model(network: nn.Module, **options: object) -> None:
    """Logged by MLflow itself, so without our metadata."""
    mlflow.pytorch.log_model(
        network.eval(),
        name="m",
        registered_model_name="plain",
        serialization_format="pickle",
        pip_requirements=["torch"],
        **options,
    )


def test_a_plain_mlflow_model_needs_its_input_from_options(client: MlflowClient, tmp_path: Path) -> None:
    plain_model(TinyNet(3))
    ref = resolve_model("models:/plain/1", client)
    with pytest.raises(MissingInputSpec, match="channels, height, width, class_names"):
        load(ref, tmp_path / "m")
    with pytest.raises(MissingInputSpec, match="missing: channels, class_names"):
        load(ref, tmp_path / "m", ModelConfig(image_size=(8,)))
    given = ModelConfig(image_size=(8,), channels=3, mean=(0.5,), std=(0.2,), class_names=CLASSES, resize="stretch")
    champion = load(ref, tmp_path / "m", given)
    assert champion.spec == InputSpec(3, 8, 8, CLASSES, mean=(0.5,), std=(0.2,), resize="stretch")
    assert champion.metadata == {}


def test_the_signatures_shape_is_used(client: MlflowClient, tmp_path: Path) -> None:
    plain_model(TinyNet(3), signature=mlflow.models.infer_signature(unit_images(3).numpy()))
    ref = resolve_model("models:/plain/1", client)
    with pytest.raises(MissingInputSpec, match=r"missing: class_names\."):
        load(ref, tmp_path / "m")
    spec = load(ref, tmp_path / "m", classes=CLASSES).spec
    assert (spec.channels, spec.height, spec.width, spec.class_names) == (3, 8, 8, CLASSES)


def test_options_win_over_metadata_and_metadata_over_the_data_sets_names() -> None:
    metadata = {"input": SPEC.to_dict()}
    assert input_spec("m", ModelConfig(), metadata, class_names=("x", "y")) == SPEC
    options = ModelConfig(image_size=(16, 24), mean=(0.1,), value_range=(-1.0, 1.0), class_names=("x", "y"))
    assert input_spec("m", options, metadata) == dataclasses.replace(
        SPEC, height=16, width=24, mean=(0.1,), value_range=(-1.0, 1.0), class_names=("x", "y")
    )
    with pytest.raises(InvalidInputSpec, match="value_range"):
        input_spec("m", ModelConfig(value_range=(1.0, 0.0)), metadata)


def test_loading_again_replaces_the_folder(client: MlflowClient, tmp_path: Path) -> None:
    ref = log_model(TinyNet(), "cls", SPEC)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "leftover").write_text("half a download")
    load(ref, tmp_path / "m")
    assert not (tmp_path / "m" / "leftover").exists()


def loaded_elsewhere(uri: str, folder: str) -> str:
    """In a process of its own: why version 2 does not load; the class, output and code paths of version 1."""
    connect(uri)
    with pytest.raises(NotAClassifier, match=r"fieldnet.*code_paths"):
        load(ModelRef("cls", "2", "", ""), Path(folder))
    champion = load(ModelRef("cls", "1", "", ""), Path(folder))
    kind = type(champion.classifier.network)
    logits = champion.classifier(unit_images())
    packed = [Path(path).name for path in code_paths(champion.folder)]
    return f"{kind.__module__}.{kind.__name__} {tuple(logits.shape)} {packed}"


def test_code_paths_carry_a_class_from_a_package(
    client: MlflowClient, registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "source" / "fieldnet"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(
        textwrap.dedent("""
            from torch import nn
            class FieldNet(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.linear = nn.Linear(64, 4)
                def forward(self, x):
                    return self.linear(x.flatten(1))
        """)
    )
    with monkeypatch.context() as path:
        path.syspath_prepend(str(package.parent))
        from fieldnet.nets import FieldNet  # type: ignore[import-not-found]

        log_model(FieldNet(), "cls", SPEC, code_paths=[str(package)])
        log_model(FieldNet(), "cls", SPEC)
        for name in ("fieldnet", "fieldnet.nets"):
            sys.modules.pop(name)
    answers = in_processes(loaded_elsewhere, [(registry, str(tmp_path / "m"))])
    assert answers == ["fieldnet.nets.FieldNet (5, 4) ['fieldnet']"]
