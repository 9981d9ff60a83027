"""The drawings of the review page: where every mark stands, in pixels."""

from __future__ import annotations

from typing import Any

import pytest
from report_helpers import Page, attributes

from repairops.report.figures import Curve, Scale, dumbbell, interval, line_chart, nice_ticks, share_bar


def interval_parts(**overrides: Any) -> tuple[str, Scale]:
    values: dict[str, Any] = {
        "lower": 0.4,
        "point": 0.5,
        "upper": 0.6,
        "limit": 0.3,
        "label": "x",
        "domain": (0.0, 1.0),
    }
    svg = str(interval(**(values | {"width": 212} | overrides)))
    return svg, Scale(0.0, 1.0, 6.0, 206.0)


def test_interval_stands_at_the_right_pixels() -> None:
    svg, _ = interval_parts()
    (band,) = attributes(svg, "range")
    assert (float(band["x"]), float(band["width"])) == (86.0, 40.0)  # 6 + 0.4 * 200, 0.2 * 200
    assert float(attributes(svg, "point")[0]["cx"]) == 106.0
    assert float(attributes(svg, "limit")[0]["x1"]) == 66.0
    (shaded,) = attributes(svg, "forbidden")
    assert (float(shaded["x"]), float(shaded["width"])) == (6.0, 60.0)


def test_interval_shades_the_upper_side_of_a_ceiling() -> None:
    (shaded,) = attributes(interval_parts(allowed="below")[0], "forbidden")
    assert (float(shaded["x"]), float(shaded["width"])) == (66.0, 140.0)


def test_interval_without_a_domain_holds_all_its_values() -> None:
    svg = str(interval(-0.2, -0.1, 0.1, -0.5, label="x", zero=True, width=212))
    # values -0.5..0.1, a quarter of 0.6 on each side: -0.65..0.25 on 200 pixels
    assert float(attributes(svg, "limit")[0]["x1"]) == pytest.approx(6 + 200 * 0.15 / 0.9, abs=0.01)
    assert float(attributes(svg, "zero")[0]["x1"]) == pytest.approx(6 + 200 * 0.65 / 0.9, abs=0.01)
    assert float(attributes(svg, "point")[0]["cx"]) == pytest.approx(6 + 200 * 0.55 / 0.9, abs=0.01)


def test_interval_leaves_out_what_is_missing() -> None:
    nan = float("nan")
    assert interval(0.1, nan, 0.3, 0.2, label="x") == ""
    svg, _ = interval_parts(lower=None, limit=nan)
    assert len(attributes(svg, "point")) == 1
    assert attributes(svg, "range") + attributes(svg, "limit") + attributes(svg, "forbidden") == []


@pytest.mark.parametrize(("lower", "upper"), [(0.0, 0.01), (0.98, 1.0), (0.5, 0.5), (0.0, 1.0), (0.02, 0.6)])
def test_interval_labels_stay_inside_and_apart(lower: float, upper: float) -> None:
    svg, _ = interval_parts(lower=lower, point=(lower + upper) / 2, upper=upper, texts=("00.0%", "99.9%"))
    spans = []
    for text in [a for a in Page(svg).all("text") if a["y"] == "45"]:
        x, width = float(text["x"] or 0), 6.2 * 5
        spans.append((x - {"start": 0, "middle": width / 2, "end": width}[text["text-anchor"] or ""], width))
    (first, width), (second, _) = spans
    assert first >= 0
    assert second + width <= 212
    assert first + width <= second + 0.1


def test_scale_clamps_and_survives_an_empty_range() -> None:
    scale = Scale(0.0, 10.0, 100.0, 200.0)
    assert [scale(v) for v in (-5, 0, 2.5, 10, 99)] == [100.0, 100.0, 125.0, 200.0, 200.0]
    assert Scale(1.0, 1.0, 0.0, 50.0)(1.0) == 25.0


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0.0, 0.5, 1.0]),
        (0.41, 0.94, [0.4, 0.6, 0.8, 1.0]),
        (3.0, 3.0, [2.5, 3.0, 3.5]),
        (0, 970, [0, 500, 1000]),
    ],
)
def test_ticks_are_round_and_enclose(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_dumbbell_joins_before_and_after() -> None:
    svg = str(dumbbell(0.9, 0.7, (0.5, 1.0), label="x", beyond=True, width=214))
    assert float(attributes(svg, "ring")[0]["cx"]) == 167.0  # 7 + 0.8 * 200
    assert float(attributes(svg, "dot")[0]["cx"]) == 87.0
    assert attributes(svg, "beyond")
    assert dumbbell(None, 0.7, (0.5, 1.0), label="x", beyond=False) == ""


def test_share_bar_is_divided_in_proportion() -> None:
    bars = Page(str(share_bar([(3, "accepted"), (1, "refused")], label="x", width=200))).all("rect")
    assert [(float(b["x"] or 0), float(b["width"] or 0)) for b in bars] == [(0.0, 150.0), (150.0, 50.0)]
    assert share_bar([(0, "accepted"), (float("nan"), "refused")], label="x") == ""


def test_a_missing_epoch_breaks_the_line() -> None:
    svg = str(line_chart([1, 2, 3, 4, 5], [Curve("loss", "c1", (1.0, 0.5, None, 0.25, 0.2))], label="x"))
    lines = Page(svg).all("polyline")
    assert [len((line["points"] or "").split()) for line in lines] == [2, 2]
    assert len(attributes(svg, "mark")) == 4


def test_chart_points_stand_at_the_right_pixels() -> None:
    svg = str(line_chart([1, 2, 3], [Curve("loss", "c1", (0.0, 0.5, 1.0))], label="x", marked=2, marked_text="chosen"))
    (line,) = Page(svg).all("polyline")
    assert line["points"] == "52,166 236,92 420,18"  # x 44 + 8 to 440 - 12 - 8; y from 200 - 34 up to 18
    assert float(attributes(svg, "chosen")[0]["x1"]) == 236.0
    assert line_chart([1], [Curve("loss", "c1", (float("nan"),))], label="x") == ""


def test_a_single_epoch_is_a_point() -> None:
    svg = str(line_chart([1], [Curve("loss", "c1", (0.4,))], label="x"))
    assert Page(svg).all("polyline") == []
    assert len(attributes(svg, "mark")) == 1
