"""The gate's error rates and coverage, summed exactly over all tables, and drawn; `error_rates.py` makes the plots."""

from __future__ import annotations

import json
import math
from pathlib import Path

import class_rates
import numpy as np
import pytest
from error_rates import ACCURACIES, MARGIN, RISK, SIZES, cells, error_rate, exact_rejects, score_rejects
from scipy.stats import binom

from repairops.config import GateConfig
from repairops.gate import decide
from repairops.gate.evidence import Evidence, PairedCounts, ParityCounts
from repairops.gate.exact import exact_lower, exact_p_value
from repairops.gate.statistics import tango_interval, tango_score

ROUNDING = 1e-4  # the worst share is found on a grid and refined
IMAGES = Path(__file__).parents[1] / "docs" / "images"
KEPT = IMAGES / "gate-error-rates.jsonl"


def brute_force_p_value(won: int, lost: int, n: int, difference: float) -> float:
    """The definition, over every table and a fine grid of the open share, without Berger and Boos's interval."""
    table_won, table_lost = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    possible = table_won + table_lost <= n
    extreme = possible & (
        tango_score(table_won, table_lost, n, difference) >= tango_score(won, lost, n, difference) - 1e-9
    )
    worst = 0.0
    for share in np.linspace(0, (1 + difference) / 2 - 1e-9, 400):
        inner = (share - difference) / (1 - share)
        chances = binom.pmf(table_won, n, share) * binom.pmf(table_lost, n - table_won, min(inner, 1.0))
        worst = max(worst, float(chances[extreme].sum()))
    return worst


@pytest.mark.parametrize(("won", "lost", "n"), [(0, 0, 30), (2, 1, 30), (5, 1, 30), (4, 4, 40), (9, 2, 40)])
def test_the_p_value_is_that_of_the_definition(won: int, lost: int, n: int) -> None:
    """Berger and Boos's interval can only make it smaller, by less than it adds here."""
    expected = brute_force_p_value(won, lost, n, -0.1)
    found = exact_p_value(won, lost, n, -0.1)
    assert found <= expected + 1e-3
    assert found >= 0.9 * expected


def test_mirrored_tables_have_mirrored_answers() -> None:
    """The test of a loss beyond the margin is that of a gain beyond it, with the networks exchanged."""
    assert exact_p_value(3, 40, 1000, MARGIN) == 1.0
    worse = exact_p_value(40, 3, 1000, MARGIN)
    assert worse < 1e-3
    assert exact_p_value(40, 3, 1000, 0.0) < worse
    one_sided = binom.sf(40 - 1, 43, 0.5)  # McNemar's exact test is the limit at no difference
    assert exact_p_value(40, 3, 1000, 0.0) == pytest.approx(one_sided, abs=1e-5)


@pytest.mark.parametrize(("won", "lost"), [(11_000, 15_300), (60_000, 62_400), (15_300, 11_000)])
def test_a_large_table_is_searched_in_parts_and_summed_whole(
    won: int, lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten million images would take a minute; at a quarter of a million both ways can be computed."""
    n = 250_000
    given = won, lost, n, (won - lost - 1.6 * math.sqrt(won + lost)) / n  # near the limit of a decision
    found = exact_p_value(*given)
    monkeypatch.setattr("repairops.gate.exact._PARTS", math.inf)
    assert found == pytest.approx(exact_p_value(*given), abs=1e-5)
    assert 0.03 < found < 0.08


def test_the_p_value_falls_with_won_and_rises_with_lost() -> None:
    in_won = [exact_p_value(won, 10, 1000, -MARGIN) for won in range(0, 30, 3)]
    assert in_won == sorted(in_won, reverse=True)
    in_lost = [exact_p_value(10, lost, 1000, -MARGIN) for lost in range(0, 30, 3)]
    assert in_lost == sorted(in_lost)


@pytest.mark.parametrize(("won", "lost", "n"), [(0, 0, 600), (12, 8, 1000), (200, 230, 10_000), (3, 40, 1000)])
def test_the_bound_stands_where_the_test_turns_and_near_the_score_bound(won: int, lost: int, n: int) -> None:
    lower = exact_lower(won, lost, n, 0.95, -MARGIN)
    assert (lower >= -MARGIN) == exact_rejects(won, lost, n, -MARGIN)
    assert exact_p_value(won, lost, n, lower - 2e-5) <= RISK
    assert exact_p_value(won, lost, n, lower + 2e-5) > RISK
    assert lower == pytest.approx(tango_interval(won, lost, n, 0.95)[0], abs=6e-4)
    assert math.isnan(exact_lower(0, 0, 0, 0.95, 0.0))


@pytest.mark.parametrize("n", [100, 1000])
def test_a_true_loss_of_the_margin_passes_in_at_most_five_percent(n: int) -> None:
    for share in (0.0, 0.0005, 0.002, 0.01):
        assert error_rate(exact_rejects, n, share, -MARGIN) <= RISK + ROUNDING, share


@pytest.mark.parametrize("n", [539, 894])
def test_where_the_score_test_errs_most_the_exact_one_does_not(n: int) -> None:
    assert error_rate(score_rejects, n, 0.0, -MARGIN) > 0.062
    assert error_rate(exact_rejects, n, 0.0, -MARGIN) <= RISK + ROUNDING


def test_the_documented_figures_are_complete_and_keep_the_promise() -> None:
    rows = [json.loads(line) for line in KEPT.read_text().splitlines()]
    known = [{k: v for k, v in row.items() if k not in ("exact", "score")} for row in rows]
    assert [cell for n in SIZES for cell in cells(n) if cell not in known] == []
    assert {row["accuracy"] for row in rows if row["what"] == "coverage"} == set(ACCURACIES)
    assert max(row["exact"] for row in rows) <= RISK + ROUNDING
    for row in rows:
        if row["n"] == 100 and row["what"] == "margin":
            assert error_rate(exact_rejects, 100, row["share_won"], -MARGIN) == pytest.approx(row["exact"], abs=1e-6)


def test_harmless_repairs_pass_class_recall_and_large_classes_are_judged_as_before() -> None:
    rows = [json.loads(line) for line in (IMAGES / "gate-classes.jsonl").read_text().splitlines()]
    assert [{key: row[key] for key in cell} for cell, row in zip(class_rates.cells(), rows, strict=True)] == list(
        class_rates.cells()
    )
    for row in rows:
        error = 3 * math.sqrt(RISK * (1 - RISK) / row["runs"])
        if row["truth"] == "harmless":
            assert row["together"].get("PASS", 0.0) >= 1 - RISK - error, row
        if row["truth"] == "every class loses the margin":
            assert row["together"].get("FAIL", 0.0) <= RISK + error, row
        if row["images"] / row["classes"] >= 500:
            assert row["together"] == row["each"], row


def test_a_cell_of_the_class_rates_is_repeated_by_its_seed() -> None:
    cell = {"classes": 10, "images": 1000, "spread": "even", "changed": 0.05, "truth": "harmless"}
    found = class_rates.measure(cell, 60)
    assert found == class_rates.measure(cell, 60)
    assert found["together"]["PASS"] > 0.9


@pytest.mark.slow
def test_drawn_tables_pass_the_gate_in_at_most_five_percent() -> None:
    """20,000 samples of each kind through `decide` itself, at a true loss of just the margin (seed 0)."""
    draw, runs = np.random.default_rng(0), 20_000
    policy = GateConfig(repair_rate="off", class_recall="off", onnx_parity="off", **dict.fromkeys(
        ("negative_flips", "cluster_repair", "slices", "corruptions", "calibration", "onnx_accuracy", "latency"), "off"
    ))  # fmt: skip
    for n, share_won in ((700, 0.001), (1000, 0.002)):
        shares = [share_won, share_won + MARGIN, 1 - 2 * share_won - MARGIN]
        tables, times = np.unique(draw.multinomial(n, shares, size=runs)[:, :2], axis=0, return_counts=True)
        results = [
            decide(Evidence(PairedCounts(n - w - lost, lost, w, 0), {}, 0, 0, ParityCounts()), policy).result
            for w, lost in tables.tolist()
        ]
        passed = times[[result == "PASS" for result in results]].sum() / runs
        assert passed <= RISK + 3 * math.sqrt(RISK * (1 - RISK) / runs), (n, share_won)
        assert passed >= 0.02  # and it has not become too strict to be of use


@pytest.mark.slow
def test_error_rates_over_sizes_and_shares() -> None:
    for n in (*range(100, 1000, 149), 2000, 5000):
        for share in (0.0, 0.0005, 0.002, 0.01):
            assert error_rate(exact_rejects, n, share, -MARGIN) <= RISK + ROUNDING, (n, share)
            assert error_rate(exact_rejects, n, share, 0.0) <= RISK + ROUNDING, (n, share)
