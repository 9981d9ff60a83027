"""From records to tables and plots: shares, intervals, the paper's figures beside ours; the commands."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner
from scipy.stats import t

from repairops.bench import summary
from repairops.bench.report import read_records, write_report
from repairops.bench.standing import FORMS, standing_table, standings
from repairops.bench.tables import (
    CORRUPTIONS,
    clustering_ablation,
    failure_counts,
    residual_accuracy,
    tables,
)
from repairops.cli import main
from repairops.errors import NoBenchmarkResults


def record(rival: str, corruption: str, seed: int = 0, *, right: int = 50, **cell: Any) -> dict[str, Any]:
    """A cell with 100 residual failures, 60 of them disjoint, and 1,000 clean images."""
    return {
        "digest": f"{rival}{corruption}{seed}",
        "cell": {
            "network": "allconvnet", "corruption": corruption, "rival": rival, "seed": seed, "budget_steps": 50,
            "failure_batch": 40, "version": "0", **cell,
        },
        "figures": {
            "failures": 140,
            "champion_accuracy_by_severity": [0.9, 0.8, 0.7, 0.6, 0.5],
            "clean": {"both_right": 800, "champion_only": 20, "challenger_only": 30, "both_wrong": 150},
            "residual": {"n": 100, "right": right, "champion_right": 0, "disjoint_n": 60, "disjoint_right": right // 2,
                         "disjoint_champion_right": 0},
            "corrupted": {"n": 200, "right": 150, "champion_right": 140},
            "others": {"fog": {"n": 100, "right": 70, "champion_right": 60}},
            "training": {"best_epoch": 1, "history": [{}, {"repair_failures_accuracy": 0.75}]},
        },
        "costs": {"seconds": 3.0, "cpu_seconds": 2.0, "peak_memory_mb": 500},
        "environment": {"commit": "abc", "machine": "m", "device": "d", "torch": "2", "threads": 1},
    }  # fmt: skip


def test_figures_of_one_cell() -> None:
    one = record("fine_tune", "fog")
    assert summary.residual(one) == 50
    assert summary.disjoint(one) == pytest.approx(100 * 25 / 60)
    assert (summary.clean_before(one), summary.clean_after(one), summary.negative_flips(one)) == (82, 83, 2)
    assert summary.corrupted_before(one) == pytest.approx(70)
    assert (summary.corrupted_after(one), summary.on_batch(one), summary.others_gain(one)) == (75, 75, 10)


def test_clean_kept_is_a_table_of_its_own() -> None:
    kept = {
        "weight": 0.4, "clean": {"both_right": 815, "champion_only": 5, "challenger_only": 4, "both_wrong": 176},
        "residual": {"n": 100, "right": 30, "disjoint_n": 60, "disjoint_right": 12},
        "corrupted": {"n": 200, "right": 142},
    }  # fmt: skip
    cells = [record("fine_tune", "fog"), record("none", "fog"), record("oracle", "fog")]
    assert not any(table.name.startswith("kept") for table in tables(cells))  # cells of an older protocol
    cells[0]["figures"]["kept"], cells[2]["figures"]["kept"] = kept, {**kept, "weight": 1.0}
    cells[1]["figures"]["kept"] = {}
    (table,) = (table for table in tables(cells) if table.name.startswith("kept"))
    found = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert set(found) == {"fine_tune", "oracle"}
    shown = found["fine_tune"]
    assert (shown["disjoint"].split(" ")[0], shown["change"], shown["weight"]) == ("20.0", "-0.1", "40%")
    assert (shown["negative flips"], shown["corrupted"], shown["of oracle"]) == ("0.5", "71.0", "100%")


def test_standings_compare_all_rivals_on_the_cells_that_each_has() -> None:
    def form(right: int, won: int, lost: int) -> dict[str, Any]:
        return {
            "weight": 1.0, "routed": 0.02, "separation": 0.9,
            "clean": {"both_right": 800, "champion_only": lost, "challenger_only": won, "both_wrong": 200 - won - lost},
            "residual": {"n": 100, "right": right, "disjoint_n": 50, "disjoint_right": right},
            "corrupted": {"n": 200, "right": 142},
        }  # fmt: skip

    cells = [record(r, c) for r, c in (("fine_tune", "fog"), ("style_guided", "fog"), ("style_guided", "contrast"))]
    for cell in cells:
        cell["figures"] |= {"kept": form(20, 2, 8), "guarded": form(30, 1, 2)}
    cells[0]["figures"]["guarded"] = {}  # no guarded form kept clean accuracy
    cells.append(record("none", "fog"))
    found = {(one.rival, one.form): one for one in standings(cells)}
    assert set(found) == {(r, f) for r in ("fine_tune", "style_guided") for f in FORMS} - {("fine_tune", "guarded")}
    guarded = found["style_guided", "guarded"]
    assert (guarded.cells, guarded.images, guarded.failures) == (1, (50, 1000), 40)  # contrast has one rival alone
    assert (guarded.repaired.mean, guarded.change.mean, guarded.worst) == pytest.approx((60, -0.1, -0.1))
    assert guarded.changed == pytest.approx(0.3)
    assert guarded.change.half == pytest.approx(1.96 * 100 * ((3 - 1 / 1000) ** 0.5) / 1000)
    assert [row[3] for row in standing_table(list(found.values())).rows][:2] == ["`fine_tune`", "`style_guided`"]


def test_interval_over_images_for_one_seed_and_over_seeds_for_several() -> None:
    cells = [record("fine_tune", c, right=r) for c, r in (("fog", 40), ("contrast", 60))]
    one = summary.over_seeds(cells, summary.residual, summary.residual_images)
    assert one.mean == 50
    assert one.half == pytest.approx(1.96 * 100 * (2 * 0.24 / 100) ** 0.5 / 2)
    cells += [record("fine_tune", "fog", 1, right=50), record("fine_tune", "contrast", 1, right=62)]
    two = summary.over_seeds(cells, summary.residual, summary.residual_images)
    assert (two.mean, two.seeds) == (53, 2)
    assert two.half == pytest.approx(1.96 * 100 * ((2 * 0.24 + 0.25 + 0.62 * 0.38) / 100) ** 0.5 / 4)
    cells += [record("fine_tune", "fog", 2, right=44), record("fine_tune", "contrast", 2, right=62)]
    three = summary.over_seeds(cells, summary.residual, summary.residual_images)
    means = [50, 56, 53]
    assert three.mean == fmean(means)
    assert three.half == pytest.approx(t.ppf(0.975, 2) * stdev(means) / 3**0.5)
    assert str(summary.over_seeds([], summary.residual, summary.residual_images)) == "-"


def test_paper_s_tables_are_whole_and_agree_with_its_means() -> None:
    counts = failure_counts()
    assert tuple(counts) == CORRUPTIONS
    assert counts["brightness"]["allconvnet"] == 4614
    for table in (residual_accuracy(), clustering_ablation()):
        for figures in table.values():
            assert fmean(figures[c] for c in CORRUPTIONS) == pytest.approx(figures["mean"], abs=0.02)
    means = {row: f["mean"] for (network, row), f in residual_accuracy().items() if network == "lstm"}
    assert (means["deeprepair"], means["augmix"]) == (44.59, 40.68)


def test_tables_put_the_paper_s_figures_beside_ours_for_the_corruptions_shown() -> None:
    records = [record(r, c, right=n) for r, n in (("oracle", 80), ("style_guided", 60)) for c in ("fog", "contrast")]
    records.append(record("style_guided_no_clusters", "fog", right=55))
    found = {table.name: table for table in tables(records)}
    assert list(found) == [
        f"{name}-allconvnet" for name in ("overview", "table3", "table4-residual", "table4-disjoint", "table5")
    ]
    overview = {row[0]: dict(zip(found["overview-allconvnet"].columns, row, strict=True)) for row in
                found["overview-allconvnet"].rows}  # fmt: skip
    assert list(overview) == ["oracle", "style_guided", "style_guided_no_clusters (1 of 2 corruptions)"]
    assert overview["style_guided"]["of oracle"] == "75%"
    assert overview["style_guided"]["change"] == "+1.0"
    assert overview["style_guided"]["others"] == "10.0"
    assert found["table3-allconvnet"].rows[0] == ("fog", "140", "90.0", "80.0", "70.0", "60.0", "50.0", "9207")
    residual = {row[0]: row[1:] for row in found["table4-residual-allconvnet"].rows}
    assert residual["style_guided"] == ("60.0", "60.0", "60.0")
    assert residual["style_guided_no_clusters"] == ("55.0", "-", "-")  # no mean over what is not there
    assert residual["paper: deeprepair"] == ("49.1", "34.9", "42.0")
    disjoint = {row[0]: row[1:] for row in found["table4-disjoint-allconvnet"].rows}
    assert disjoint["style_guided"] == ("50.0", "50.0", "50.0")
    ablation = {row[0]: row[1:] for row in found["table5-allconvnet"].rows}
    assert ablation["paper: no_cluster"][:2] == ("49.9", "33.8")
    assert ablation["style_guided"][:2] == ("60.0", "60.0")


def test_budgets_and_sizes_of_the_batch_are_never_mixed() -> None:
    records = [
        record("fine_tune", "fog", right=right, budget_steps=budget, failure_batch=batch)
        for right, budget, batch in ((40, 200, 40), (60, 50, 40), (80, 200, 1000))
    ]
    assert list(summary.groups(records[:1])) == ["allconvnet"]
    assert list(summary.groups(records[:2])) == ["allconvnet-50-steps", "allconvnet-200-steps"]
    found = {table.name: table.rows[0][1] for table in tables(records) if table.name.startswith("overview")}
    assert {name: shown.split(" ")[0] for name, shown in found.items()} == {
        "overview-allconvnet-50-steps-40-failures": "60.0",
        "overview-allconvnet-200-steps-40-failures": "40.0",
        "overview-allconvnet-200-steps-1000-failures": "80.0",
    }


def test_report_is_the_same_from_its_own_json_lines(tmp_path: Path) -> None:
    source = tmp_path / "records.jsonl"
    records = [record(r, c, s) for r in ("oracle", "style_guided") for c in ("fog", "contrast") for s in (0, 1)]
    source.write_text("".join(json.dumps(r) + "\n" for r in records))
    page, found = write_report(source, tmp_path / "first")
    again, _ = write_report(tmp_path / "first" / "results.jsonl", tmp_path / "second")
    assert page.read_text() == again.read_text()
    assert "8 cells; seeds 0, 1; budget 50 steps" in page.read_text()
    pictures = sorted(p.name for p in (tmp_path / "first").glob("*.png"))
    assert pictures == [f"fig{k}-allconvnet.png" for k in (3, 4, 5, 6)]
    for table in found:
        rows = list(csv.reader((tmp_path / "first" / f"{table.name}.csv").read_text().splitlines()))
        assert tuple(map(tuple, rows)) == (table.columns, *table.rows)


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NoBenchmarkResults):
        write_report(tmp_path, tmp_path / "report")


@pytest.mark.long
def test_commands_run_and_report_and_log_to_mlflow(tmp_path: Path, registry: str) -> None:
    runner, out = CliRunner(), str(tmp_path / "grid")
    options = ["--preset=digits", f"--out={out}", "--cells=contrast", "--cells=none,fine_tune", "--workers=1"]
    result = runner.invoke(main, ["bench", "run", *options, "--budget=15", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"done": 2}
    result = runner.invoke(main, ["bench", "report", f"--from={out}", "--mlflow=benchmarks", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    rows = {row["rival"]: row for row in found["tables"]["table4-residual-resnet_tiny"]}
    assert float(rows["fine_tune"]["contrast"]) > float(rows["none"]["contrast"]) == 0

    run = mlflow.get_run(found["mlflow_run"])
    records, failed = read_records(Path(out))
    assert failed == []
    trained = next(r for r in records if r["cell"]["rival"] == "fine_tune")
    assert run.data.metrics["resnet_tiny.fine_tune.residual"] == pytest.approx(summary.residual(trained))
    names = {artifact.path for artifact in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
    assert {"report.md", "results.jsonl"} <= names
    (model,) = mlflow.search_logged_models([run.info.experiment_id], output_format="list")
    assert model.name == "champion-resnet_tiny"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["run", "--preset=cpu"], "has no data"),
        (["run", "--preset=digits", "--seeds=a"], "whole numbers"),
        (["run", "--preset=digits", "--cells=fogg"], "fogg"),
    ],
)
def test_wrong_options_are_usage_errors(options: list[str], says: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["bench", *options[:1], f"--out={tmp_path}", *options[1:]])
    assert result.exit_code == 2
    assert says in result.stderr
