"""What the page, the description and the first screen say of a guard."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import report_helpers as made
from evidence_helpers import page_evidence
from report_helpers import Page, attributes, record

from repairops.gate.evidence import RoutedCounts
from repairops.report import GuardedImage, Pictures, guard, render_markdown, render_page, render_terminal
from repairops.report.charts import mirrored_histogram
from repairops.report.formats import megabytes
from repairops.report.pictures import MAX_ROUTED, PICTURE_BYTES

ONE = {"name": "one", "separation": 0.98}


def section(values: dict[str, Any], pictures: Pictures | None = None) -> str:
    html = render_page(record(values), pictures or Pictures())
    return html.split('<section id="guard"')[1].split("</section>")[0]


def shown(values: dict[str, Any]) -> dict[str, Any]:
    return guard.guard(record(values), Pictures())


def form_of(chosen: int, repaired: dict[int, float] | None = None, kept: bool = True) -> dict[str, Any]:
    """The forms of `made.tried_forms`, another one chosen; repaired: other shares by row."""
    rows = made.tried_forms()
    for number, row in enumerate(rows):
        row |= {"chosen": number == chosen, "kept": row["kept"] and (kept or row["form"] == "one")}
        row |= {"repaired": (repaired or {}).get(number, row["repaired"])}
    return {"name": rows[chosen]["form"], "separation": 0.981, "note": "", "tried": rows}


def test_the_first_screen_and_the_description_say_the_form() -> None:
    guarded, one = made.guarded(), made.passed() | {"form": form_of(0)}
    sentence = (
        "Champion and repaired network, guarded: the repaired network answers for 3.0% of the clean images and 92.0% "
        "of the failures."
    )
    for values, said in ((guarded, sentence), (one, "One network."), (made.passed(), "One network.")):
        html = render_page(record(values))
        assert said in Page(html.split("</header>")[0]).text
        assert said in render_markdown(record(values)).splitlines()
    for name in ("nothing_to_repair", "error", "rejected"):
        values = made.OUTCOMES[name]()
        assert "network" not in Page(render_page(record(values)).split("</header>")[0]).text
        assert 'id="guard"' not in render_page(record(values))
    early = {k: v for k, v in guarded.items() if k not in ("evidence", "verdict")}
    assert "Champion and repaired network, guarded." in render_markdown(record(early))


def test_of_the_forms_that_were_tried_the_chosen_one_the_best_of_each_kind_and_one_network_are_shown() -> None:
    values = made.guarded() | {"form": form_of(3)}
    rows = [(row["name"].split(",")[0], row["figures"].low) for row in shown(values)["tried"]]
    assert [low for _, low in rows] == [0.62, 0.0, 0.41, 0.41]  # 0.2 repairs most, and does not keep clean accuracy
    assert shown(values)["left_off"] == 2
    assert "Guarded, one network for each image (chosen)" in section(values)
    kept = made.guarded() | {"form": form_of(1, kept=False)}
    assert [row["figures"].low for row in shown(kept)["tried"]] == [0.41, 0.0, 0.2, 0.41]


def test_one_network_comes_with_its_reason() -> None:
    def why(**values: Any) -> str:
        return str(shown(made.passed() | values)["why"])

    assert why(form={**ONE, "note": "The guard cannot tell."}) == "The guard cannot tell."
    assert "no guarded form keeps clean accuracy" in why(form=form_of(0, kept=False))
    alike = why(form=form_of(0, {0: 0.57}))
    assert "repairs 57.0% of the validation failures, within a standard error of the 58.0%" in alike
    assert alike in Page(section(made.passed() | {"form": form_of(0, {0: 0.57})})).text
    off = made.passed()["config"] | {"guard": {"mode": "off", "max_routed": 0.1}}
    assert why(config=off) == "No guard was fitted, since guard.mode is off."
    assert "did not get beyond the champion" in why(training={"best_epoch": 0})
    assert why(config={}) == ""
    assert "Who answers" not in section(made.passed() | {"form": form_of(0)}, made.pictures())


def test_who_answers_by_class_cluster_and_source() -> None:
    html = section(made.guarded())
    text = Page(html).text
    assert "300 of 10,000 clean images (3.0%)" in text
    assert "276 of 300 held-out failures (92.0%)" in text
    assert "the others keep the champion's wrong answer" in text
    every = made.judged(replace(page_evidence(), routing=replace(made.routing(), heldout=RoutedCounts(300, 300))))
    assert "wrong answer" not in section(made.guarded() | every)
    found = shown(made.guarded())["routing"]
    assert [row["name"] for row in found["classes"]][:3] == ["truck", "ship", "horse"]  # most clean images routed first
    assert found["classes"][0]["heldout"] == {**found["classes"][0]["heldout"], "said": "–", "share": "–"}
    assert found["classes"][2]["heldout"]["said"] == "29 of 36"
    titles = {part["title"]: [row["name"] for row in part["rows"]] for part in found["parts"]}
    fewest_first = {"Cluster": ["4", "3", "2", "1", "0"], "Source": ["camera 8", "camera 7"]}
    assert titles == fewest_first | {"Slice": ["dusk", "day"]}  # of clean images most first
    many = replace(made.routing(), clean_by_class={f"class {i}": RoutedCounts(i, 100) for i in range(60)})
    values = made.guarded() | made.judged(replace(page_evidence(), routing=many))
    assert "Of 28 more classes a smaller share is routed" in section(values)


def test_the_histogram_has_both_sets_and_the_limits() -> None:
    svg = mirrored_histogram((3, 0, 1), (0, 0, 4), (0.5, 0.75), label="Both sets.")
    clean, heldout = attributes(svg, "accepted"), attributes(svg, "refused")
    heights = [[round(float(bar["height"] or 0), 1) for bar in bars] for bars in (clean, heldout)]
    assert heights == [[round(90 * 0.75**0.5, 1), 0.0, 45.0], [0.0, 0.0, 90.0]]
    middle = float(attributes(svg, "zero")[0]["y1"] or 0)
    assert all(float(bar["y"] or 0) + float(bar["height"] or 0) == middle for bar in clean)
    assert all(float(bar["y"] or 0) == middle for bar in heldout)
    first, second = (float(line["x1"] or 0) for line in attributes(svg, "chosen"))
    assert (round(first - 44), round(second - 44)) == (192, 288)
    assert mirrored_histogram((0, 0), (), (0.5,), label="Nothing.") == ""
    drawn = shown(made.guarded())["routing"]["histogram"]
    assert "290 of 10,000 clean images above a half, 282 of 300 held-out failures above a half" in drawn


def test_cost_of_serving_stands_once() -> None:
    html = render_page(record(made.guarded()))
    assert html.count(">Champion, p99<") == 1
    assert "ONNX files: champion 11.2 MB, challenger 22.6 MB." in section(made.guarded())
    rows = [(row["who"], row["figures"].batch_size) for row in shown(made.guarded())["serving"]]
    answers = ("Champion answers", "Repaired network answers")
    assert rows == [(who, size) for who in answers for size in (1, 32)]
    assert (megabytes(340_000), megabytes(None), megabytes(12_340_000)) == ("0.34 MB", "–", "12.3 MB")
    alone = made.guarded() | {"artifacts": {"onnx_sha256": "ab", "onnx_bytes": 1_000_000}}
    assert "ONNX files: challenger 1.0 MB." in section(alone)


def test_pictures_of_both_mistakes_are_cut_and_have_words() -> None:
    image = np.zeros((3, 300, 300), np.uint8)
    away = [GuardedImage(image, "cat", "dog", 0.99)] * 30
    pictures = Pictures(routed_clean=away, missed_failures=[GuardedImage(image, "ship", "ship", 0.01)] * 30)
    found = Page(section(made.guarded(), pictures))
    assert len(found.all("img")) == 2 * MAX_ROUTED
    assert {a["alt"] for a in found.all("img")} == {
        "Clean image of cat that is routed",
        "Failure of ship that is not routed",
    }
    assert "99.0%cat → dog" in found.text
    assert 3 * pictures.side**2 * 2 * MAX_ROUTED <= PICTURE_BYTES


def test_several_looks_are_said_with_their_shares_and_repairs_wherever_the_verdict_is() -> None:
    values = made.passed()
    summary = "two looks: 60% additive noise, 336 images / 40% contrast reduced, 224 images"
    values["style"] = {"name": "fitted_degradation", "clusters": [], "summary": summary}
    counts = page_evidence().heldout_by_cluster.values()
    said = f"The failures have {summary}. Repaired of each: {', '.join(f'{c.repaired} of {c.total}' for c in counts)}."
    assert said in Page(render_page(record(values))).text
    assert said in render_markdown(record(values))
    assert said in render_terminal(record(values))
    assert "231 (41%) of the repair failures" in Page(render_page(record(values))).text
    for text in (render_page(record(made.passed())), render_terminal(record(made.passed()))):
        assert "The failures have" not in text
