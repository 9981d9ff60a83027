"""Which tests are taken to hang on rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from numeric import TESTS, is_numeric

SOURCE = """
import pytest, torch
from training_helpers import champion

LIMIT = 0.5

def within(found, wanted, levels: float = 0.01):
    assert abs(found - wanted) <= levels

@pytest.fixture(name="net")
def net_fixture():
    assert torch.allclose(champion(), champion())

class Counter:
    def check(self, share):
        assert share == 0.25

def test_tolerance(): assert f() == pytest.approx(1)
def test_keyword(): check(a, b, atol=1)
def test_equal_arrays(): assert torch.equal(a, b)
def test_threshold(): assert loss(a) < 0.1
def test_default_of_a_helper(): within(1, 2)
def test_order_of_times(): waited = time() < 5.0
def test_fixture(net): assert net
def test_method(): Counter().check(1)
def test_two_helpers_away(): first()
def first(): second()
def second(): within(0, 0)

def test_count(): assert count(a) > 3
def test_words(): assert words(a) == "no tolerance"
"""
NUMERIC = [
    "tolerance",
    "keyword",
    "threshold",
    "default_of_a_helper",
    "method",
    "two_helpers_away",
]


@pytest.mark.parametrize("name", [*NUMERIC, "equal_arrays", "order_of_times", "fixture", "count", "words"])
def test_what_a_test_holds_and_uses_decides(name: str, tmp_path: Path) -> None:
    file = tmp_path / "test_of_source.py"
    file.write_text(SOURCE)
    assert is_numeric(file, f"test_{name}") == (name in NUMERIC)


def test_without_torch_none_hangs_on_it(tmp_path: Path) -> None:
    alone = "\n".join(line for line in SOURCE.splitlines() if "import" not in line)
    files = {"test_alone.py": alone, "test_by_a_helper.py": f"import training_helpers\n{alone}"}
    for name, source in files.items():
        (tmp_path / name).write_text(source)
    assert [is_numeric(tmp_path / name, "test_tolerance") for name in files] == [False, True]


def test_real_ones() -> None:
    assert is_numeric(TESTS / "test_bench_corruptions.py", "test_fog_is_the_published_fractal")
    assert not is_numeric(TESTS / "test_layout.py", "test_files_stay_readable")


def test_the_mark_is_set_at_collection(request: pytest.FixtureRequest) -> None:
    assert pytest.approx(0.3) == torch.tensor([0.1, 0.2], dtype=torch.float64).sum().item()
    assert request.node.get_closest_marker("numeric")
