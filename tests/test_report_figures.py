"""The drawings of the review page: where every mark stands, in pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from report_helpers import Page, attributes

from repairops.gate.evidence import ConfidenceBin
from repairops.outcome.sections import Point
from repairops.report.charts import Curve, line_chart, reliability_chart, trade_off_chart
from repairops.report.figures import (
    POINTS,
    RATES,
    WHOLE_RATES,
    axis,
    dots,
    dumbbell,
    interval,
    row,
    row_scale,
    share_bar,
)
from repairops.report.formats import percent
from repairops.report.svg import Scale, nice_ticks, share_ticks


def interval_parts(**overrides: Any) -> tuple[str, Scale]:
    values: dict[str, Any] = {
        "values": (0.4, 0.5, 0.6),
        "limit": 0.3,
        "unit": RATES,
        "label": "x",
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
    (shaded,) = attributes(interval_parts(unit=replace(RATES, allowed="below"))[0], "forbidden")
    assert (float(shaded["x"]), float(shaded["width"])) == (66.0, 140.0)


def test_interval_without_a_domain_holds_all_its_values() -> None:
    svg = str(interval((-0.2, -0.1, 0.1), -0.5, POINTS, label="x", width=212))
    # values -0.5..0.1, a quarter of 0.6 on each side: -0.65..0.25 on 200 pixels
    assert float(attributes(svg, "limit")[0]["x1"]) == pytest.approx(6 + 200 * 0.15 / 0.9, abs=0.01)
    assert float(attributes(svg, "zero")[0]["x1"]) == pytest.approx(6 + 200 * 0.65 / 0.9, abs=0.01)
    assert float(attributes(svg, "point")[0]["cx"]) == pytest.approx(6 + 200 * 0.55 / 0.9, abs=0.01)


def test_interval_leaves_out_what_is_missing() -> None:
    nan = float("nan")
    assert interval((0.1, nan, 0.3), 0.2, RATES, label="x") == ""
    svg, _ = interval_parts(values=(None, 0.5, 0.6), limit=nan)
    assert len(attributes(svg, "point")) == 1
    assert attributes(svg, "range") + attributes(svg, "limit") + attributes(svg, "forbidden") == []


@pytest.mark.parametrize(("lower", "upper"), [(0.0, 0.01), (0.98, 1.0), (0.5, 0.5), (0.0, 1.0), (0.02, 0.6)])
def test_interval_labels_stay_inside_and_apart(lower: float, upper: float) -> None:
    svg, _ = interval_parts(values=(lower, (lower + upper) / 2, upper))
    spans = []
    words = [percent(lower), percent(upper)]
    for text, said in zip([a for a in Page(svg).all("text") if a["y"] == "45"], words, strict=True):
        x, width = float(text["x"] or 0), 6.2 * len(said)
        spans.append((x - {"start": 0, "middle": width / 2, "end": width}[text["text-anchor"] or ""], width))
    (first, width), (second, last) = spans
    assert first >= 0
    assert second + last <= 212
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
    svg = str(line_chart([1, 2, 3], [Curve("loss", "c1", (0.0, 0.5, 1.0))], label="x", chosen=2))
    (line,) = Page(svg).all("polyline")
    assert line["points"] == "52,166 236,92 420,18"  # x 44 + 8 to 440 - 12 - 8; y from 200 - 34 up to 18
    assert float(attributes(svg, "chosen")[0]["x1"]) == 236.0
    assert line_chart([1], [Curve("loss", "c1", (float("nan"),))], label="x") == ""


def test_a_single_epoch_is_a_point() -> None:
    svg = str(line_chart([1], [Curve("loss", "c1", (0.4,))], label="x"))
    assert Page(svg).all("polyline") == []
    assert len(attributes(svg, "mark")) == 1


def test_rows_of_a_table_share_their_scale() -> None:
    scale, ticks = row_scale([-5.0, 0.4, 1.9], width=320)
    assert ticks == [-6, -4, -2, 0, 2]
    svg = row((-1.0, -0.5, 0.5), -5.0, scale, label="x", zero=True)
    at = {value: 10 + (value + 6) / 8 * 300 for value in (-5.0, -1.0, -0.5, 0.0, 0.5)}
    (bar,) = attributes(svg, "range")
    assert (float(bar["x"]), float(bar["width"])) == (at[-1.0], at[0.5] - at[-1.0])
    assert float(attributes(svg, "point")[0]["cx"]) == at[-0.5]
    assert float(attributes(svg, "zero")[0]["x1"]) == at[0.0]
    (limit,) = attributes(svg, "limit")
    (shaded,) = attributes(svg, "forbidden")
    assert (float(limit["x1"]), float(limit["y1"]), float(limit["y2"])) == (at[-5.0], 0, 34)  # they join over the rows
    assert (float(shaded["x"]), float(shaded["width"])) == (10, at[-5.0] - 10)
    assert not attributes(svg, "beyond")
    assert attributes(row((-9, -5.5, -1), -5.0, scale, label="x"), "beyond")
    assert row((0.1, None, 0.3), None, scale, label="x") == ""


def test_the_axis_of_a_table_stands_over_its_rows() -> None:
    scale, ticks = row_scale([-5.0, 1.9], width=320)
    svg = axis(scale, ticks, -5.0, "margin −5", lambda v: f"{v:g}")
    texts = {a["x"]: a for a in Page(svg).all("text")}
    assert len(texts) == len(ticks) + 1
    assert float(attributes(svg, "limit")[0]["x1"]) == scale(-5.0)
    assert Page(svg).all("svg")[0]["aria-label"] == "Scale from -6 to 2; margin −5."
    assert len(Page(axis(scale, ticks, None, "", str)).all("text")) == len(ticks)


def test_dots_beyond_the_limit_are_marked() -> None:
    svg = dots([0.2, 0.5, None, 0.9], 0.3, WHOLE_RATES, label="x", width=212)
    assert [float(a["cx"]) for a in attributes(svg, "dot")] == [46.0, 106.0, 186.0]
    assert [float(a["cx"]) for a in attributes(svg, "beyond")] == [46.0]
    assert Page(svg).text == "20%90%at least 30%"
    assert dots([None, float("nan")], 0.3, RATES, label="x") == ""


def test_shares_get_ticks_of_shares() -> None:
    assert share_ticks(1.0, 1.0) == pytest.approx([0.994, 0.996, 0.998, 1.0])
    assert share_ticks(0.0, 0.93) == [0.0, 0.5, 1.0]
    assert all(0 <= tick <= 1 for low in (0.0, 0.5, 0.999) for tick in share_ticks(low, 1.0))


def test_reliability_is_drawn_with_areas_by_the_number_of_images() -> None:
    before = [ConfidenceBin(0.4, 0.6, 100, 25, 0.5)]
    after = [ConfidenceBin(0.4, 0.6, 400, 200, 0.5), ConfidenceBin(0.8, 1.0, 4, 3, 0.9), ConfidenceBin(0, 0.2, 0, 0, 0)]
    svg = reliability_chart(before, after, label="x", side=260)
    (ring,) = attributes(svg, "ring")
    assert (ring["cx"], ring["cy"], ring["r"]) == ("168", "184.5", "5")  # x 44..292, y 242..12; 2 + 6 * sqrt(1/4)
    assert [dot["r"] for dot in attributes(svg, "dot")] == ["8", "2.6"]  # none for the empty bin
    assert reliability_chart([], [], label="x") == ""


def test_the_trade_off_stands_at_the_right_pixels() -> None:
    points = [Point(1.0, 0.90, 1.0, False), Point(0.5, 0.94, 0.5, True), Point(0.0, 0.94, 0.0, False)]
    svg = trade_off_chart(points, width=480, height=240)
    (line,) = Page(svg).all("polyline")
    assert line["points"] == "58,22 258,22 458,202"  # by weight; x 50 + 8 to 480 - 14 - 8, y from 240 - 38 up to 22
    (chosen,) = attributes(svg, "point")
    assert (chosen["cx"], chosen["cy"]) == ("258", "22")
    assert "chosen, weight 0.5" in Page(svg).text
    assert trade_off_chart(points[:1]) == ""
