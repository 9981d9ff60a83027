"""Documentation, help and code say the same; the documentation's Python runs."""

from __future__ import annotations

import dataclasses
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from docs_helpers import DOCS, PAGES, ROOT, blocks, commands, flags, shell_lines, table_rows, words
from PIL import Image
from sklearn.datasets import load_digits

import repairops
from repairops.cli import main
from repairops.config import Config, option_names
from repairops.core.methods import METHODS
from repairops.core.styles import STYLES
from repairops.gate import RULES
from repairops.images import from_arrays, write_parquet
from repairops.outcome import EXIT_CODES

TUTORIAL, EXAMPLES = DOCS / "tutorial.md", DOCS / "examples.md"
CONFIGURATION = DOCS / "reference" / "configuration.md"
WHERE = ["README.md", *(str(page.relative_to(ROOT)) for page in PAGES if page.parent != ROOT)]


def run(code: str, page: Path, names: dict[str, Any]) -> None:
    exec(compile(code, str(page), "exec"), names)


@pytest.fixture
def quick_commands(registry: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    """Commands in this process, in an empty folder, against an empty registry."""
    (tmp_path / "demo-out").mkdir()
    monkeypatch.chdir(tmp_path)
    return CliRunner()


def test_tutorial_and_readme_run(quick_commands: CliRunner) -> None:
    """All Python of both, and the tutorial's commands up to the repair itself."""
    names: dict[str, Any] = {}
    for code in blocks(TUTORIAL, "python"):
        run(code, TUTORIAL, names)
    assert str(names["version"]) == "version 1 of 'cls'"

    logging = [line for line in shell_lines(TUTORIAL) if line.startswith("repairops failures ")]
    assert len(logging) == 2
    for line in logging:
        result = quick_commands.invoke(main, words(line)[1:])
        assert result.exit_code == 0, result.output
    batches = repairops.list_failures("prod/cls")
    assert [batch.rows for batch in batches] == [len(names["in_service"]), len(names["labelled_later"])]
    assert all(batch.model_version == "1" for batch in batches)

    train, clean, target = names["train"], names["clean"], names["digits"].target
    readme = {
        "network": names["network"],
        "class_names": tuple(names["names"]),
        "train_images": names["pixels"][train],
        "train_labels": target[train],
        "clean_images": names["pixels"][clean],
        "clean_labels": target[clean],
        "field_images": names["shots"][names["wrong"]],
        "true_labels": target[names["scenes"][names["wrong"]]].tolist(),
        "answers": names["answers"][names["wrong"]].tolist(),
        "scenes": [str(scene) for scene in names["scenes"][names["wrong"]]],
    }
    for code in blocks(ROOT / "README.md", "python"):
        run(code, ROOT / "README.md", readme)
    last = repairops.list_failures("cls")[-1]
    assert (last.rows, last.model_version) == (len(names["wrong"]), "2")


def test_python_stands_on_the_pages_that_are_run_alone() -> None:
    with_python = {page.relative_to(ROOT).as_posix() for page in PAGES if blocks(page, "python")}
    dags = {"docs/operation/scheduling.md"}  # Airflow's; `test_docs_examples` has it
    assert with_python - dags == {"README.md", "docs/tutorial.md", "docs/examples.md", "docs/operation/serving.md"}


@pytest.mark.parametrize("where", WHERE)
def test_options_in_prose_exist(where: str) -> None:
    """`stage.option` and `--flag` in backticks are options that there are; `set` parameters too."""
    text = (ROOT / where).read_text(encoding="utf-8")
    stages = {name.partition(".")[0] for name in option_names()} - {"seed"}
    for stage, option in re.findall(r"`([a-z]+)\.([a-z_0-9]+)(?:=[^`]*)?`", text):
        if stage in stages:
            assert f"{stage}.{option}" in option_names(), f"{stage}.{option}"
    for value in re.findall(r'-P set="([^"]*)"', text):
        assert {part.partition("=")[0] for part in value.split(";")} <= set(option_names()), value
    ours = {flag for _, command in commands() for flag in flags(command)} | flags(main)
    theirs = {"--env-manager=local", "--env-manager=uv", "--env-manager"}
    for flag in re.findall(r"`(--[a-z-]+(?:=[a-z]+)?)[ `]", text):
        assert flag in ours | theirs, flag


def test_every_command_is_in_the_generated_reference() -> None:
    """The page is generated from `repairops.cli:main`, subcommands included; each also stands in prose somewhere."""
    page = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    assert "::: mkdocs-click" in page
    assert ":module: repairops.cli" in page
    assert ":command: main" in page
    prose = "\n".join(other.read_text(encoding="utf-8") for other in PAGES)
    for path, command in commands():
        if not hasattr(command, "commands"):
            assert f"repairops {' '.join(path)}" in prose, path


def test_configuration_reference_is_what_the_fields_say() -> None:
    """`python docs/extensions/configuration.py` renews it."""
    rendered = runpy.run_path(str(DOCS / "extensions" / "configuration.py"))["rendered"]
    text = CONFIGURATION.read_text(encoding="utf-8")
    assert rendered(text) == text
    rows = {row[0].strip("`"): row[1:] for row in table_rows(CONFIGURATION) if row[0] != "option"}
    assert list(rows) == option_names()
    for name, (_, _, sentence) in rows.items():
        assert sentence.endswith("."), name
    assert rows["training.epochs"][:2] == ["`5`", "1 or more"]
    assert rows["training.amp"][:2] == ["`auto`", "`auto`, `on`, `off`"]
    assert rows["images.memory_limit_mb"][0] == "`4096`"
    assert rows["training.horizontal_flip"][:2] == ["`false`", "`true`, `false`"]
    assert rows["model.std"][:2] == ["unset", "positive"]


def test_job_key_page_names_the_options_that_do_not_count() -> None:
    text = (
        (DOCS / "how-it-works" / "registry.md")
        .read_text(encoding="utf-8")
        .split("## Jobs", 1)[1]
        .split("- A key", 1)[0]
    )
    free = {
        f"{stage.name}.{option.name}"
        for stage in dataclasses.fields(Config)
        if dataclasses.is_dataclass(getattr(Config(), stage.name))
        for option in dataclasses.fields(getattr(Config(), stage.name))
        if not option.metadata.get("affects_result", True)
    }
    assert set(re.findall(r"`([a-z]+\.[a-z_0-9]+)`", text)) == free


def test_mlproject_reference_has_every_parameter() -> None:
    points = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))["entry_points"]
    page = DOCS / "reference" / "mlproject.md"
    for name, point in points.items():
        rows = table_rows(page, f"## {name}")[1:]
        wanted = [
            [f"`{key}`", f"`{value['default']}`" if value["default"] else "empty", value["description"]]
            for key, value in point["parameters"].items()
        ]
        assert rows == wanted, name


def test_validation_page_has_every_rule() -> None:
    from repairops.validation.facts import ROW_RULES

    page = DOCS / "how-it-works" / "failures.md"
    rows = table_rows(page, "### Rules for rows")[1:]
    assert rows == [[f"`{rule}`", sentence] for rule, sentence in ROW_RULES.items()]
    batch = {row[0].strip("`"): row[1].strip("`") for row in table_rows(page, "### Rules for the batch")[1:]}
    assert batch.pop("clean_set_overlap") == "fixed"
    assert {f"validation.{rule}": option for rule, option in batch.items()} == {
        option: option for option in batch.values()
    }
    assert set(batch.values()) == {f"validation.{f.name}" for f in dataclasses.fields(Config().validation)} - {
        "validation.data_docs",
        "validation.suspect_labels",
    }


def test_gate_page_has_every_check_with_its_level() -> None:
    rows = table_rows(DOCS / "how-it-works" / "gate.md", "## Checks")[1:]
    assert {row[0].strip("`"): row[1] for row in rows} == {name: getattr(Config().gate, name) for name in RULES}


def test_repair_page_has_every_style_and_method() -> None:
    page = DOCS / "how-it-works" / "repair.md"
    assert [row[0].strip("`") for row in table_rows(page, "## Styles")[1:]] == list(STYLES)
    assert [row[0].strip("`") for row in table_rows(page, "## Methods")[1:]] == list(METHODS)


def test_exit_codes_page_and_help_have_every_code() -> None:
    rows = table_rows(DOCS / "reference" / "exit-codes.md")[1:]
    assert {row[1].strip("`"): int(row[0]) for row in rows if row[1]} == EXIT_CODES
    codes = sorted({int(row[0]) for row in rows})
    assert codes == [0, 1, 2, 3, 4, 5]
    assert [int(code) for code in re.findall(r"\b([0-5]) [a-z]", str(main.help))] == codes


def test_python_reference_has_every_public_name() -> None:
    page = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: repairops\.(\w+)$", page, re.MULTILINE)
    assert sorted(named) == sorted(set(repairops.__all__) - {"__version__"})


def test_decisions_are_listed_and_in_the_navigation() -> None:
    records = sorted(page.name for page in (DOCS / "decisions").glob("0*.md"))
    assert [int(name[:4]) for name in records] == list(range(1, len(records) + 1))
    index = (DOCS / "decisions" / "index.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((\d{4}[^)]*)\)", index) == records
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        assert page.relative_to(DOCS).as_posix() in navigation, page
    for record in records:
        text = (DOCS / "decisions" / record).read_text(encoding="utf-8")
        assert text.startswith(f"# {int(record[:4])}. ")
        assert all(f"**{part}.**" in text for part in ("Decided", "Why", "Cost"))


@pytest.mark.parametrize("where", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_the_root_pages_lead_somewhere(where: str) -> None:
    """mkdocs checks the links inside docs/; these pages lie outside."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / where).read_text(encoding="utf-8")):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_site_fetches_nothing_from_outside() -> None:
    configuration = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert configuration["strict"] is True
    assert configuration["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css"} & configuration.keys()
    picture = (DOCS / "images" / "flow.svg").read_text(encoding="utf-8")
    assert re.findall(r"https?://[^\"' ]+", picture) == ["http://www.w3.org/2000/svg"]
    assert (DOCS / "images" / "report.png").stat().st_size < 300_000


def test_the_readme_s_picture_and_figures_are_those_of_the_benchmark() -> None:
    names = runpy.run_path(str(DOCS / "extensions" / "default_command.py"))
    looks = names["looks"]()
    assert names["PICTURE"].read_text(encoding="utf-8") == names["drawn"](looks)
    assert [len(look.repaired) == len(look.clean) == 3 for look in looks] == [True] * 6
    repaired, clean = ([value for look in looks for value in getattr(look, part)] for part in ("repaired", "clean"))
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"{min(repaired):.0%} to {max(repaired):.0%}".replace("%", "", 1) in text
    assert f"{min(clean):+.2f} to {max(clean):+.2f} points" in text


def test_changelog_has_the_version_of_the_package() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{repairops.__version__}]" in text


def test_the_examples_run(quick_commands: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both worked examples up to the repair: their Python as it stands, and the commands that log."""
    small, rng = load_digits(), np.random.default_rng(0)
    colours = (rng.random((80, 1, 1, 3)) * small.images[:80, :, :, None] / 16).repeat(4, 1).repeat(4, 2)
    pixels = (colours * 255).astype(np.uint8)
    for number, image in enumerate(pixels):
        part, name = ("train", "clean", "field")[number % 3], ("dent", "fine")[number % 2]
        file = Path("parts", part, *([name] * (part != "field")), f"{number:04}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    field = sorted(Path("parts/field").iterdir())
    rows = [f"{file.name},{('dent', 'fine')[int(file.stem) % 2]},part {file.stem}" for file in field]
    Path("parts/field/failures.csv").write_text("\n".join(["file,label,group", *rows]))
    factory, training, *cifar = blocks(EXAMPLES, "python")
    Path("parts_network.py").write_text(factory)
    monkeypatch.syspath_prepend(str(tmp_path))
    run(training, EXAMPLES, {})
    for line in shell_lines(EXAMPLES):
        if line.startswith(("repairops log", "repairops failures")):
            result = quick_commands.invoke(main, words(line)[1:])
            assert result.exit_code == 0, result.output
    assert [batch.rows for batch in repairops.list_failures("prod/parts")] == [len(field)]

    for name, part in (("train", slice(0, 50)), ("test", slice(50, 80))):
        file = tmp_path / f"{name}.parquet"
        write_parquet(from_arrays(pixels[part], small.target[:80][part], [str(label) for label in range(10)]), file)
        pq.write_table(pq.read_table(file).replace_schema_metadata(), file)  # no class names, as some hubs have it
        monkeypatch.setenv(f"CIFAR_{name.upper()}", str(file))
    names: dict[str, Any] = {}
    for code in cifar:
        run(code, EXAMPLES, names)
    assert str(names["version"]) == "version 1 of 'cifar'"
    assert names["batch"].rows == len(names["wrong"]) > 0
