"""Who imports what, what runs without the heavy libraries, and what the project's files promise."""

from __future__ import annotations

import ast
import functools
import importlib.resources
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from without_helpers import output_without

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "repairops"
MODULES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "mlflow_project").glob("*.py")])

# Which folders or modules of the package may import a library, inside functions or not. What is not listed is free.
IMPORTERS = {
    "mlflow": {"store", "promotion/log_model", "stages/job", "cli/doctor", "demo"},
    "filelock": {"store", "bench"},
    "matplotlib": {"bench"},
    "great_expectations": {"validation"},
    "pandas": {"validation", "store"},
    "pyarrow": {"data", "store"},
    "sklearn": {"core/clustering", "demo", "bench"},
    "pywt": {"core/styles"},
    "onnx": {"model/onnx_guarded", "store"},  # store: the version, for the flavor's description and requirements
    "onnxruntime": {"model/onnx", "store"},
    "onnxscript": set[str](),
    "jinja2": {"report"},
    "click": {"cli"},
    "yaml": {"config"},
}
CORE = ("core", "gate", "config", "data/records", "data/split", "model/network", "model/evaluation")
FOR_CORE = {"torch", "torchvision", "numpy", "scipy", "sklearn", "pywt", "click", "safetensors", "rich", "yaml", "PIL"}
LOOSE = 6  # modules at the top of the package, at most


def home(module: Path) -> str:
    """Where a module is: 'core/styles/auto', without the suffix; 'mlflow_project/...' outside the package."""
    inside = module.relative_to(PACKAGE if module.is_relative_to(PACKAGE) else ROOT)
    return inside.with_suffix("").as_posix()


def stands_in(module: Path, places: Iterable[str]) -> bool:
    """Whether one of the places is the module or a folder around it."""
    return any(f"{home(module)}/".startswith(f"{place}/") for place in places)


@functools.cache
def parsed(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


@functools.cache
def imports(module: Path) -> frozenset[str]:
    """Top-level names of all that a module imports at run time, inside functions too; not under TYPE_CHECKING."""
    return frozenset(_imports(module))


def _imports(module: Path) -> Iterator[str]:
    for node in run_time_nodes(module):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def run_time_nodes(module: Path) -> Iterator[ast.AST]:
    """All nodes of a module but those under TYPE_CHECKING."""
    nodes: list[ast.AST] = [parsed(module)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            nodes += node.orelse
            continue
        yield node
        nodes += ast.iter_child_nodes(node)


@pytest.mark.parametrize("library", IMPORTERS)
def test_only_these_parts_import(library: str) -> None:
    importers = [module for module in MODULES if library in imports(module)]
    assert [module for module in importers if not stands_in(module, IMPORTERS[library])] == []
    for place in IMPORTERS[library]:
        assert any(stands_in(module, {place}) for module in importers), f"nothing in {place} imports {library}"


def own_imports(module: Path) -> Iterator[str]:
    """Dotted names of the package's modules that a module imports at run time."""
    for node in run_time_nodes(module):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "repairops":
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "repairops")


def test_folders_do_not_import_each_other_in_a_circle() -> None:
    """Each folder at the package's top, and each module beside them, can be read before those that import it."""
    tops = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    known: dict[str, set[str]] = {top: set() for top in tops - {"__init__"}}
    for module in PACKAGE.rglob("*.py"):
        top = home(module).partition("/")[0]
        if top in known:
            imported = {name.split(".")[1] for name in own_imports(module) if "." in name}
            known[top] |= (imported & known.keys()) - {top}
    order = list(TopologicalSorter(known).static_order())  # raises CycleError, which names the circle
    assert set(order) == set(known)
    assert known["core"], "the imports are not seen"


def test_few_modules_lie_loose() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= LOOSE


def test_the_core_imports_nothing_but_these_libraries() -> None:
    for module in MODULES:
        if stands_in(module, CORE):
            assert set(imports(module)) - set(sys.stdlib_module_names) - {"repairops"} <= FOR_CORE, module


def test_the_benchmark_runs_where_the_core_does() -> None:
    """filelock comes with torch; matplotlib is imported only by what draws."""
    for module in MODULES:
        if stands_in(module, {"bench"}):
            assert set(imports(module)) - set(sys.stdlib_module_names) - {"repairops"} <= FOR_CORE | {
                "filelock",
                "matplotlib",
            }, module


REPAIR = """
import tempfile
from pathlib import Path
import numpy as np, torch
from sklearn.datasets import load_digits
torch.set_num_threads(1)
from repairops.config import Config, load_config
from repairops.core.parts import RepairInputs
from repairops.core.repair import repair_network
from repairops.data.sets import from_arrays
from repairops.data.records import CleanSet, FailureBatch, InputSpec
from repairops.gate import decide
from repairops.gate.evidence import Evidence, ParityCounts
from repairops.model.evaluation import evaluate
from repairops.model.network import Classifier

digits = load_digits()
names = tuple('0123456789')
images, labels = digits.images / 16, digits.target
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
champion = Classifier(network, InputSpec(1, 8, 8, names)).eval()
failed = from_arrays(images[:90] * 0.5 + 0.25, labels[:90], names)
blank = np.full(90, '')
batch = FailureBatch(failed, (failed.labels + 1) % 10, np.ones(90, np.float32), blank, blank)
train_set = from_arrays(images[100:500], labels[100:500], names)
config = load_config(overrides=['training.epochs=1', 'training.device=cpu', 'clustering.clusters=2'])
repaired = repair_network(champion, RepairInputs(train_set, batch), config, work_dir=Path(tempfile.mkdtemp()))
clean = CleanSet(from_arrays(images[500:600], labels[500:600], names))
found = evaluate(champion, repaired.network, clean, repaired.split.heldout)
verdict = decide(
    Evidence(found.clean, found.clean_by_class, found.heldout_repaired, found.heldout_total, ParityCounts()),
    Config().gate,
)
history = repaired.training.history
assert len(history) == 1 and np.isfinite(history[0]['loss'])
assert verdict.result in ('FAIL', 'INCONCLUSIVE')  # no parity was measured, so never a pass
print(verdict.result)
"""
GATE = """
from repairops.config import Config
from repairops.gate import decide
from repairops.outcome import recompute
from repairops.gate.evidence import Evidence, PairedCounts, ParityCounts
counts = PairedCounts(9000, 30, 40, 930)
print(decide(Evidence(counts, {'a': counts}, 90, 100, ParityCounts(10000, 0, 1e-6)), Config().gate).result)
"""


@pytest.mark.parametrize(
    ("code", "refused", "answers"),
    [
        (
            REPAIR,
            {
                "mlflow",
                "great_expectations",
                "onnx",
                "onnxruntime",
                "onnxscript",
                "pandas",
                "pyarrow",
                "jinja2",
                "filelock",
            },
            {"FAIL", "INCONCLUSIVE"},
        ),
        (GATE, {"mlflow", "torch", "torchvision", "sklearn", "pandas", "pyarrow", "onnx", "PIL", "click"}, {"PASS"}),
        ("import repairops\nprint(repairops.__version__)", {"mlflow", "torch", "numpy", "click"}, {"0.1.0"}),
    ],
    ids=["core", "gate", "package"],
)
def test_runs_without(code: str, refused: set[str], answers: set[str], tmp_path: Path) -> None:
    """A whole small repair, the gate alone, and the bare package, in processes where some libraries do not import."""
    assert output_without(refused, code, folder=tmp_path) in answers


def test_files_stay_readable() -> None:
    for module in MODULES:
        lines = len(module.read_text(encoding="utf-8").splitlines())
        assert lines <= 300, module


def calls(module: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_nothing_prints_or_unpickles() -> None:
    for module in MODULES:
        assert not {"pickle", "joblib", "dill", "cloudpickle", "shelve"} & set(imports(module)), module
        for name, call in calls(module):
            assert name not in ("print", "torch.save", "exec", "eval"), f"{module}: {name}"
            if name == "torch.load":
                assert "weights_only=True" in ast.unparse(call), module
            if name == "np.load":
                assert "allow_pickle" not in ast.unparse(call), module


def test_nothing_sets_global_random_state() -> None:
    """`torch.manual_seed` stands only inside `fork_rng`; numpy's and Python's global generators are not used at all."""
    for module in MODULES:
        text = module.read_text(encoding="utf-8")
        assert not re.search(
            r"np\.random\.(seed|rand|randn|choice|shuffle|permutation)\(|^import random", text, re.M
        ), module
        if "torch.manual_seed(" in text:
            assert "fork_rng" in text, module


# The project's files


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def mlproject() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
    return values


def test_no_folder_takes_the_project_file_s_name() -> None:
    names = [path.name for path in ROOT.iterdir() if path.name.lower() == "mlproject"]
    assert names == ["MLproject"]
    assert (ROOT / "MLproject").is_file()


def test_conda_environment_is_python_pip_and_the_project() -> None:
    environment = yaml.safe_load((ROOT / mlproject()["conda_env"]).read_text(encoding="utf-8"))
    python, pip, packages = environment["dependencies"]
    assert pip == "pip"
    assert packages == {"pip": ["."]}
    name, version = python.split("=")
    assert name == "python"
    assert f"{version}.0" in SpecifierSet(pyproject()["project"]["requires-python"])


def test_every_importable_library_is_a_dependency() -> None:
    """What the package imports is what it asks pip for."""
    distributions = {
        "PIL": "pillow",
        "great_expectations": "great-expectations",
        "pywt": "pywavelets",
        "sklearn": "scikit-learn",
        "yaml": "pyyaml",
    }
    wanted = {Requirement(line).name for line in pyproject()["project"]["dependencies"]}
    used = {name for module in MODULES for name in imports(module)} - set(sys.stdlib_module_names)
    ours = {"repairops", "mlflow_project"}
    brought = {"markupsafe"}  # by jinja2
    assert {distributions.get(name, name) for name in used - ours - brought} <= wanted


@pytest.mark.parametrize("name", list(mlproject()["entry_points"]))
def test_entry_point_passes_its_parameters_to_a_module_that_takes_them(name: str) -> None:
    point = mlproject()["entry_points"][name]
    assert point["description"]
    for key, parameter in point["parameters"].items():
        assert parameter.keys() == {"type", "default", "description"}, key
        assert isinstance(parameter["default"], str), key
        assert parameter["description"].endswith("."), key
    words = shlex.split(point["command"])
    assert words[:4] == ["python", "-m", "mlflow_project", name]
    pairs = dict(zip(words[4::2], words[5::2], strict=True))
    assert pairs == {f"--{key.replace('_', '-')}": f"{{{key}}}" for key in point["parameters"]}

    command = [sys.executable, *words[1:], "--bogus", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    said, _, known = result.stderr.removesuffix(".\n").partition(". Known options: ")
    assert said == "Error: Unknown option 'bogus'"
    assert sorted(known.split(", ")) == sorted(key.replace("_", "-") for key in point["parameters"])


@pytest.mark.parametrize(
    ("entry", "arguments", "says"),
    [
        (
            "repair_distributed",
            ["--nproc", "0"],
            "Error: Option nproc is '0'; it must be a number of processes, 1 or more.\n",
        ),
        ("main", ["--rerun", "maybe"], "Error: Option rerun is 'maybe'; it must be true or false.\n"),
        ("main", ["--seed", "x", "--train-set", ""], "'x' is not a valid integer"),
        ("main", ["--promote", "later"], "'later' is not one of"),
        ("consolidate", ["--model", "prod/cls", "--seed", "x"], "'x' is not a valid integer"),
        ("demo", ["--folder", "", "--seed", "x"], "'x' is not a valid integer"),
        ("log_failures", ["--model", "prod/cls", "--path", "nowhere"], "'nowhere' does not exist"),
        ("triage", ["--model", "prod/cls", "--folder", ".", "--count", "0"], "0 is not in the range"),
    ],
)
def test_entry_points_reach_the_command_line(entry: str, arguments: list[str], says: str, tmp_path: Path) -> None:
    """Empty values are left out, the others arrive as options; usage errors keep their exit code."""
    command = [sys.executable, "-m", "mlflow_project", entry, *arguments]
    environment = {"PATH": "/usr/bin:/bin", "REPAIROPS_HOME": str(tmp_path)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert says in result.stderr


def test_package_data_is_part_of_the_wheel() -> None:
    """The wheel takes the whole package folder; what lies there beside Python files is tracked, not ignored."""
    assert pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["repairops"]}
    page = importlib.resources.files("repairops.report") / "templates" / "page.html.j2"
    assert "<!doctype html>" in page.read_text(encoding="utf-8")
    assert (importlib.resources.files("repairops") / "py.typed").is_file()
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split()]
    assert not [pattern for pattern in ignored if Path("repairops/report/templates/page.html.j2").match(pattern)]
    assert "/MLproject" in pyproject()["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]


def test_licence_is_the_one_that_is_declared() -> None:
    assert pyproject()["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")[:300]
